"""Displacement fields as OME-Zarr 0.6: written, and what xdreg keeps beside them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask.array
import numpy as np
import xarray as xr
import zarr

from xdreg.errors import StoreError
from xdreg.stores.ome_checks import check_array
from xdreg.stores.ome_metadata import open_group
from xdreg.stores.ome_writer import compression, ome_units

if TYPE_CHECKING:
    from collections.abc import Container, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from xdreg.grid import Grid

#: Diagnostics are read whole; no run has more blocks.
MOST_BLOCKS = 10**8


@dataclass(frozen=True)
class FieldPart:
    """A field of vectors that is to be written, and what is applied after it.

    Parameters
    ----------
    name
        Name of the field.
    grid
        Its geometry.
    chunks : (ndim + 1,)
        Chunk shape, components first.
    matrix : (ndim + 1, ndim + 1), optional
        An affine transform to apply to where the vectors lead.
    """

    name: str
    grid: Grid
    chunks: tuple[int, ...]
    matrix: NDArray[np.float64] | None = None

    @property
    def location(self) -> str:
        """The field's group below the store."""
        return f"coordinateTransformations/{self.name}"


def write_field_metadata(
    path: Path, forward: FieldPart, inverse: FieldPart | None = None
) -> list[str]:
    """Make an OME-Zarr 0.6 scene that holds displacement fields and nothing else.

    The scene's coordinate systems ``fixed`` and ``moving`` are related by one
    transformation: ``displacements``; a ``sequence`` of them and an ``affine``; or,
    with an inverse, a ``bijection`` of two of these. A field is a multiscale image
    with a ``displacement`` axis, at ``coordinateTransformations/NAME``.

    Parameters
    ----------
    path
        Directory to make.
    forward
        The field fixed → moving.
    inverse
        The field moving → fixed.

    Returns
    -------
    list of str
        Paths of the arrays ``(ndim, *grid.shape)`` below the store, of ``forward`` and
        of ``inverse``; they are to be filled.
    """
    import ngff_zarr as nz

    parts = [forward] if inverse is None else [forward, inverse]
    arrays = [_lay_out_field(path, part) for part in parts]
    grid = forward.grid
    units = ome_units(grid.units)
    axes = [
        nz.v06.zarr_metadata.Axis(name=d, type="space", unit=units) for d in grid.dims
    ]
    transform = _transformation(forward)
    if inverse is not None:
        transform = nz.v06.zarr_metadata.Bijection(
            forward=transform, inverse=_transformation(inverse)
        )
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
    return arrays


def _transformation(part: FieldPart) -> Any:
    """Return the transformation of one direction."""
    import ngff_zarr as nz

    displacements = nz.Displacements(path=part.location, interpolation="linear")
    if part.matrix is None:
        return displacements
    affine = nz.v06.zarr_metadata.Affine(affine=part.matrix[:-1].tolist())
    return nz.v06.zarr_metadata.TransformSequence(
        transformations=[displacements, affine], name=None
    )


def _lay_out_field(path: Path, part: FieldPart) -> str:
    """Make the multiscale of a field, and return the path of its array."""
    import ngff_zarr as nz

    grid = part.grid
    units = ome_units(grid.units)
    dims = ("c", *grid.dims)
    image = nz.NgffImage(
        dask.array.zeros(
            (grid.ndim, *grid.shape), dtype=np.float32, chunks=part.chunks
        ),
        dims,
        dict(zip(dims, (1.0, *grid.spacing), strict=True)),
        dict(zip(dims, (0.0, *grid.origin), strict=True)),
        part.name,
        dict.fromkeys(grid.dims, units) if units else None,
        axes_types={"c": nz.AxisType.Displacement},
    )
    multiscales = nz.to_multiscales(
        image, scale_factors=[], chunks=dict(zip(dims, part.chunks, strict=True))
    )
    # It says how levels were made, and there are none.
    multiscales.metadata.type = multiscales.metadata.metadata = None
    multiscales.method = None
    nz.to_ome_zarr(
        str(path / part.location),
        multiscales,
        version="0.6",
        metadata_only=True,
        consolidate_metadata=False,
        **compression("0.6"),
    )
    group = zarr.open_group((path / part.location).absolute(), mode="r+")
    metadata: Any = group.attrs["ome"]
    return f"{part.location}/{metadata['multiscales'][0]['datasets'][0]['path']}"


def store_chunks(data: dask.array.Array, store: Any) -> dask.array.Array:
    """Return the writing of an array in its own chunks, lazily.

    Parameters
    ----------
    data
        What to write; its chunks are whole chunks of the store.
    store : array-like
        Where to.

    Returns
    -------
    Array of bool, one element per chunk
    """
    return dask.array.map_blocks(
        _write_chunk,
        data,
        store,
        chunks=tuple((1,) * n for n in data.numblocks),
        dtype=bool,
        meta=np.empty((0,) * data.ndim, bool),
    )


def _write_chunk(
    values: NDArray[np.float32], store: Any, block_info: Any = None
) -> NDArray[np.bool_]:
    store[tuple(slice(*ends) for ends in block_info[0]["array-location"])] = values
    return np.ones((1,) * values.ndim, bool)


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
