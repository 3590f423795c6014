"""Images as layers of napari: data, placement and look.

A layer is the tuple ``(data, options, type)`` that napari's plugins exchange. Nothing
here needs napari. Every layer has scale, translation, units and axis labels from the
coordinates: napari also takes a voxel's position for that of its centre.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import dask.array
import numpy as np
import xarray as xr

from xdreg.coordinates import grid_of
from xdreg.errors import printable
from xdreg.stores.napari_layers import NO_UNIT, placement
from xdreg.stores.pyramid import image_levels
from xdreg.views.colours import PAIR_COLOURS
from xdreg.views.image_view import ImageView, is_rgb
from xdreg.views.lazy_readers import WindowArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xdreg.views.lazy_readers import Reader
    from xdreg.views.scene import Scene

#: Data, options and the name of the layer's type.
LayerData = tuple[Any, dict[str, Any], str]

#: Images are drawn as planes, also in the thick slices that arrows need.
AS_PLANES = {"projection_mode": "none"}

#: Units of time in OME-Zarr. napari would calculate with others, such as 9**9**9.
_TIME_UNIT = re.compile("[a-z]*second|minute|hour|day")


def plain(text: str) -> str:
    """Return text that no widget takes for markup: Qt looks for tags by itself."""
    return printable(text).replace("<", "‹").replace(">", "›")


def image_layer(
    levels: Sequence[Any], options: dict[str, Any], **look: Any
) -> LayerData:
    """Return an image layer of one or several levels, finest first."""
    several = len(levels) > 1
    options = options | AS_PLANES | look | {"multiscale": several}
    return list(levels) if several else levels[0], options, "image"


def image_layers(image: Any, name: str, colormap: str | None = None) -> list[LayerData]:
    """Return an image as it is stored, at all its levels, as a layer per channel.

    Voxels stay lazy. Three or four channels of 8 bits are one layer, shown as RGB.
    """
    name = plain(name)
    levels = image_levels(image, name)
    first = levels[0]
    grids = [grid_of(level, name) for level in levels]
    grids = [grid.to_units(grids[0].units, name) for grid in grids]
    times = ("t",) if "t" in first.dims else ()
    options = {"metadata": {"grids": tuple(grids)}, **placement(grids[0])}
    if times:
        options |= _with_time(options, first)
    dims = (*times, *grids[0].dims)
    if is_rgb(first):
        colours = [
            dask.array.asarray(level.transpose(*dims, "c").data) for level in levels
        ]
        return [image_layer(colours, options, name=name, rgb=True)]
    names, count = [name], first.sizes.get("c", 1)
    if "c" in first.dims:
        labels = first["c"].values if "c" in first.coords else range(count)
        names = [plain(f"{name} {label}") for label in labels]
    look: dict[str, Any] = {}
    if colormap is not None:
        look = {"colormap": colormap, "blending": "additive"}
    layers = []
    for channel, label in enumerate(names):
        parts = [
            level.isel({"c": channel}, drop=True, missing_dims="ignore")
            for level in levels
        ]
        shown = ImageView(name, parts, grids, dict.fromkeys(times, 0))
        look |= {"contrast_limits": shown.limits, "visible": channel == 0}
        data = [part.transpose(*dims).data for part in parts]
        layers.append(image_layer(data, options, name=label, **look))
    return layers


def _with_time(options: dict[str, Any], image: xr.DataArray) -> dict[str, Any]:
    """Return the placement with an axis of time before the others."""
    times = image["t"].values if "t" in image.coords else np.arange(image.sizes["t"])
    unit = image["t"].attrs.get("units") if "t" in image.coords else None
    before = {
        "scale": float(times[1] - times[0]) if times.size > 1 else 1.0,
        "translate": float(times[0]),
        "units": unit if _TIME_UNIT.fullmatch(str(unit)) else NO_UNIT,
        "axis_labels": "t",
    }
    return {k: (v, *options[k]) for k, v in before.items()}


def scene_layers(scene: Scene) -> list[LayerData]:
    """Return both images and the warped one, to be shown together.

    Fixed in magenta, warped in green: grey where they agree. The moving image in its
    own place is hidden.
    """
    layers, (magenta, green) = [], PAIR_COLOURS
    if scene.fixed_view is not None:
        limits = scene.fixed_view.limits
        layers.append(_readers_layer(scene.fixed, "fixed", magenta, limits))
    limits = scene.moving_view.limits
    hidden = _readers_layer(scene.moving, "moving", green, limits, visible=False)
    return [*layers, hidden, _readers_layer(scene.warped, "warped", green, limits)]


def _readers_layer(
    readers: Sequence[Reader],
    name: str,
    colormap: str,
    limits: tuple[float, float],
    *,
    visible: bool = True,
) -> LayerData:
    options = placement(readers[0].grid) | {
        "name": name,
        "colormap": colormap,
        "contrast_limits": limits,
        "visible": visible,
        "blending": "additive",
        "metadata": {"grids": tuple(reader.grid for reader in readers)},
    }
    return image_layer([WindowArray(reader) for reader in readers], options)
