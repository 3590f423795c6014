"""Fields in OME-Zarr stores: saving and opening."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dask
import dask.array
import numpy as np
import xarray as xr

from xdreg.errors import InputError, StoreError
from xdreg.fields.diagnostics import DIAGNOSTICS, INVERSE_DIAGNOSTICS
from xdreg.fields.field import (
    COMPONENT,
    FIELD_CHUNK,
    field_grid,
    make_field,
    ordered_displacement,
)
from xdreg.fields.ome_scene_reader import read_steps
from xdreg.fields.ome_scene_writer import (
    FieldPart,
    parsed,
    read_extra,
    store_chunks,
    write_field_metadata,
)
from xdreg.fields.ome_vectors import VectorStep
from xdreg.grid import Grid, normalise_units
from xdreg.stores.ome_metadata import open_group
from xdreg.stores.ome_writer import write_ome_zarr
from xdreg.stores.outputs import new_store
from xdreg.stores.paths import as_address
from xdreg.stores.progress import working

if TYPE_CHECKING:
    from collections.abc import Mapping


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
            from xdreg.fields.composition import split_affine  # it composes fields

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
        from xdreg.fields.composition import as_one_field  # it composes fields

        units = next(field_grid(p).units for p in parts if isinstance(p, xr.Dataset))
        field = as_one_field(parts, like, units, address)
    field["displacement"].attrs |= stored
    result: xr.Dataset = field.merge(extra)
    return result.assign_attrs({**field.attrs, **attrs})
