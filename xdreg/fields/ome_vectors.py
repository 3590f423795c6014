"""Fields of vectors in OME-Zarr: a multiscale with an axis of components, or an array.

Version 0.6 has a multiscale, whose finest level is taken; the drafts of RFC-5 an array
with a coordinate system and a scale of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dask.array
import numpy as np
import zarr

from xdreg.errors import InputError, StoreError
from xdreg.grid import SPATIAL_DIMS, Grid, normalise_units
from xdreg.stores.ome_checks import check_array, check_unit
from xdreg.stores.ome_metadata import (
    axes_of,
    composed_scale,
    level_array,
    steps_of,
    the_multiscale,
)
from xdreg.stores.ome_zarr import lazy_zarr


@dataclass(frozen=True)
class VectorStep:
    """A field of vectors: ``displacement``, or ``coordinate`` of where points go.

    Parameters
    ----------
    array
        What holds the vectors.
    axis
        Its axis of components; the others are those of the grid.
    kind
        ``"displacement"`` or ``"coordinate"``.
    grid
        Geometry of the others.
    """

    array: zarr.Array[Any]
    axis: int
    kind: str
    grid: Grid

    def displacement(self) -> Any:
        """Return displacements ``(ndim, *grid.shape)`` float32, lazily.

        The array itself where it holds just that.
        """
        plain = self.axis == 0 and self.kind == "displacement"
        if plain and self.array.dtype == np.float32:
            return self.array
        values = dask.array.moveaxis(lazy_zarr(self.array), self.axis, 0)
        if self.kind == "coordinate":
            grid = self.grid
            places = [
                grid.axis(dim).reshape([-1] + [1] * (grid.ndim - 1 - i))
                for i, dim in enumerate(grid.dims)
            ]
            values = dask.array.stack(
                [values[i] - place for i, place in enumerate(places)]
            )
        return values.rechunk({0: -1}).astype(np.float32)


def vectors(address: str, node: Any, kind: str, units: Any) -> VectorStep:
    """Return the field at a node: a multiscale's finest level, or an array.

    Parameters
    ----------
    address
        Where it is, to be named in errors.
    node
        A Zarr group or array.
    kind
        ``"displacement"`` or ``"coordinate"``, the type of the axis of components.
    units
        Unit of the transformation's ends, if they have any.
    """
    attrs: dict[str, Any] = dict(node.attrs)
    ome = attrs.get("ome")
    if isinstance(node, zarr.Group):
        declared = the_multiscale(address, ome)
        first = declared["datasets"][0]
        array, axes = level_array(address, node, first), axes_of(declared)
        steps = steps_of(address, first)
    else:
        # The drafts of RFC-5.
        array, owner = node, ome if isinstance(ome, dict) else {}
        check_array(address, "", array)
        systems = owner.get("coordinateSystems")
        axes = systems[0]["axes"] if systems else []
        steps = steps_of(address, owner)[:1]
    names = [axis["name"] for axis in axes]
    types = [axis["type"] for axis in axes]
    if types.count(kind) != 1 or len(types) != array.ndim:
        msg = (
            f"{address}: the field has the axes {list(zip(names, types, strict=True))} "
            f"and the shape {array.shape}; expected one axis of type {kind!r}, and the "
            "others those of space"
        )
        raise StoreError(msg)
    axis = types.index(kind)
    space = [i for i in range(array.ndim) if i != axis]
    dims = tuple(names[i] for i in space)
    if dims not in (SPATIAL_DIMS, SPATIAL_DIMS[1:]) or array.shape[axis] != len(dims):
        msg = (
            f"{address}: the field has the axes {names} and the shape {array.shape}; "
            "expected z, y, x or y, x in this order, and a component for each"
        )
        raise StoreError(msg)
    scale, translation = _scale_of(address, array, steps, axis)
    for i in space:
        check_unit(address, axes[i])
    own = {axes[i].get("unit") for i in space}
    if len(own) > 1:
        msg = f"{address} has space axes in different units {own}; use one unit"
        raise StoreError(msg)
    shape = tuple(array.shape[i] for i in space)
    unit = normalise_units(own.pop() or units)
    try:
        return VectorStep(
            array, axis, kind, Grid(dims, shape, scale, translation, unit)
        )
    except InputError as error:
        msg = f"{address}: the field has no usable geometry: {error}"
        raise StoreError(msg) from error


def _scale_of(
    address: str, array: zarr.Array[Any], steps: Sequence[Any], axis: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return scale and translation of the spatial axes."""
    if steps and _length(steps[0]) == array.ndim - 1:
        # Without the axis of components, which later drafts leave out.
        scale, translation = composed_scale(address, array.path, steps, array.ndim - 1)
    else:
        scale, translation = composed_scale(address, array.path, steps, array.ndim)
        scale, translation = (
            [v for i, v in enumerate(values) if i != axis]
            for values in (scale, translation)
        )
    return tuple(map(float, scale)), tuple(map(float, translation))


def _length(step: Any) -> int | None:
    if isinstance(step, dict):
        for kind in ("scale", "translation"):
            if isinstance(step.get(kind), list):
                return len(step[kind])
        inner = step.get("transformations")
        if isinstance(inner, list) and inner:
            return _length(inner[0])
    return None
