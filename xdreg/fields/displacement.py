"""Displacements as arrays: read from a field, and made to one."""

from __future__ import annotations

import json
from typing import Any

import dask.array
import numpy as np
import xarray as xr
import zarr

from xdreg.coordinates import coordinates
from xdreg.errors import InputError
from xdreg.fields.field import COMPONENT, facing, field_grid, fixed_grid, moving_grid
from xdreg.fields.ome_vectors import VectorStep
from xdreg.fields.reader import FieldReader
from xdreg.grid import Grid, check_real, normalise_units, unit_ratio
from xdreg.numerics import kernels
from xdreg.stores.ome_zarr import lazy_zarr
from xdreg.stores.readers import source_of

#: Chunks of a computed field, in points per axis.
FIELD_CHUNK = {2: 512, 3: 96}


def open_displacement(field: xr.Dataset) -> FieldReader:
    """Return a reader of a field's displacement."""
    grid = field_grid(field)
    return FieldReader(source_of(ordered_displacement(field, grid)), grid)


def ordered_displacement(field: xr.Dataset, grid: Grid) -> xr.DataArray:
    """Return the displacement with its axes and components in dims order."""
    if "t" in field["displacement"].dims:
        msg = (
            f"the field has {field.sizes['t']} time points; choose one, for example "
            "field.isel(t=0)"
        )
        raise InputError(msg)
    displacement = field["displacement"].transpose(COMPONENT, *grid.dims)
    if COMPONENT not in displacement.coords:
        return displacement
    if displacement[COMPONENT].values.tolist() == list(grid.dims):
        return displacement
    return displacement.sel({COMPONENT: list(grid.dims)})


def displacement_array(source: Any, grid: Grid) -> xr.DataArray:
    """Return an array ``(ndim, *grid.shape)`` as a chunked DataArray.

    Dask and Zarr arrays stay lazy; the latter get one Dask chunk per stored chunk.
    """
    check_real(source.dtype, "the displacement")
    if isinstance(source, zarr.Array):
        source = lazy_zarr(source)
    elif not isinstance(source, np.ndarray | dask.array.Array):
        source = dask.array.from_array(source, chunks=source.chunks, inline_array=False)
    array = xr.DataArray(source, dims=(COMPONENT, *grid.dims), coords=coordinates(grid))
    array = array.assign_coords({COMPONENT: list(grid.dims)})
    array.attrs["long_name"] = "displacement, fixed to moving"
    if grid.units is not None:
        array.attrs["units"] = grid.units
    return array


def stored_displacement(step: VectorStep) -> Any:
    """Return displacements ``(ndim, *grid.shape)`` float32, lazily if converted."""
    plain = step.axis == 0 and step.kind == "displacement"
    if plain and step.array.dtype == np.float32:
        return step.array
    values = dask.array.moveaxis(lazy_zarr(step.array), step.axis, 0)
    if step.kind == "coordinate":
        places = np.ix_(*(step.grid.axis(dim) for dim in step.grid.dims))
        values = dask.array.stack(
            [part - place for part, place in zip(values, places, strict=True)]
        )
    return values.rechunk({0: -1}).astype(np.float32)


def make_field(
    displacement: Any,
    grid: Grid,
    fixed: Grid | None = None,
    moving: Grid | None = None,
) -> xr.Dataset:
    """Return a field Dataset without diagnostics.

    Parameters
    ----------
    displacement : array (component, [z], y, x), physical units
        Fixed → moving, components in the order of the dims.
    grid
        Geometry of the displacement.
    fixed
        Geometry of the fixed image; by default ``grid``.
    moving
        Geometry of the moving image, if known.
    """
    field = xr.Dataset({"displacement": displacement_array(displacement, grid)})
    field.attrs["fixed_grid"] = json.dumps((fixed or grid).to_dict())
    if moving is not None:
        field.attrs["moving_grid"] = json.dumps(moving.to_dict())
    return field


def identity(field: xr.Dataset) -> xr.Dataset:
    """Return a field on the same grids that moves nothing in the world.

    It has no diagnostics and no provenance.
    """
    grid, moving = field_grid(field), facing(field)
    grids = {k: v for k, v in field.attrs.items() if k in ("fixed_grid", "moving_grid")}
    zeros = xr.zeros_like(field["displacement"])
    same = xr.Dataset({"displacement": zeros}, attrs=grids)
    if grid.direction == moving.direction:
        return same
    turn = moving.from_world @ grid.to_world
    values = kernels.resample_displacement(
        *kernels.affine_displacement(turn, grid), grid
    )
    return same.assign(displacement=displacement_array(values, grid))


def in_units(field: xr.Dataset, units: str | None) -> xr.Dataset:
    """Return a field in another unit of length, lazily."""
    own = field_grid(field)
    if own.units == normalise_units(units):
        return field
    ratio = unit_ratio(own.units, units, "the field")
    data = dask.array.asarray(ordered_displacement(field, own).data)
    moving = moving_grid(field)
    result = make_field(
        (data * ratio).astype(np.float32),
        own.to_units(units),
        fixed_grid(field).to_units(units),
        None if moving is None else moving.to_units(units),
    )
    return result.assign_attrs({**field.attrs, **result.attrs})
