"""Displacement fields in OME-Zarr stores: saving and opening.

A store is a scene (`xdreg.fields.ome_scene_writer`). The groups ``xdreg`` and
``xdreg_inverse`` in it hold diagnostics and provenance, which no other reader needs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dask
import dask.array
import numpy as np
import xarray as xr
from zarr.storage import LocalStore

from xdreg.coordinates import DIRECTION
from xdreg.errors import InputError
from xdreg.fields.composition import as_one_field, split_affine
from xdreg.fields.displacement import (
    FIELD_CHUNK,
    make_field,
    ordered_displacement,
    stored_displacement,
)
from xdreg.fields.field import COMPONENT, field_grid, is_field
from xdreg.fields.ome_scene_writer import FieldPart, write_field_metadata
from xdreg.fields.ome_vectors import VectorStep
from xdreg.fields.provenance import attrs_for
from xdreg.fields.series_store import (
    check_plain,
    is_series,
    open_series,
    save_series,
)
from xdreg.fields.stored import EXTRA, read_stored
from xdreg.stores.apart import check_apart
from xdreg.stores.named_files import absolute
from xdreg.stores.nodes import open_group
from xdreg.stores.ome_writer import write_ome_zarr
from xdreg.stores.outputs import new_store
from xdreg.stores.ownership import ARRAYS, SERIES
from xdreg.stores.paths import as_address
from xdreg.stores.progress import working

#: Names of the fields, by ``inverse``.
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
    """Write a field as OME-Zarr 0.6, as `xdreg.save` does.

    Parameters
    ----------
    field : Dataset
        A displacement field.
    path
        Directory or URL to write; it appears whole or not at all.
    inverse
        The field moving → fixed, see `xdreg.inverse`. It makes the transformation a
        ``bijection``, so that readers need no inversion.
    affine
        Write a ``sequence`` of displacements and the field's affine part, for readers
        that continue it beyond the field's grid. This rounds to single precision;
        without it, values stay the same to the bit.
    overwrite
        Replace a field or image.
    storage_options
        For a URL, passed to fsspec.
    progress
        Show progress, on a terminal and in a notebook.

    Raises
    ------
    InputError, StoreError
        As in `xdreg.save`.
    """
    if is_field(field) and is_series(field):
        check_plain(inverse=inverse, affine=affine)
        save_series(
            field,
            path,
            overwrite=overwrite,
            storage_options=storage_options,
            progress=progress,
        )
        return
    pairs = [(False, field)] if inverse is None else [(False, field), (True, inverse)]
    place = as_address(path)
    prepared = [
        _prepared(one.assign_attrs(attrs_for(one, place)), field, back, affine=affine)
        for back, one in pairs
    ]
    check_apart(path, field, inverse)
    with (
        working("writing", enabled=progress),
        new_store(path, overwrite=overwrite, storage_options=storage_options) as output,
    ):
        places = write_field_metadata(output.folder, *(p.layout for p in prepared))
        written = []
        for part, place in zip(prepared, places, strict=True):
            store: Any = output.array(place)
            values = part.values.rechunk(store.chunks)
            written.append(dask.array.store(values, store, lock=False, compute=False))
        # Together: diagnostics of a lazy field come from the tasks that make it.
        _, extras = dask.compute(written, [part.extra for part in prepared])
        for (back, _), extra in zip(pairs, extras, strict=True):
            made = LocalStore(output.folder)
            extra.to_zarr(made, group=EXTRA[back], mode="a", consolidated=False)


@dataclass(frozen=True)
class _Prepared:
    """A field to write: layout, displacement, and diagnostics with provenance."""

    layout: FieldPart
    values: dask.array.Array
    extra: xr.Dataset


def _prepared(
    one: xr.Dataset, field: xr.Dataset, back: bool, *, affine: bool
) -> _Prepared:
    """Return the parts of a field, or of its inverse, that are written."""
    grid, own = field_grid(one), field_grid(field)
    if (grid.dims, grid.units) != (own.dims, own.units):
        msg = f"the inverse is in {grid.dims} {grid.units}; expected as the field is"
        raise InputError(msg)
    displacement = ordered_displacement(one, grid)
    extra = one.drop_vars(
        ["displacement", COMPONENT, DIRECTION, *grid.dims], errors="ignore"
    )
    extra = extra.assign_attrs(displacement_attrs=json.dumps(displacement.attrs))
    extra.attrs[ARRAYS] = [str(name) for name in extra.variables]
    matrix = None
    if affine:
        matrix, rest = split_affine(one)
        displacement = rest["displacement"]
    values = dask.array.asarray(displacement.data).astype(np.float32)
    # A field in memory may be one chunk, which every window would read.
    most = (grid.ndim, *(FIELD_CHUNK[grid.ndim],) * grid.ndim)
    chunks = tuple(min(a, b) for a, b in zip(values.chunksize, most, strict=True))
    return _Prepared(FieldPart(_NAMES[back], grid, chunks, matrix), values, extra)


def save(
    data: xr.Dataset | xr.DataArray, path: str | os.PathLike[str], **options: Any
) -> None:
    """Write a field, or an image with its pyramid, as OME-Zarr.

    A field is written as OME-Zarr 0.6 with RFC-5 transformation metadata: a scene of
    two coordinate systems, ``fixed`` and ``moving``, related by ``displacements``. It
    holds the field as a multiscale image, and no other images. Diagnostics and
    provenance are kept in the group ``xdreg``. The field of a time series is written as
    Zarr arrays that other tools do not know; ``.isel(t=3)`` is the field of one frame.

    Parameters
    ----------
    data : Dataset or DataArray
        A displacement field, or an image ``([t], [c], [z], y, x)``.
    path
        Directory or URL to write; it appears whole or not at all.
    **options
        ``overwrite``, ``progress`` and, for a URL, ``storage_options``; for images
        ``version``, ``levels``, ``chunks``, ``shards``, ``labels``, ``name``; for
        fields ``inverse`` and ``affine``. They are explained at ``to_ome_zarr`` of
        `ImageAccessor <xdreg.accessor.ImageAccessor>` and of `FieldAccessor
        <xdreg.accessor.FieldAccessor>`.

    Raises
    ------
    InputError
        If the inverse is no field, or has other dimensions or units.
    StoreError
        If the path exists and ``overwrite`` is not given, it holds anything but one
        image or field, it is or holds what ``data`` is read from or lies in it, or it
        cannot be written.
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

    Scenes and transformations of version 0.6 are read: displacements and coordinates,
    in sequences with affine transformations, and in bijections. A field that
    `xdreg.save` wrote without ``affine`` comes back to the bit, and so does that of a
    time series.

    Parameters
    ----------
    path
        Path or URL of the store.
    inverse
        Return the field moving → fixed of a bijection.
    name
        Name of the transformation, if a store declares several.
    like : Dataset, DataArray, DataTree or Grid, optional
        Grid to sample the field on; needed only for a sequence that does not start with
        displacements.
    storage_options
        For remote stores, passed to fsspec, for example ``{"anon": True}``.

    Returns
    -------
    Dataset

    Raises
    ------
    StoreError
        If there is no such store, or it holds no displacement field that can be used,
        for example one of a draft of RFC-5.
    InputError
        If ``like`` is needed, or its units do not convert.
    """
    address = as_address(path)
    group = open_group(address, storage_options)
    if SERIES in group.attrs:
        check_plain(inverse=inverse, name=name, like=like)
        return open_series(address, group)
    stored = read_stored(address, group, inverse=inverse, name=name)
    parts: list[Any] = [
        make_field(stored_displacement(step), stored.grid(step))
        if isinstance(step, VectorStep)
        else step
        for step in stored.steps
    ]
    field = parts[0]
    if len(parts) > 1 or like is not None:
        units = next(field_grid(p).units for p in parts if isinstance(p, xr.Dataset))
        field = as_one_field(parts, like, units, address)
    field["displacement"].attrs |= stored.attrs
    result: xr.Dataset = field.merge(stored.extra)
    result = result.assign_attrs({**field.attrs, **stored.extra.attrs})
    # Where xarray keeps it, too. An attribute could come from the store.
    result.encoding["source"] = absolute(address)
    return result
