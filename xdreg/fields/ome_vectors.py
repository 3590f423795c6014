"""Fields of vectors in OME-Zarr 0.6: multiscales with an axis of components."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import zarr

from xdreg.errors import InputError, StoreError
from xdreg.grid import SPATIAL_DIMS, Grid, normalise_units
from xdreg.stores.ome_checks import check_unit
from xdreg.stores.ome_metadata import (
    axes_of,
    composed_scale,
    level_array,
    multiscale_of,
    steps_of,
)

#: Number of chunks from which they must have that many numbers: each takes a
#: millisecond to read, and a graph of millions is not made in an hour.
MANY_CHUNKS, LEAST_OF_MANY = 10_000, 1_000


@dataclass(frozen=True)
class VectorStep:
    """An array of displacements, or of the coordinates of where points go.

    ``axis`` is that of the components, ``kind`` its type, ``"displacement"`` or
    ``"coordinate"``.
    """

    array: zarr.Array[Any]
    axis: int
    kind: str
    grid: Grid


def vectors(address: str, group: zarr.Group, kind: str, units: Any) -> VectorStep:
    """Return the finest level of a multiscale of vectors.

    ``kind`` is the type of its axis of components; ``units`` serve if it has none.
    """
    declared = multiscale_of(address, group.attrs.get("ome"))
    first = declared["datasets"][0]
    array, axes = level_array(address, group, first), axes_of(declared)
    names = [axis["name"] for axis in axes]
    types = [axis["type"] for axis in axes]
    if types.count(kind) != 1 or len(types) != array.ndim:
        msg = (
            f"{address}: the field has the axes {list(zip(names, types, strict=True))} "
            f"and the shape {array.shape}; expected one axis of type {kind!r}, and the "
            "others those of space"
        )
        raise StoreError(msg)
    _check_chunks(address, array)
    axis = types.index(kind)
    space = [i for i in range(array.ndim) if i != axis]
    dims = tuple(names[i] for i in space)
    if dims not in (SPATIAL_DIMS, SPATIAL_DIMS[1:]) or array.shape[axis] != len(dims):
        msg = (
            f"{address}: the field has the axes {names} and the shape {array.shape}; "
            "expected z, y, x or y, x in this order, and a component for each"
        )
        raise StoreError(msg)
    for i in space:
        check_unit(address, axes[i])
    own = {axes[i].get("unit") for i in space}
    if len(own) > 1:
        msg = f"{address} has space axes in different units {own}; use one unit"
        raise StoreError(msg)
    numbers = composed_scale(address, array.path, steps_of(address, first), array.ndim)
    scale, translation = (tuple(values[i] for i in space) for values in numbers)
    shape = tuple(array.shape[i] for i in space)
    unit = normalise_units(own.pop() or units)
    try:
        grid = Grid(dims, shape, scale, translation, unit)
    except InputError as error:
        msg = f"{address}: the field has no usable geometry: {error}"
        raise StoreError(msg) from error
    return VectorStep(array, axis, kind, grid)


def _check_chunks(address: str, array: zarr.Array[Any]) -> None:
    """Raise if a field is cut into so many small chunks that nothing can be done."""
    chunks = array.shards or array.chunks
    count = math.prod(-(-n // k) for n, k in zip(array.shape, chunks, strict=True))
    if count > MANY_CHUNKS and math.prod(chunks) < LEAST_OF_MANY:
        msg = (
            f"{address}: the field has {count:.3g} chunks of {chunks}; expected chunks "
            f"of {LEAST_OF_MANY} numbers or more where there are over {MANY_CHUNKS}. "
            "Write it again in larger chunks"
        )
        raise StoreError(msg)
