"""Links that open images in Neuroglancer.

A link holds the viewer's state as JSON: images, position, colours. Positions are
physical, divided by the finest voxel. Neuroglancer takes a voxel's position for its
lower corner, OME-Zarr for its centre; Neuroglancer shifts OME-Zarr images by half a
voxel itself.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import numpy as np

from xdreg.errors import InputError
from xdreg.grid import UNIT_METRES
from xdreg.views.colours import PAIR_RGB
from xdreg.views.neuroglancer_server import ImageServer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xdreg.grid import Grid
    from xdreg.views.scene import Scene

#: Screen pixels of the whole image when the viewer opens.
_PIXELS = 600

_SHADER = """#uicontrol invlerp normalized
void main() {{
  emitRGB(vec3({0}, {1}, {2}) * normalized());
}}
"""


def serve(scene: Scene, viewer: str, port: int = 0) -> tuple[ImageServer, str]:
    """Return a server of a scene's images, not yet running, and the link to see them.

    ``viewer`` is the address of a Neuroglancer; ``port`` 0 takes a free one. Fixed in
    magenta, warped in green: grey where they agree. The moving image in its own place
    is hidden.
    """
    fixed, moving = (view.limits for view in scene.pair)
    magenta, green = PAIR_RGB
    server = ImageServer(
        {"fixed": scene.fixed, "warped": scene.warped, "moving": scene.moving},
        origin=origin_of(viewer),
        port=port,
    )
    # The lowest first; colours are added.
    layers = [
        _layer("moving", server, green, moving) | {"visible": False},
        _layer("fixed", server, magenta, fixed),
        _layer("warped", server, green, moving),
    ]
    state = json.dumps(viewer_state(layers, scene.fixed[0].grid), separators=(",", ":"))
    return server, f"{viewer.rstrip('/')}/#!{quote(state, safe='')}"


def origin_of(viewer: str) -> str:
    """Return the scheme, host and port of a viewer's address."""
    parts = urlsplit(viewer)
    odd = not viewer.isprintable() or "@" in parts.netloc
    if odd or parts.scheme not in ("http", "https") or not parts.netloc:
        msg = f"the viewer must be the address of a Neuroglancer, got {viewer!r}"
        raise InputError(msg)
    return f"{parts.scheme}://{parts.netloc}"


def viewer_state(layers: Sequence[dict[str, Any]], grid: Grid) -> dict[str, Any]:
    """Return the state of a viewer with some layers, centred on a grid."""
    # The first two dimensions span the plane, the first to the right.
    order = range(grid.ndim)[::-1]
    metres = UNIT_METRES.get(grid.units or "")
    size, unit = (metres, "m") if metres else (1.0, "")
    dimensions = {grid.dims[i]: [grid.spacing[i] * size, unit] for i in order}
    extent = np.multiply(grid.shape, grid.spacing)
    scale = float(extent.max() / min(grid.spacing))
    return {
        "dimensions": dimensions,
        "position": [float(grid.centre[i] / grid.spacing[i]) for i in order],
        "crossSectionScale": scale / _PIXELS,
        "projectionScale": 1.5 * scale,
        "layers": list(layers),
        "layout": "4panel" if grid.ndim == 3 else "xy",
    }


def _layer(
    name: str,
    server: ImageServer,
    colour: tuple[float, float, float],
    limits: tuple[float, float],
) -> dict[str, Any]:
    """Return a visible layer of an image, black and ``colour`` (RGB) at its limits."""
    return {
        "type": "image",
        "name": name,
        "source": f"zarr://{server.url(name)}",
        "blend": "additive",
        "opacity": 1,
        "shader": _SHADER.format(*(f"{float(v):.3f}" for v in colour)),
        "shaderControls": {"normalized": {"range": list(limits)}},
        "visible": True,
    }
