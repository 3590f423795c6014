"""Layout of the displacement field Dataset.

``displacement (component, [z], y, x)`` is float32 in physical units, on its own grid.
``block_…`` variables hold the diagnostics of the last deformable stage,
``stageN_block_…`` those of the others. A field maps fixed points onto moving ones and
is interpolated linearly.
"""

from __future__ import annotations

import json
from typing import Any

import dask
import dask.array
import numpy as np
import xarray as xr
import zarr

from xdreg.coordinates import coordinates, grid_of
from xdreg.errors import InputError, StoreError
from xdreg.fields.reader import FieldReader
from xdreg.grid import Grid, check_real, normalise_units, unit_ratio
from xdreg.numerics import kernels
from xdreg.stores.ome_zarr import lazy_zarr
from xdreg.stores.readers import source_of

COMPONENT = "component"

#: Chunks of a computed field, in points per axis.
FIELD_CHUNK = {2: 512, 3: 96}


def is_field(dataset: object) -> bool:
    """Return whether a Dataset is laid out as a displacement field."""
    return (
        isinstance(dataset, xr.Dataset)
        and "displacement" in dataset
        and COMPONENT in dataset["displacement"].dims
    )


def field_grid(field: xr.Dataset) -> Grid:
    """Return the geometry of a field's own grid, or raise if it is no field."""
    if not is_field(field):
        msg = (
            "a field is a Dataset with a variable 'displacement' that has a dimension "
            f"'component', got {_outline(field)}; "
            "fields come from register, xdreg.open_field or xdreg.from_itk_transform"
        )
        raise InputError(msg)
    displacement = field["displacement"]
    check_real(displacement.dtype, "the displacement")
    sizes = {d: n for d, n in displacement.sizes.items() if d != COMPONENT}
    # Without the values: even to index a lazy array takes long if it has many chunks.
    places = displacement.coords.to_dataset().drop_vars(COMPONENT, errors="ignore")
    values = np.broadcast_to(np.float32(0), tuple(sizes.values()))
    return grid_of(places.assign(values=(tuple(sizes), values))["values"], "field")


def _outline(value: object) -> str:
    """Describe a value for an error message."""
    if isinstance(value, xr.Dataset):
        return f"one with the variables {list(value.data_vars)}"
    return type(value).__name__


def fixed_grid(field: xr.Dataset) -> Grid:
    """Return the geometry of a field's fixed image."""
    own = field_grid(field)
    return _stored_grid(field, "fixed_grid") or own


def moving_grid(field: xr.Dataset) -> Grid | None:
    """Return the geometry of a field's moving image, if known."""
    return _stored_grid(field, "moving_grid")


def facing(field: xr.Dataset) -> Grid:
    """Return a grid with the direction that a field leads to: its moving image's."""
    own = field_grid(field)
    return moving_grid(field) or own


def _stored_grid(field: xr.Dataset, name: str) -> Grid | None:
    """Return the geometry of an image from an attribute, which may hold anything."""
    stored = field.attrs.get(name)
    if stored is None:
        return None
    try:
        return Grid.from_dict(json.loads(stored))
    except (
        LookupError,
        TypeError,
        ArithmeticError,
        ValueError,
        RecursionError,
    ) as error:
        msg = (
            f"the field's attribute {name!r} is damaged, expected a grid as JSON: "
            f"{str(stored)[:80]!r}; remove it with field.attrs.pop({name!r})"
        )
        raise StoreError(msg) from error


def open_displacement(field: xr.Dataset) -> FieldReader:
    """Return a reader of a field's displacement."""
    grid = field_grid(field)
    return FieldReader(source_of(ordered_displacement(field, grid)), grid)


def ordered_displacement(field: xr.Dataset, grid: Grid) -> xr.DataArray:
    """Return the displacement with its axes and components in dims order."""
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
    """Return a field on the same grids that moves nothing in the world."""
    grid, moving = field_grid(field), facing(field)
    same = field.assign(displacement=xr.zeros_like(field["displacement"]))
    if grid.direction == moving.direction:
        return same
    turn = moving.from_world @ grid.to_world
    values = kernels.resample_displacement(
        *kernels.affine_displacement(turn, grid), grid
    )
    return field.assign(displacement=displacement_array(values, grid))


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
