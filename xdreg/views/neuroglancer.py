"""Links that open images in Neuroglancer: what is shown, where, and in which colours.

The link carries the viewer's state as JSON. Positions are physical, divided by the
finest voxel; as Neuroglancer takes a voxel's position for its lower corner and OME-Zarr
for its centre, it shifts what it reads from OME-Zarr by half a voxel itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import numpy as np

from xdreg.errors import InputError
from xdreg.grid import UNIT_METRES
from xdreg.views.neuroglancer_server import ImageServer
from xdreg.views.pictures import display_range

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xdreg.grid import Grid
    from xdreg.views.lazy_readers import Reader
    from xdreg.views.scene import Scene

#: Pixels of the screen that the whole image gets at first.
_PIXELS = 600

_SHADER = """#uicontrol invlerp normalized
void main() {{
  emitRGB(vec3({0}, {1}, {2}) * normalized());
}}
"""


@dataclass(frozen=True)
class Shown:
    """An image in Neuroglancer.

    Parameters
    ----------
    name
        Of its layer.
    url
        Where its OME-Zarr is served.
    colour
        Red, green and blue, 0 to 1.
    limits
        Intensities that are black and bright.
    visible
        Whether it is shown at first.
    """

    name: str
    url: str
    colour: tuple[float, float, float]
    limits: tuple[float, float]
    visible: bool = True


def serve(scene: Scene, viewer: str, port: int = 0) -> tuple[ImageServer, str]:
    """Return a server of a scene's images, not yet running, and the link to see them.

    Fixed in red and warped in green, so that they are yellow where they agree; the
    moving image as it was is there, but hidden. The warped image is computed from the
    field, chunk by chunk, when the browser asks for it.

    Parameters
    ----------
    scene
        What to show; the fixed image is needed.
    viewer
        Address of a Neuroglancer.
    port
        Where to listen; 0 takes a free one.
    """
    images: dict[str, Sequence[Reader]]
    images = {"fixed": scene.fixed, "warped": scene.warped, "moving": scene.moving}
    server = ImageServer(images, origin=origin_of(viewer), port=port)
    red, green = (display_range(scene.fixed[-1]), display_range(scene.moving[-1]))
    shown = [
        Shown("moving", server.url("moving"), (0, 1, 0), green, visible=False),
        Shown("fixed", server.url("fixed"), (1, 0, 0), red),
        Shown("warped", server.url("warped"), (0, 1, 0), green),
    ]
    return server, link(viewer_state(shown, scene.fixed[0].grid), viewer)


def origin_of(viewer: str) -> str:
    """Return the scheme, host and port of a viewer's address.

    Raises
    ------
    InputError
        If it is no address of the web.

    Examples
    --------
    >>> origin_of("http://localhost:8080/v/index.html")
    'http://localhost:8080'
    """
    parts = urlsplit(viewer)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        msg = f"the viewer must be the address of a Neuroglancer, got {viewer!r}"
        raise InputError(msg)
    return f"{parts.scheme}://{parts.netloc}"


def viewer_state(images: Sequence[Shown], grid: Grid) -> dict[str, Any]:
    """Return the state of a viewer that shows images over each other.

    Parameters
    ----------
    images
        What to show, the lowest first; their colours are added.
    grid
        Geometry to look at, from its middle.

    Examples
    --------
    >>> from xdreg.grid import Grid
    >>> grid = Grid(("y", "x"), (4, 6), (2.0, 1.0), (10.0, 0.0), "micrometer")
    >>> state = viewer_state([], grid)
    >>> state["dimensions"], state["position"]
    ({'x': [1e-06, 'm'], 'y': [2e-06, 'm']}, [2.5, 6.5])
    """
    # The first two dimensions span the plane, the first to the right.
    order = range(grid.ndim)[::-1]
    metres = UNIT_METRES.get(grid.units or "")
    dimensions = {
        grid.dims[i]: [grid.spacing[i] * metres, "m"]
        if metres
        else [grid.spacing[i], ""]
        for i in order
    }
    extent = np.multiply(grid.shape, grid.spacing)
    scale = float(extent.max() / min(grid.spacing))
    return {
        "dimensions": dimensions,
        "position": [float(grid.centre[i] / grid.spacing[i]) for i in order],
        "crossSectionScale": scale / _PIXELS,
        "projectionScale": 1.5 * scale,
        "layers": [_layer(image) for image in images],
        "layout": "4panel" if grid.ndim == 3 else "xy",
    }


def _layer(image: Shown) -> dict[str, Any]:
    colour = (f"{float(v):.3f}" for v in image.colour)
    return {
        "type": "image",
        "name": image.name,
        "source": f"zarr://{image.url}",
        "blend": "additive",
        "opacity": 1,
        "shader": _SHADER.format(*colour),
        "shaderControls": {"normalized": {"range": list(image.limits)}},
        "visible": image.visible,
    }


def link(state: dict[str, Any], viewer: str) -> str:
    """Return the address that opens a state.

    Parameters
    ----------
    state
        As from `viewer_state`.
    viewer
        Address of a Neuroglancer.
    """
    text = json.dumps(state, separators=(",", ":"))
    return f"{viewer.rstrip('/')}/#!{quote(text, safe='')}"
