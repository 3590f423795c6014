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
from xdreg.diagnostics import DIAGNOSTICS, INVERSE_DIAGNOSTICS, block_variables
from xdreg.errors import InputError, StoreError
from xdreg.grid import Grid, normalise_units
from xdreg.ome_fields import (
    FieldPart,
    parsed,
    read_extra,
    store_chunks,
    write_field_metadata,
)
from xdreg.ome_metadata import open_group
from xdreg.ome_scenes import read_steps
from xdreg.ome_vectors import VectorStep
from xdreg.ome_zarr_writer import write_ome_zarr
from xdreg.options import Linear
from xdreg.outputs import new_store
from xdreg.paths import as_address
from xdreg.progress import working
from xdreg.readers import FieldReader, source_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from xdreg.planning import PlannedStage

COMPONENT = "component"

#: Chunks of a field that is made from others, in points per axis.
FIELD_CHUNK = {2: 512, 3: 96}


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
        field = field.assign(block_variables(record, reader.grid.dims, prefix))
    return field.assign_attrs(attrs)


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


#: Groups for diagnostics and provenance, of a field and of its inverse.
_EXTRA = {False: "xdreg", True: "xdreg_inverse"}
_NAMES = {False: "displacement", True: "inverse"}


def save_field(
    field: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    inverse: xr.Dataset | None = None,
    affine: bool = False,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> None:
    """Write a field as OME-Zarr 0.6, with RFC-5 transformation metadata.

    The store is a scene of two coordinate systems, ``fixed`` and ``moving``, and holds
    no images. They are related by ``displacements``, whose field is a multiscale image
    of its own. Diagnostics and provenance lie beside it, in the group ``xdreg``.

    Parameters
    ----------
    field : Dataset
        A displacement field.
    path
        Directory or URL to write; it appears whole or not at all.
    inverse : Dataset, optional
        The field moving → fixed, see `xdreg.inverse`: written too, so that the scene
        has a ``bijection``, and readers need no inversion.
    affine
        Write a ``sequence`` of displacements and the field's affine part, for readers
        that go on with it beyond the field's grid. Rounded to single precision, where
        without it values stay the same to the bit.
    overwrite
        Replace what is there.
    storage_options
        For a URL, passed to fsspec.
    progress
        Show how far it is, on a terminal and in a notebook.

    Raises
    ------
    InputError
        If the inverse is no field, or of other dimensions or units.
    StoreError
        If something is there and ``overwrite`` is false, or it cannot be written.
    """
    pairs = [(False, field)] if inverse is None else [(False, field), (True, inverse)]
    parts: list[FieldPart] = []
    data: list[dask.array.Array] = []
    extras: list[xr.Dataset] = []
    for back, one in pairs:
        grid = field_grid(one)
        if (grid.dims, grid.units) != (field_grid(field).dims, field_grid(field).units):
            msg = (
                f"the inverse is in {grid.dims} {grid.units}; expected as the field is"
            )
            raise InputError(msg)
        displacement = ordered_displacement(one, grid)
        extra = one.drop_vars(["displacement", COMPONENT, *grid.dims], errors="ignore")
        extras.append(
            extra.assign_attrs(displacement_attrs=json.dumps(displacement.attrs))
        )
        matrix = None
        if affine:
            from xdreg.composition import split_affine  # it composes fields

            matrix, rest = split_affine(one)
            displacement = rest["displacement"]
        values = dask.array.asarray(displacement.data).astype(np.float32)
        data.append(values)
        # A field in memory may be one chunk, of which every window would be read.
        most = (grid.ndim, *(FIELD_CHUNK[grid.ndim],) * grid.ndim)
        chunks = tuple(min(a, b) for a, b in zip(values.chunksize, most, strict=True))
        parts.append(FieldPart(_NAMES[back], grid, chunks, matrix))
    with (
        working("writing", enabled=progress),
        new_store(path, overwrite=overwrite, storage_options=storage_options) as output,
    ):
        written = []
        for values, place in zip(
            data, write_field_metadata(output.folder, *parts), strict=True
        ):
            store: Any = output.array(place)
            written.append(store_chunks(values.rechunk(store.chunks), store))
        # Together, for diagnostics of a lazy field come from the tasks that make it.
        _, found = dask.compute(written, extras)
        for (back, _), extra in zip(pairs, found, strict=True):
            extra.to_zarr(
                output.folder, group=_EXTRA[back], mode="a", consolidated=False
            )


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
        ``overwrite``, ``progress`` and, for a URL, ``storage_options``; for fields also
        ``inverse`` and ``affine``; for images ``version``, ``levels``, ``chunks``,
        ``labels``, ``name``.

    Raises
    ------
    StoreError
        If something is there and ``overwrite`` is not given.
    """
    if isinstance(data, xr.Dataset):
        save_field(data, path, **options)
    else:
        write_ome_zarr(data, path, **options)


def open_field(
    path: str | os.PathLike[str],
    *,
    inverse: bool = False,
    name: str | None = None,
    like: Any = None,
    storage_options: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Open a field that `xdreg.save` or another tool wrote as OME-Zarr, lazily.

    Scenes and transformations of version 0.6 and of its drafts: displacements and
    coordinates, in sequences with affine transformations, and in bijections. A lone
    field that `xdreg.save` wrote is the same to the bit.

    Parameters
    ----------
    path
        Path or URL of the store.
    inverse
        Return the field moving → fixed of a bijection.
    name
        Which transformation, where a store declares several.
    like : Dataset, DataArray, DataTree or Grid, optional
        Where the field is wanted; needed only for a sequence that does not start with
        displacements.
    storage_options
        For remote stores, passed to fsspec, for example ``{"anon": True}``.

    Returns
    -------
    Dataset

    Raises
    ------
    StoreError
        If there is no such store, or it holds no displacement field that can be used.
    InputError
        If ``like`` is needed, or its units do not convert.
    """
    address = as_address(path)
    group = open_group(address, storage_options)
    steps = read_steps(address, group, inverse=inverse, name=name)
    extra = read_extra(
        address,
        storage_options,
        _EXTRA[inverse],
        DIAGNOSTICS | INVERSE_DIAGNOSTICS,
    )
    attrs = dict(extra.attrs)
    stored = parsed(address, "displacement_attrs", attrs.pop("displacement_attrs", {}))
    fixed = parsed(address, "fixed_grid", attrs.get("fixed_grid", "{}"))
    try:
        if fixed:
            Grid.from_dict(fixed)
        normalise_units(stored.get("units"))
    except (InputError, KeyError, TypeError, ValueError, OverflowError) as error:
        msg = f"{address}: fixed_grid is {fixed!r}; expected a grid: {error}"
        raise StoreError(msg) from error
    parts: list[Any] = []
    for step in steps:
        if isinstance(step, VectorStep):
            # OME-Zarr has no word for units such as pixels.
            grid = replace(step.grid, units=step.grid.units or stored.get("units"))
            parts.append(make_field(step.displacement(), grid))
        else:
            parts.append(step)
    field = parts[0]
    if len(parts) > 1 or like is not None:
        from xdreg.joining import joined  # it composes fields

        units = next(field_grid(p).units for p in parts if isinstance(p, xr.Dataset))
        field = joined(parts, like, units, address)
    field["displacement"].attrs |= stored
    result: xr.Dataset = field.merge(extra)
    return result.assign_attrs({**field.attrs, **attrs})
