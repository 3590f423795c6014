"""The napari plugin: a reader of fields and OME-Zarr images, a writer, sample data.

The manifest ``napari.yaml`` names the functions here.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xdreg.errors import InputError, StoreError, XdregError
from xdreg.fields.field import is_field
from xdreg.fields.provenance import recorded_image
from xdreg.fields.store import open_field, save_field
from xdreg.stores.ome_checks import MOST_BYTES
from xdreg.stores.ome_zarr import open_ome_zarr
from xdreg.views.colours import PAIR_COLOURS
from xdreg.views.napari_fields import ARROW_SPACING, field_layers
from xdreg.views.napari_images import image_layers, plain, scene_layers
from xdreg.views.scene import make_scene, open_recorded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import napari
    import xarray as xr

    from xdreg.views.napari_images import LayerData
    from xdreg.views.scene import Scene


def get_reader(path: str | list[str]) -> Callable[..., list[LayerData]] | None:
    """Return the reader of fields and OME-Zarr images; None for other files."""
    paths = [path] if isinstance(path, str) else list(path)
    return read if all(_kind(p) is not None for p in paths) else None


def read(path: str | list[str]) -> list[LayerData]:
    """Read fields and images as layers.

    Two images are shown in complementary colours. A field comes with the warped moving
    image, if its provenance names a local one that can be opened.
    """
    paths = [path] if isinstance(path, str) else list(path)
    layers: list[LayerData] = []
    images = [p for p in paths if _kind(p) == "image"]
    colours = PAIR_COLOURS if len(images) == 2 else (None,) * len(images)
    for p, colour in zip(images, colours, strict=True):
        name = Path(p.rstrip("/")).name.removesuffix(".zarr").removesuffix(".ome")
        layers += image_layers(open_ome_zarr(p), name, colour)
    for p in paths:
        if _kind(p) == "field":
            field = open_field(p)
            layers += _warped_layers(field) + field_layers(field)
    return layers


def _kind(path: str) -> str | None:
    """Return ``"field"`` or ``"image"`` from a store's metadata, else None."""
    for name in ("zarr.json", ".zattrs"):
        file = Path(path) / name
        try:
            if not file.is_file() or file.stat().st_size > MOST_BYTES:
                continue
            document = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        attributes = _object(document).get("attributes", document)
        ome = _object(_object(attributes).get("ome", attributes))
        if "scene" in ome:
            return "field"
        if "multiscales" in ome:
            return "image"
    return None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _warped_layers(field: xr.Dataset) -> list[LayerData]:
    """Return the warped moving image; warn and return nothing without it.

    napari shows warnings, too.
    """
    try:
        address = recorded_image(field, "moving")
        if address is None:
            return []
        _notify(f"opening {address}, the moving image that the field names")
        moving = open_recorded(address, "moving")
        return scene_layers(make_scene(field, None, moving))
    except (InputError, StoreError) as error:
        text = (
            f"the warped image is left out: {error}. With images of your choice: xdreg "
            "view FIELD FIXED MOVING, or xdreg.make_scene and xdreg.open_viewer"
        )
        warnings.warn(plain(text), stacklevel=2)
        return []


def _notify(text: str) -> None:
    """Show a line in napari, without a window in its log."""
    from napari.utils.notifications import show_info

    show_info(plain(text))


def write_field(path: str, layers: Sequence[LayerData]) -> list[str]:
    """Write the field of some layers as OME-Zarr 0.6, and return the paths written."""
    fields = {
        id(found): found
        for _, options, _ in layers
        if is_field(found := options.get("metadata", {}).get("field"))
    }
    if len(fields) != 1:
        msg = (
            f"the layers chosen belong to {len(fields)} displacement fields; choose "
            "the magnitude of one, as the reader or the widget of xdreg makes it"
        )
        # No InputError: napari takes a ValueError for a file of another plugin.
        raise XdregError(msg)
    save_field(next(iter(fields.values())), path)
    return [path]


def phantom() -> list[LayerData]:
    """Return a pair with a known deformation, to try the widget with."""
    from xdreg.datasets import phantom_pair

    pair = phantom_pair((72, 88, 104), amplitude=5.0)
    return [
        *image_layers(pair.fixed, "fixed", PAIR_COLOURS[0]),
        *image_layers(pair.moving, "moving", PAIR_COLOURS[1]),
    ]


def add_layers(viewer: napari.Viewer, layers: Sequence[LayerData]) -> None:
    """Add layers to a viewer, with slices thick enough to show some arrows."""
    from napari.layers import Layer

    for layer in layers:
        viewer.add_layer(Layer.create(*layer))
    spacings = [
        o["metadata"][ARROW_SPACING] for _, o, kind in layers if kind == "vectors"
    ]
    if spacings:
        # Images are still drawn as planes.
        missing = viewer.dims.ndim - len(spacings[-1])
        viewer.dims.thickness = (0.0,) * missing + spacings[-1]


def open_viewer(scene: Scene, **options: Any) -> napari.Viewer:
    """Open a napari viewer on a scene.

    Parameters
    ----------
    scene
        A field and its images.
    **options
        Passed to `napari.Viewer`, such as ``show=False``.
    """
    import napari

    viewer = napari.Viewer(title="xdreg", **options)
    add_layers(viewer, scene_layers(scene) + field_layers(scene.field))
    viewer.layers.selection.active = viewer.layers["warped"]
    return viewer


def view(
    field: xr.Dataset,
    fixed: Any = None,
    moving: Any = None,
    *,
    channel: Any = None,
    moving_channel: Any = None,
    trust: bool = False,
) -> napari.Viewer:
    """Open a napari viewer on a field and its images.

    Parameters
    ----------
    field, fixed, moving, channel, moving_channel, trust
        As in `xdreg.make_scene`: without images, those that the field names.

    Returns
    -------
    napari.Viewer
    """
    chosen = {"channel": channel, "moving_channel": moving_channel, "trust": trust}
    return open_viewer(make_scene(field, fixed, moving, **chosen))
