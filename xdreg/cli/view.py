"""The command ``view``: a registration in napari or Neuroglancer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from xdreg.cli.common import FieldPath, show
from xdreg.cli.inputs import (
    FixedOfField,
    MovingOfField,
    Trust,
    given_or_recorded,
    shown_channel,
)
from xdreg.errors import XdregError

if TYPE_CHECKING:
    from xdreg.views.scene import Scene

#: Public instance of Neuroglancer. It runs in the browser, which reads the images.
NEUROGLANCER = "https://neuroglancer-demo.appspot.com"


def view(
    field: FieldPath,
    fixed: FixedOfField = None,
    moving: MovingOfField = None,
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
    trust: Trust = False,
) -> None:
    """Show FIELD: the fixed and warped images as an overlay, vectors, blocks.

    Images that FIELD names are printed, then opened if they are local.

    Example: xdreg view out/field.ome.zarr fixed.ome.zarr moving.ome.zarr
    """
    scene = _scene(field, (fixed, moving), channel, moving_channel, trust=trust)
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
    given: tuple[str | None, str | None],
    channel: str | None,
    moving_channel: str | None,
    *,
    trust: bool,
) -> Scene:
    from xdreg.fields.store import open_field
    from xdreg.views.scene import make_scene

    opened = open_field(field)
    fixed, moving = given_or_recorded(opened, field, given, trust=trust)
    return make_scene(
        opened,
        fixed,
        moving,
        channel=shown_channel(fixed, channel),
        moving_channel=shown_channel(moving, moving_channel or channel),
    )


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
