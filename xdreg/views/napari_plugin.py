"""What napari finds in xdreg: a reader of fields and OME-Zarr images, and a writer.

The manifest ``napari.yaml`` names the functions here.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xdreg.errors import InputError, StoreError, XdregError
from xdreg.fields.field import is_field
from xdreg.fields.provenance import sources_of
from xdreg.fields.store import open_field, save_field
from xdreg.stores.ome_zarr import open_ome_zarr
from xdreg.views.napari_fields import ARROW_SPACING, field_layers
from xdreg.views.napari_images import image_layers, scene_layers
from xdreg.views.scene import make_scene

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import napari
    import xarray as xr

    from xdreg.views.napari_images import LayerData
    from xdreg.views.scene import Scene

#: Colours of the first and second image that are opened together: grey where both are.
_PAIR = ("magenta", "green")


def get_reader(path: str | list[str]) -> Callable[..., list[LayerData]] | None:
    """Return what reads a path, or several at once; None where nothing here does.

    Parameters
    ----------
    path
        Of a field, an OME-Zarr image, or two images to be seen over each other.
    """
    paths = [path] if isinstance(path, str) else list(path)
    return read if all(_kind(p) is not None for p in paths) else None


def read(path: str | list[str]) -> list[LayerData]:
    """Read fields and images as layers.

    Two images are coloured so that they can be told apart. With a field comes the
    warped moving image, if the field tells where that lies and it is there.
    """
    paths = [path] if isinstance(path, str) else list(path)
    layers: list[LayerData] = []
    images = [p for p in paths if _kind(p) == "image"]
    colours = _PAIR if len(images) == 2 else (None,) * len(images)
    for p, colour in zip(images, colours, strict=True):
        name = Path(p.rstrip("/")).name.removesuffix(".zarr").removesuffix(".ome")
        layers += image_layers(open_ome_zarr(p), name, colour)
    for p in paths:
        if _kind(p) == "field":
            field = open_field(p)
            layers += _warped_layers(field) + field_layers(field)
    return layers


def _kind(path: str) -> str | None:
    """Tell a field from an image, by a look at the store's metadata."""
    for name in ("zarr.json", ".zattrs"):
        try:
            document = json.loads((Path(path) / name).read_text())
        except (OSError, ValueError):
            continue
        if not isinstance(document, dict):
            continue
        attributes = document.get("attributes", document)
        ome = attributes.get("ome", attributes) if isinstance(attributes, dict) else {}
        if "scene" in ome:
            return "field"
        if "multiscales" in ome:
            return "image"
    return None


def _warped_layers(field: xr.Dataset) -> list[LayerData]:
    """Return the moving image, warped; nothing where it is not to be had."""
    address = sources_of(field).get("moving")
    if address is None:
        return []
    try:
        moving = open_ome_zarr(address)
        return scene_layers(make_scene(field, None, moving))
    except (InputError, StoreError) as error:
        warnings.warn(f"the warped image is left out: {error}", stacklevel=2)
        return []


def write_field(
    path: str, layers: Sequence[tuple[Any, dict[str, Any], str]]
) -> list[str]:
    """Write the field that layers belong to as OME-Zarr 0.6; return what was written.

    Raises
    ------
    XdregError
        If they belong to no field, or to several.
    """
    fields = {
        id(found): found
        for _, options, _ in layers
        if is_field(found := options.get("metadata", {}).get("field"))
    }
    if len(fields) != 1:
        msg = (
            f"the layers chosen belong to {len(fields)} displacement fields; choose "
            "the magnitude of one, as the reader or the widget of xdreg made it"
        )
        # Not an InputError: that is a ValueError, which napari takes for "not mine".
        raise XdregError(msg)
    save_field(next(iter(fields.values())), path)
    return [path]


def phantom() -> list[LayerData]:
    """Return a pair with a known deformation, to try the widget with."""
    from xdreg.datasets import phantom_pair

    pair = phantom_pair((72, 88, 104), amplitude=5.0)
    images = (pair.fixed, "fixed"), (pair.moving, "moving")
    return [
        layer
        for (image, name), colour in zip(images, _PAIR, strict=True)
        for layer in image_layers(image, name, colour)
    ]


def add_layers(viewer: napari.Viewer, layers: Sequence[LayerData]) -> None:
    """Add layers to a viewer, and let it show the arrows near a plane."""
    from napari.layers import Layer

    for layer in layers:
        viewer.add_layer(Layer.create(*layer))
    spacings = [
        o["metadata"][ARROW_SPACING] for _, o, kind in layers if kind == "vectors"
    ]
    if spacings:
        # Images are drawn as planes all the same.
        missing = viewer.dims.ndim - len(spacings[-1])
        viewer.dims.thickness = (0.0,) * missing + spacings[-1]


def open_viewer(scene: Scene, **options: Any) -> napari.Viewer:
    """Open a viewer on a scene.

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
