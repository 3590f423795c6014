"""Displacement fields as OME-Zarr 0.6: their metadata, written and read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import dask.array
import numpy as np
import xarray as xr
import zarr

from xdreg.errors import InputError, StoreError
from xdreg.grid import Grid
from xdreg.ome_checks import check_array
from xdreg.ome_metadata import open_group, read_metadata
from xdreg.ome_zarr_writer import ome_units
from xdreg.paths import as_address

if TYPE_CHECKING:
    import os
    from collections.abc import Container, Mapping
    from pathlib import Path

#: Diagnostics are read whole; no run has more blocks.
MOST_BLOCKS = 10**8


def write_field_metadata(
    path: Path, name: str, grid: Grid, chunks: tuple[int, ...]
) -> str:
    """Make an OME-Zarr 0.6 scene that holds a displacement field and nothing else.

    The scene's coordinate systems ``fixed`` and ``moving`` are related by a
    ``displacements`` transformation; its field is a multiscale image with a
    ``displacement`` axis, at ``coordinateTransformations/NAME``.

    Parameters
    ----------
    path
        Directory to make.
    name
        Name of the field below the store.
    grid
        Geometry of the field.
    chunks : (ndim + 1,)
        Chunk shape of the array, components first.

    Returns
    -------
    str
        Path of the array ``(ndim, *grid.shape)`` below the store; it is to be filled.
    """
    import ngff_zarr as nz

    units = ome_units(grid.units)
    dims = ("c", *grid.dims)
    image = nz.NgffImage(
        dask.array.zeros((grid.ndim, *grid.shape), dtype=np.float32, chunks=chunks),
        dims,
        dict(zip(dims, (1.0, *grid.spacing), strict=True)),
        dict(zip(dims, (0.0, *grid.origin), strict=True)),
        name,
        dict.fromkeys(grid.dims, units) if units else None,
        axes_types={"c": nz.AxisType.Displacement},
    )
    location = f"coordinateTransformations/{name}"
    nz.to_ome_zarr(
        str(path / location),
        nz.to_multiscales(
            image, scale_factors=[], chunks=dict(zip(dims, chunks, strict=True))
        ),
        version="0.6",
        metadata_only=True,
        consolidate_metadata=False,
    )
    axes = [
        nz.v06.zarr_metadata.Axis(name=d, type="space", unit=units) for d in grid.dims
    ]
    transform = nz.Displacements(path=location, interpolation="linear")
    transform.name = "fixed to moving"
    transform.input = nz.CoordinateSystemIdentifier(name="fixed")
    transform.output = nz.CoordinateSystemIdentifier(name="moving")
    scene = nz.NgffScene(
        images={},
        coordinateTransformations=[transform],
        coordinateSystems=[
            nz.CoordinateSystem(name="fixed", axes=axes),
            nz.CoordinateSystem(name="moving", axes=axes),
        ],
    )
    nz.to_ome_zarr(
        str(path), scene, version="0.6", overwrite=False, consolidate_metadata=False
    )
    group = zarr.open_group((path / location).absolute(), mode="r+")
    metadata: Any = group.attrs["ome"]
    return f"{location}/{metadata['multiscales'][0]['datasets'][0]['path']}"


def read_field_metadata(
    path: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None
) -> tuple[zarr.Array[Any], Grid]:
    """Return the displacement array of a field store, and its geometry.

    Raises
    ------
    StoreError
        If there is no store, or it holds no displacement field.
    """
    address = as_address(path)
    group = open_group(address, storage_options)
    location = _field_location(address, dict(group.attrs))
    child = child_group(address, group, location)
    _, levels, _ = read_metadata(f"{address}/{location}", child)
    array, image = levels[0]
    dims = tuple(str(d) for d in image.dims)[1:]
    units = (image.axes_units or {}).get(dims[0])
    if image.dims[0] != "c" or array.shape[0] != len(dims):
        msg = (
            f"{address}: the field has the dimensions {image.dims} and the shape "
            f"{array.shape}; expected 'c' first, with a component for each other one"
        )
        raise StoreError(msg)
    try:
        grid = Grid(
            dims,
            array.shape[1:],
            tuple(float(image.scale[d]) for d in dims),
            tuple(float(image.translation[d]) for d in dims),
            units,
        )
    except InputError as error:
        msg = f"{address}: the field has no usable geometry: {error}"
        raise StoreError(msg) from error
    return array, grid


def child_group(address: str, group: zarr.Group, path: str) -> zarr.Group:
    """Return a group below a store, or say that it is missing or damaged."""
    try:
        child = group[path]
    # Zarr does not say what it raises on metadata of the wrong form.
    except Exception as error:
        msg = f"{address} has no group {path[:80]!r}, or it is damaged"
        raise StoreError(msg) from error
    if not isinstance(child, zarr.Group):
        msg = f"{address}: {path!r} is an array; expected a group"
        raise StoreError(msg)
    return child


def _field_location(address: str, attrs: Mapping[str, Any]) -> str:
    """Return the path of the field that a scene's first displacements name."""
    ome = attrs.get("ome")
    scene = ome.get("scene") if isinstance(ome, dict) else None
    steps = scene.get("coordinateTransformations") if isinstance(scene, dict) else None
    found = [
        step
        for step in (steps if isinstance(steps, list) else ())
        if isinstance(step, dict) and step.get("type") == "displacements"
    ]
    if not found:
        msg = (
            f"{address} holds no displacement field; open images with "
            "xdreg.open_ome_zarr"
        )
        raise StoreError(msg)
    location = found[0].get("path")
    if not isinstance(location, str) or not location:
        msg = f"{address} has displacements without a path; correct the metadata"
        raise StoreError(msg)
    if ".." in location.split("/") or location.startswith("/"):
        msg = f"{address}: the field's path {location!r} leaves the store"
        raise StoreError(msg)
    return location


