"""Layers of napari as images, by their data, scale, translation and units.

Nothing here needs napari, which takes a voxel's position for that of its centre, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dask.array
import numpy as np
import xarray as xr

from xdreg.coordinates import coordinates
from xdreg.errors import InputError
from xdreg.grid import SPATIAL_DIMS, UNIT_METRES, Grid, normalise_units

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Voxels per axis of the pieces in which a layer without chunks is read.
CHUNK = 64

#: napari's unit for lengths without a unit.
NO_UNIT = "pixel"

#: Kinds of layers that are made of points.
KINDS = ("points", "shapes", "surface")


def is_layer(image: object) -> bool:
    """Return whether an object is an image or labels layer of napari."""
    # Attributes of a DataArray may have any names.
    parts = ("data", "scale", "translate", "axis_labels", "data_to_world")
    return not isinstance(image, xr.DataArray | xr.DataTree) and all(
        hasattr(image, part) for part in parts
    )


def placed_image(layer: Any) -> xr.DataArray | xr.DataTree:
    """Return a layer as an image in napari's world.

    Raises
    ------
    InputError
        If it is rotated, sheared or moved by an affine transform, which an image is
        not.
    """
    image = layer_image(layer, "the image")
    matrix = layer_matrix(layer)
    if np.array_equal(matrix, np.eye(len(matrix))):
        return image
    msg = (
        f"the layer {layer.name!r} is rotated, sheared or moved by an affine; register "
        "it in napari with Plugins › Register (xdreg), which starts from there, or "
        "give xdreg.make_image(layer.data, layer.scale, layer.translate) and initial="
    )
    raise InputError(msg)


def placement(grid: Grid) -> dict[str, Any]:
    """Return the options that place a layer on its grid."""
    unit = grid.units if grid.units in UNIT_METRES else NO_UNIT
    return {
        "scale": grid.spacing,
        "translate": grid.origin,
        "units": (unit,) * grid.ndim,
        "axis_labels": grid.dims,
    }


def layer_image(layer: Any, name: str) -> xr.DataArray | xr.DataTree:
    """Return a napari Image or Labels layer as an image that `xdreg.register` takes.

    Its scale, translation and units are the geometry; pixels are no unit. Rotation,
    shear and affine are left to `layer_matrix`. Levels are kept where their geometry is
    known, as for layers made here; else the finest is taken.
    """
    ndim = layer.ndim
    dims = SPATIAL_DIMS[-ndim:]
    labels = tuple(str(label) for label in layer.axis_labels)
    if ndim > len(SPATIAL_DIMS) or {"t", "c"} & {label.lower() for label in labels}:
        msg = (
            f"{name}, the layer {layer.name!r}, has {ndim} axes, {labels}; split it "
            "into one layer per time point or channel"
        )
        raise InputError(msg)
    units = {str(unit) for unit in layer.units}
    if len(units) > 1:
        msg = f"{name}, the layer {layer.name!r}, has axes in different units {units}"
        raise InputError(msg)
    unit = units.pop()
    data = list(layer.data) if layer.multiscale else [layer.data]
    shape = tuple(int(n) for n in data[0].shape[:ndim])
    grid = Grid(
        dims,
        shape,
        tuple(float(v) for v in layer.scale),
        tuple(float(v) for v in layer.translate),
        None if unit == NO_UNIT else normalise_units(unit),
    )
    known = layer.metadata.get("grids") or [grid]
    grids = known if placement(known[0]) == placement(grid) else [grid]
    arrays = [_array_of(values, own) for values, own in zip(data, grids, strict=False)]
    if len(arrays) == 1:
        return arrays[0]
    return xr.DataTree.from_dict(
        {f"scale{i}": xr.Dataset({"image": array}) for i, array in enumerate(arrays)}
    )


def layer_matrix(layer: Any) -> NDArray[np.float64]:
    """Return where a napari layer lies: the matrix from its image to napari's world.

    The image is that of `layer_image`. The identity, unless the layer is rotated,
    sheared or moved by an affine transform.
    """
    corners = np.vstack([np.zeros(layer.ndim), np.eye(layer.ndim)])
    scale, translate = np.asarray(layer.scale), np.asarray(layer.translate)
    world = np.array([layer.data_to_world(corner) for corner in corners])
    matrix = np.eye(layer.ndim + 1)
    if np.abs(world - corners * scale - translate).max() > 1e-9 * np.abs(world).max():
        matrix[:-1, :-1] = (world[1:] - world[0]).T / scale
        matrix[:-1, -1] = world[0] - matrix[:-1, :-1] @ translate
    return matrix


def _array_of(values: Any, grid: Grid) -> xr.DataArray:
    """Return a layer's data with coordinates; lazy data stays lazy."""
    dims = grid.dims if len(values.shape) == grid.ndim else (*grid.dims, "c")
    if not isinstance(values, np.ndarray | dask.array.Array):
        chunks = (CHUNK,) * len(values.shape)
        values = dask.array.from_array(values, chunks=chunks, name=False)
    return xr.DataArray(values, dims=dims, coords=coordinates(grid))


def layer_data(layer: Any) -> tuple[Any, dict[str, Any], str]:
    """Return data, metadata and kind of a layer, or raise if it is turned or none."""
    parts = tuple(layer) if isinstance(layer, tuple | list) else ()
    whole = len(parts) == 3 and isinstance(parts[1], Mapping) and parts[2] in KINDS
    if not whole:
        msg = (
            f"a layer must be a tuple (data, meta, kind) of a kind among {KINDS}, as "
            "from layer.as_layer_data_tuple() of napari"
        )
        raise InputError(msg)
    meta = dict(parts[1])
    for name in ("rotate", "shear", "affine"):
        value = np.asarray(0.0 if meta.get(name) is None else meta[name], float)
        identity = value.ndim == 2 and np.array_equal(value, np.eye(len(value)))
        if value.any() and not identity:
            msg = (
                f"the layer has a {name}; apply it to the data first, and leave only "
                "scale and translate"
            )
            raise InputError(msg)
    return parts[0], meta, parts[2]


def per_axis(
    meta: Mapping[str, Any], name: str, default: float, count: int
) -> NDArray[np.float64]:
    """Return one number per axis from a layer's metadata."""
    value = meta.get(name)
    if value is None:
        return np.full(count, default)
    values = np.array(value, np.float64).ravel()
    if len(values) != count or not np.isfinite(values).all():
        msg = (
            f"{name} of the layer must be {count} numbers, one per axis, got {value!r}"
        )
        raise InputError(msg)
    return values
