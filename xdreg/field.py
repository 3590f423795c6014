"""The displacement field as an xarray Dataset: its layout, its measures, its store.

``displacement (component, [z], y, x)`` float32 in physical units, on a grid of its own;
``block_…`` variables hold the diagnostics of the last deformable stage, and
``stageN_block_…`` those of the others. A field maps fixed points onto moving ones and
is interpolated linearly.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dask
import dask.array
import numpy as np
import xarray as xr

from xdreg.blocks import BlockStatus
from xdreg.coordinates import coordinates, grid_of
from xdreg.errors import InputError, StoreError
from xdreg.grid import Grid, normalise_units
from xdreg.ome_fields import (
    parsed,
    read_extra,
    read_field_metadata,
    write_field_metadata,
)
from xdreg.ome_zarr_writer import write_ome_zarr
from xdreg.options import Linear
from xdreg.outputs import new_store
from xdreg.paths import as_address
from xdreg.readers import FieldReader, source_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from xdreg.planning import PlannedStage

COMPONENT = "component"

#: Chunks of a field that is made from others, in points per axis.
FIELD_CHUNK = {2: 512, 3: 96}

_DIAGNOSTICS = {
    "status": "what became of the block",
    "similarity_before": "similarity of the window before the stage",
    "similarity_after": "similarity of the window after the stage",
    "min_jacobian": "smallest Jacobian determinant of the block's update",
    "max_update": "largest displacement of the block's update",
    "attempts": "times that the method was tried, the second time with safer options",
    "disagreement": "RMS difference of the block's patch from the blend",
    "neighbour_difference": "median difference from its neighbours' patches, in voxels",
    "seconds": "time the block took",
}

#: Those of an inverse, see `xdreg.inverse_field`.
INVERSE_DIAGNOSTICS = {
    "status": "what became of the block",
    "mean_residual": "mean distance of there and back again from its points",
    "max_residual": "largest distance of there and back again from its points",
    "outside": "share of points that come from outside the fixed image",
    "folded": "share of points without an inverse, for the field folds",
}


def is_field(dataset: object) -> bool:
    """Return whether a Dataset is laid out as a displacement field."""
    return (
        isinstance(dataset, xr.Dataset)
        and "displacement" in dataset
        and COMPONENT in dataset["displacement"].dims
    )


def field_grid(field: xr.Dataset) -> Grid:
    """Return the geometry of a field's own grid.

    Raises
    ------
    InputError
        If the Dataset is no field.
    """
    if not is_field(field):
        msg = (
            "a field is a Dataset with a variable 'displacement' of a dimension "
            f"'component', got {_outline(field)}; "
            "fields come from register, xdreg.open_field or xdreg.from_itk_transform"
        )
        raise InputError(msg)
    return grid_of(field["displacement"].isel({COMPONENT: 0}, drop=True), "field")


def _outline(value: object) -> str:
    if isinstance(value, xr.Dataset):
        return f"one with the variables {list(value.data_vars)}"
    return type(value).__name__


def fixed_grid(field: xr.Dataset) -> Grid:
    """Return the geometry of the fixed image that a field was made for."""
    own = field_grid(field)
    stored = field.attrs.get("fixed_grid")
    return own if stored is None else Grid.from_dict(json.loads(stored))


def moving_grid(field: xr.Dataset) -> Grid | None:
    """Return the geometry of the moving image that a field was made for, if known."""
    stored = field.attrs.get("moving_grid")
    return None if stored is None else Grid.from_dict(json.loads(stored))


def open_displacement(field: xr.Dataset) -> FieldReader:
    """Return the reader of a field's displacement."""
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
    """Return a displacement as a chunked DataArray.

    Parameters
    ----------
    source : array (ndim, *grid.shape)
        A Zarr array stays lazy, one Dask chunk per stored chunk; so does a Dask array.
    grid
        Geometry.
    """
    if not isinstance(source, np.ndarray | dask.array.Array):
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
    displacement : array (ndim, *grid.shape), physical units
        Fixed → moving, component order as the dims.
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
    """Return a field on the same grids that moves nothing."""
    field_grid(field)
    return field.assign(displacement=xr.zeros_like(field["displacement"]))


def assemble_field(
    reader: FieldReader,
    records: Sequence[Mapping[str, NDArray[np.float32]]],
    stages: Sequence[PlannedStage],
    attrs: Mapping[str, str],
) -> xr.Dataset:
    """Put a run's result together.

    Parameters
    ----------
    reader
        The last stage's field.
    records
        Per stage, its diagnostics by name, each ``(*counts)``.
    stages
        The stages.
    attrs
        Provenance.
    """
    field = xr.Dataset({"displacement": displacement_array(reader.source, reader.grid)})
    deformable = [i for i, s in enumerate(stages) if not isinstance(s.options, Linear)]
    last = deformable[-1] if deformable else len(stages) - 1
    for number, record in enumerate(records):
        prefix = "" if number == last else f"stage{number}_"
        dims = [f"{prefix}block_{dim}" for dim in reader.grid.dims]
        for name, long_name in _DIAGNOSTICS.items():
            values = record[name].astype(np.int8 if name == "status" else np.float32)
            variable = xr.Variable(dims, values, {"long_name": long_name})
            if name == "status":
                variable.attrs |= status_attrs()
            field[f"{prefix}block_{name}"] = variable
    return field.assign_attrs(attrs)


def status_attrs() -> dict[str, Any]:
    """Return the attributes that tell what the numbers of a status mean."""
    used = [s for s in BlockStatus if s is not BlockStatus.PENDING]
    return {
        "flag_values": [int(s) for s in used],
        "flag_meanings": " ".join(s.meaning for s in used),
    }