def parsed(address: str, key: str, text: Any) -> dict[str, Any]:
    """Return the object that an attribute of a field store holds as JSON."""
    try:
        value = json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        value = text
    if not isinstance(value, dict):
        msg = f"{address}: the attribute {key} is {text!r}; expected an object as JSON"
        raise StoreError(msg)
    return value


def read_extra(
    address: str,
    storage_options: Mapping[str, Any] | None,
    path: str,
    kinds: Container[str],
) -> xr.Dataset:
    """Read the diagnostics beside a field, where a store has any.

    Parameters
    ----------
    address, storage_options
        The store.
    path
        The group in it.
    kinds
        What ``block_…`` variables are called; others are left alone.
    """
    group = open_group(address, storage_options)
    try:
        if path not in group:
            return xr.Dataset()
        for name, array in child_group(address, group, path).arrays():
            check_array(address, f"{path}/{name}", array)
            if array.size > MOST_BLOCKS:
                msg = f"{address}: {name} has the shape {array.shape}, too many blocks"
                raise StoreError(msg)
        extra = xr.open_zarr(
            address,
            group=path,
            consolidated=False,
            chunks=None,
            storage_options=dict(storage_options or {}) or None,
        )
        names = [
            str(n) for n in extra.data_vars if _is_diagnostic(str(n), extra, kinds)
        ]
        chosen: xr.Dataset = extra[names]
        return chosen.load()
    except StoreError:
        raise
    # Neither xarray nor Zarr says what it raises on metadata of the wrong form.
    except Exception as error:
        msg = f"{address}: the group {path!r} beside the field is damaged: {error}"
        raise StoreError(msg) from error


def _is_diagnostic(name: str, extra: xr.Dataset, kinds: Container[str]) -> bool:
    """Tell diagnostics of blocks from what else lies there."""
    prefix, found, kind = name.rpartition("block_")
    dims = [str(dim) for dim in extra[name].dims]
    return (
        bool(found)
        and kind in kinds
        and all(dim.startswith(f"{prefix}block_") for dim in dims)
    )
