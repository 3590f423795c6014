"""Images as napari's layers: data, where it lies, and how it is shown.

A layer is what napari's plugins exchange, ``(data, options, type)``; nothing here needs
napari. Every layer has its scale, translation, units and axis labels from the
coordinates: napari, too, takes a voxel's position for that of its centre.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array
import numpy as np
import xarray as xr

from xdreg.coordinates import coordinates
from xdreg.errors import InputError
from xdreg.grid import SPATIAL_DIMS, UNIT_METRES, Grid, normalise_units
from xdreg.stores.pyramid import build_pyramid, image_levels
from xdreg.stores.readers import image_reader
from xdreg.views.lazy_readers import WindowArray
from xdreg.views.pictures import display_range

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xdreg.views.lazy_readers import Reader
    from xdreg.views.scene import Scene

#: Data, options and the name of the layer's type.
LayerData = tuple[Any, dict[str, Any], str]

#: Images are drawn as planes, however thick the slices are that arrows are shown of.
AS_PLANES = {"projection_mode": "none"}

#: Voxels per axis in which a layer is read that has no chunks of its own.
CHUNK = 64

#: What napari calls lengths of which nothing is known.
_NO_UNIT = "pixel"


def placement(grid: Grid) -> dict[str, Any]:
    """Return the options that put a layer where its grid says.

    Examples
    --------
    >>> placement(Grid(("y", "x"), (4, 6), (2.0, 1.0), (10.0, 0.0), "micrometer"))[
    ...     "translate"
    ... ]
    (10.0, 0.0)
    """
    unit = grid.units if grid.units in UNIT_METRES else _NO_UNIT
    return {
        "scale": grid.spacing,
        "translate": grid.origin,
        "units": (unit,) * grid.ndim,
        "axis_labels": grid.dims,
    }


def image_layers(image: Any, name: str, colormap: str | None = None) -> list[LayerData]:
    """Return an image as it is stored, at all its levels, a layer per channel.

    Parameters
    ----------
    image : DataTree, DataArray or itk.Image ([t], [c], [z], y, x)
        The image; its voxels stay lazy. Three or four channels of 8 bits are taken for
        RGB.
    name
        What to call the layer, or the layers, with the channels' names.
    colormap
        Colours of a single channel.
    """
    levels = image_levels(image, name)
    grids = build_pyramid(levels, name).grids[: len(levels)]
    first = levels[0]
    times = ("t",) if "t" in first.dims else ()
    options: dict[str, Any] = {"metadata": {"grids": grids}} | AS_PLANES
    options |= placement(grids[0])
    if times:
        options = _with_time(options, first)
    chosen: list[tuple[str, dict[str, int], bool]]
    if "c" not in first.dims:
        chosen = [(name, {}, False)]
    elif first.sizes["c"] in (3, 4) and first.dtype == np.uint8:
        return [
            _rgb_layer(levels, (*times, *grids[0].dims, "c"), options | {"name": name})
        ]
    else:
        labels = first["c"].values if "c" in first.coords else range(first.sizes["c"])
        chosen = [(f"{name} {v}", {"c": i}, i > 0) for i, v in enumerate(labels)]
    layers: list[LayerData] = []
    for label, select, hidden in chosen:
        parts = [
            level.isel(select, drop=True).transpose(*times, *grids[0].dims)
            for level in levels
        ]
        coarsest = image_reader(
            parts[-1], name, grid=grids[-1], select=dict.fromkeys(times, 0)
        )
        look = {"name": label, "contrast_limits": display_range(coarsest)}
        if colormap is not None:
            look |= {"colormap": colormap, "blending": "additive"}
        data = [part.data for part in parts]
        layers.append(
            (
                data if len(data) > 1 else data[0],
                options | look | {"visible": not hidden, "multiscale": len(data) > 1},
                "image",
            )
        )
    return layers


def _rgb_layer(
    levels: Sequence[xr.DataArray], dims: Sequence[str], options: dict[str, Any]
) -> LayerData:
    data = [dask.array.asarray(level.transpose(*dims).data) for level in levels]
    options = options | {"rgb": True, "multiscale": len(data) > 1}
    return data if len(data) > 1 else data[0], options, "image"


def _with_time(options: Mapping[str, Any], image: xr.DataArray) -> dict[str, Any]:
    """Add an axis of time before the others."""
    times = image["t"].values if "t" in image.coords else np.arange(image.sizes["t"])
    step = float(times[1] - times[0]) if times.size > 1 else 1.0
    unit = image["t"].attrs.get("units") if "t" in image.coords else None
    before = {
        "scale": step,
        "translate": float(times[0]),
        "units": unit or _NO_UNIT,
        "axis_labels": "t",
    }
    return dict(options) | {k: (v, *options[k]) for k, v in before.items()}


def scene_layers(scene: Scene) -> list[LayerData]:
    """Return both images and the warped one, to be looked at together.

    Fixed in magenta, warped in green: where they agree the picture is grey. The moving
    image as it was is there, but hidden.
    """
    layers = []
    shown = display_range(scene.moving[-1])
    if scene.fixed:
        limits = display_range(scene.fixed[-1])
        layers.append(_readers_layer(scene.fixed, "fixed", "magenta", limits))
    layers.append(_readers_layer(scene.moving, "moving", "green", shown, visible=False))
    layers.append(_readers_layer(scene.warped, "warped", "green", shown))
    return layers


def _readers_layer(
    readers: Sequence[Reader],
    name: str,
    colormap: str,
    limits: tuple[float, float],
    *,
    visible: bool = True,
) -> LayerData:
    data = [WindowArray(reader) for reader in readers]
    look = {
        "name": name,
        "colormap": colormap,
        "contrast_limits": limits,
        "visible": visible,
        "blending": "additive",
        "multiscale": len(data) > 1,
        "metadata": {"grids": tuple(reader.grid for reader in readers)},
    }
    place = placement(readers[0].grid)
    return data if len(data) > 1 else data[0], place | look | AS_PLANES, "image"


def layer_image(layer: Any, name: str) -> xr.DataArray | xr.DataTree:
    """Return a napari layer as an image that `xdreg.register` takes.

    Levels are kept where their geometry is known, as that of layers made here; of
    others the finest is taken.

    Parameters
    ----------
    layer : napari.layers.Image or Labels
        A plane or a volume. Its scale, translation and units are the geometry; pixels
        are no unit.
    name
        What to call it in an error.

    Raises
    ------
    InputError
        If it is turned or sheared, or has more axes than those of space.
    """
    ndim = layer.ndim
    dims = SPATIAL_DIMS[-ndim:]
    labels = tuple(str(label) for label in layer.axis_labels)
    if ndim > len(SPATIAL_DIMS) or "t" in labels:
        msg = (
            f"{name}, the layer {layer.name!r}, has {ndim} axes, {labels}; split it "
            "into one layer per time point"
        )
        raise InputError(msg)
    unmoved = np.array_equal(layer.rotate, np.eye(ndim)) and not np.any(layer.shear)
    if not unmoved or not np.array_equal(layer.affine.affine_matrix, np.eye(ndim + 1)):
        msg = (
            f"{name}, the layer {layer.name!r}, is turned, sheared or moved by an "
            "affine transform; xdreg takes scale and translation only. Reset it"
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
        None if unit == _NO_UNIT else normalise_units(unit),
    )
    known = layer.metadata.get("grids") or [grid]
    grids = known if placement(known[0]) == placement(grid) else [grid]
    arrays = [_array_of(values, own) for values, own in zip(data, grids, strict=False)]
    if len(arrays) == 1:
        return arrays[0]
    return xr.DataTree.from_dict(
        {f"scale{i}": xr.Dataset({"image": array}) for i, array in enumerate(arrays)}
    )


def _array_of(values: Any, grid: Grid) -> xr.DataArray:
    """Return a layer's data with coordinates; what reads windows stays lazy."""
    dims = grid.dims if len(values.shape) == grid.ndim else (*grid.dims, "c")
    if not isinstance(values, np.ndarray | dask.array.Array):
        chunks = (CHUNK,) * len(values.shape)
        values = dask.array.from_array(values, chunks=chunks, name=False)
    return xr.DataArray(values, dims=dims, coords=coordinates(grid))
