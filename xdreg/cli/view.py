"""The command ``view``: a registration in napari or Neuroglancer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from xdreg.cli.common import FieldPath, note, open_path, show
from xdreg.cli.inputs import shown_channel
from xdreg.errors import InputError, StoreError, XdregError

if TYPE_CHECKING:
    import xarray as xr

    from xdreg.views.scene import Scene

#: Public instance of Neuroglancer. It runs in the browser, which reads the images.
NEUROGLANCER = "https://neuroglancer-demo.appspot.com"

_BY_DEFAULT = "by default the one recorded in FIELD."


def view(
    field: FieldPath,
    fixed: Annotated[
        str | None, typer.Argument(metavar="FIXED", help=f"Fixed image; {_BY_DEFAULT}")
    ] = None,
    moving: Annotated[
        str | None,
        typer.Argument(metavar="MOVING", help=f"Moving image; {_BY_DEFAULT}"),
    ] = None,
    channel: Annotated[
        str | None,
        typer.Option(help="Channel to show, by name or number; or luminance, of RGB."),
    ] = None,
    moving_channel: Annotated[
        str | None, typer.Option(help="Channel of MOVING, if different.")
    ] = None,
    neuroglancer: Annotated[
        bool,
        typer.Option(
            "--neuroglancer", help="Serve the images to a browser and print a link."
        ),
    ] = False,
    port: Annotated[
        int, typer.Option(help="Port of the server, with --neuroglancer; 0: any.")
    ] = 0,
    viewer: Annotated[
        str, typer.Option(help="Address of the Neuroglancer to link to.")
    ] = NEUROGLANCER,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust", help="Open images on servers, too, because FIELD names them."
        ),
    ] = False,
) -> None:
    """Show FIELD: the fixed and warped images as an overlay, vectors, blocks.

    Images that FIELD names are printed, then opened if they are local.

    Example: xdreg view out/field.ome.zarr fixed.ome.zarr moving.ome.zarr
    """
    given = {"fixed": fixed, "moving": moving}
    scene = _scene(field, given, channel, moving_channel, trust=trust)
    if not neuroglancer:
        _show_in_napari(scene)
        return
    from xdreg.views.neuroglancer import serve

    server, address = serve(scene, viewer=viewer, port=port)
    with server:
        show(address)
        show("Open it in a browser on this machine; Ctrl-C ends the server.")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            show("ended")


def _scene(
    field: str,
    given: dict[str, str | None],
    channel: str | None,
    moving_channel: str | None,
    *,
    trust: bool,
) -> Scene:
    from xdreg.fields.store import open_field
    from xdreg.views.scene import make_scene

    opened = open_field(field)
    images = {
        name: _image(opened, field, name, path, trust=trust)
        for name, path in given.items()
    }
    return make_scene(
        opened,
        **images,
        channel=shown_channel(images["fixed"], channel),
        moving_channel=shown_channel(images["moving"], moving_channel or channel),
    )


def _image(
    opened: xr.Dataset, field: str, name: str, given: str | None, *, trust: bool
) -> Any:
    """Open an image that the user gives, else the one that the field names."""
    from xdreg.fields.provenance import recorded_image

    if given is not None:
        return open_path(given)
    path = recorded_image(opened, name, trust=trust)
    if path is None:
        msg = f"{field} does not record its {name} image; give FIXED and MOVING"
        raise InputError(msg)
    note(f"opening {path}, the {name} image that {field} names")
    try:
        return open_path(path)
    except StoreError as error:
        msg = f"{error}; {field} records it as {name} image: give FIXED and MOVING"
        raise StoreError(msg) from error


def _show_in_napari(scene: Scene) -> None:
    try:
        import napari
    except ImportError as error:
        msg = (
            "napari is missing: pip install 'xdreg[napari]'; or view the images in a "
            "browser with --neuroglancer"
        )
        raise XdregError(msg) from error
    from xdreg.views.napari_plugin import open_viewer

    open_viewer(scene)
    napari.run()