def status_counts(field: xr.Dataset) -> dict[str, int]:
    """Return how many blocks of the last deformable stage ended in each status."""
    if "block_status" not in field:
        return {}
    values, counts = np.unique(field["block_status"].values, return_counts=True)
    known = {int(status): status.meaning for status in BlockStatus}
    return {
        known.get(int(v), f"status {v}"): int(c)
        for v, c in zip(values, counts, strict=True)
    }


_EXTRA = "xdreg"
_FIELD_PATH = "displacement"


def save_field(
    field: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> None:
    """Write a field as OME-Zarr 0.6, with RFC-5 transformation metadata.

    The store is a scene of two coordinate systems, ``fixed`` and ``moving``, related
    by a ``displacements`` transformation whose field is a multiscale image of its own.
    Diagnostics and provenance lie beside it, in the group ``xdreg``.

    Parameters
    ----------
    field : Dataset
        A displacement field.
    path
        Directory or URL to write; it appears whole or not at all.
    overwrite
        Replace what is there.
    storage_options
        For a URL, passed to fsspec.

    Raises
    ------
    StoreError
        If something is there and ``overwrite`` is false, or it cannot be written.
    """
    grid = field_grid(field)
    displacement = ordered_displacement(field, grid)
    data = dask.array.asarray(displacement.data).astype(np.float32)
    extra = field.drop_vars(["displacement", COMPONENT, *grid.dims], errors="ignore")
    extra = extra.assign_attrs(displacement_attrs=json.dumps(displacement.attrs))
    with new_store(
        path, overwrite=overwrite, storage_options=storage_options
    ) as output:
        # A field in memory may be one chunk, of which every window would be read.
        most = (grid.ndim, *(FIELD_CHUNK[grid.ndim],) * grid.ndim)
        chunks = tuple(min(a, b) for a, b in zip(data.chunksize, most, strict=True))
        location = write_field_metadata(output.folder, _FIELD_PATH, grid, chunks)
        store: Any = output.array(location)
        data = data.rechunk(store.chunks)
        written = dask.array.map_blocks(
            _write_chunk,
            data,
            store,
            chunks=tuple((1,) * n for n in data.numblocks),
            dtype=bool,
            meta=np.empty((0,) * data.ndim, bool),
        )
        # Together, for diagnostics of a lazy field come from the tasks that make it.
        _, extra = dask.compute(written, extra)
        extra.to_zarr(output.folder, group=_EXTRA, mode="a", consolidated=False)


def _write_chunk(
    values: NDArray[np.float32], store: Any, block_info: Any = None
) -> NDArray[np.bool_]:
    store[tuple(slice(*ends) for ends in block_info[0]["array-location"])] = values
    return np.ones((1,) * values.ndim, bool)


def save(
    data: xr.Dataset | xr.DataArray, path: str | os.PathLike[str], **options: Any
) -> None:
    """Write a field, or an image with its pyramid, as OME-Zarr.

    Parameters
    ----------
    data : Dataset or DataArray
        A displacement field, or an image ``([t], [c], [z], y, x)``.
    path
        Directory or URL to write; it appears whole or not at all.
    **options
        ``overwrite`` and, for a URL, ``storage_options``; for images also ``version``,
        ``levels``, ``chunks``, ``labels``, ``name``.

    Raises
    ------
    StoreError
        If something is there and ``overwrite`` is not given.
    """
    if isinstance(data, xr.Dataset):
        save_field(data, path, **options)
    else:
        write_ome_zarr(data, path, **options)


def from_itk_transform(transform: Any, grid: Grid | xr.DataArray) -> xr.Dataset:
    """Return an ITK transform as a field.

    Parameters
    ----------
    transform : itk.Transform
        Fixed → moving, in the unit of the grid.
    grid : Grid or DataArray
        Where to sample it: the grid of the fixed image, or a coarser one.

    Returns
    -------
    Dataset
        ``displacement (component, [z], y, x)``.

    Raises
    ------
    InputError
        If the transform is of another dimension than the grid.
    """
    from xdreg.itk_bridge import displacement_from_itk  # itk loads slowly

    target = grid if isinstance(grid, Grid) else grid_of(grid, "grid")
    return make_field(displacement_from_itk(transform, target), target)


def open_field(
    path: str | os.PathLike[str],
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Open a field that `save_field` wrote, lazily; values are the same to the bit.

    Parameters
    ----------
    path
        Path or URL of the store.
    storage_options
        For remote stores, passed to fsspec, for example ``{"anon": True}``.

    Returns
    -------
    Dataset

    Raises
    ------
    StoreError
        If there is no such store, or it holds no displacement field.
    """
    source, grid = read_field_metadata(path, storage_options)
    address = as_address(path)
    extra = read_extra(
        address, storage_options, _EXTRA, _DIAGNOSTICS | INVERSE_DIAGNOSTICS
    )
    attrs = {"fixed_grid": json.dumps(grid.to_dict())} | dict(extra.attrs)
    stored = parsed(address, "displacement_attrs", attrs.pop("displacement_attrs", {}))
    fixed = parsed(address, "fixed_grid", attrs["fixed_grid"])
    try:
        Grid.from_dict(fixed)
        normalise_units(stored.get("units"))
    except (InputError, KeyError, TypeError, ValueError, OverflowError) as error:
        msg = f"{address}: fixed_grid is {fixed!r}; expected a grid: {error}"
        raise StoreError(msg) from error
    if grid.units is None:
        # OME-Zarr has no word for units such as pixels.
        grid = replace(grid, units=stored.get("units"))
    field = xr.Dataset({"displacement": displacement_array(source, grid)})
    field["displacement"].attrs |= stored
    return field.merge(extra).assign_attrs(attrs)
