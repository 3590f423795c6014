"""The command that shows a registration, in napari or in Neuroglancer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from xdreg.cli.common import FieldPath, open_path, show
from xdreg.errors import InputError, StoreError, XdregError

if TYPE_CHECKING:
    from xdreg.views.scene import Scene

#: Neuroglancer's public instance; the images do not pass through it.
NEUROGLANCER = "https://neuroglancer-demo.appspot.com"

_BY_DEFAULT = "by default the one that FIELD was made of."


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
        str | None, typer.Option(help="That of MOVING, if another.")
    ] = None,
    neuroglancer: Annotated[
        bool,
        typer.Option(
            "--neuroglancer", help="Serve the images to a browser, and print a link."
        ),
    ] = False,
    port: Annotated[
        int, typer.Option(help="Where to serve them, with --neuroglancer; 0: any.")
    ] = 0,
    viewer: Annotated[
        str, typer.Option(help="Address of the Neuroglancer to link to.")
    ] = NEUROGLANCER,
) -> None:
    """Show FIELD: the fixed and the warped image over each other, vectors, blocks.

    Example: xdreg view out/field.ome.zarr fixed.ome.zarr moving.ome.zarr
    """
    scene = _scene(field, fixed, moving, channel, moving_channel)
    if not neuroglancer:
        _show_in_napari(scene)
        return
    from xdreg.views.neuroglancer import serve

    server, address = serve(scene, viewer=viewer, port=port)
    with server:
        show(address)
        show("Open it in a browser on this machine; Ctrl-C ends.")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            show("ended")


def _scene(
    field: str,
    fixed: str | None,
    moving: str | None,
    channel: str | None,
    moving_channel: str | None,
) -> Scene:
    from xdreg.fields.provenance import sources_of
    from xdreg.fields.store import open_field
    from xdreg.views.scene import make_scene

    opened = open_field(field)
    known = sources_of(opened)
    images = {}
    for name, given in (("fixed", fixed), ("moving", moving)):
        path = given or known.get(name)
        if path is None:
            msg = f"{field} does not tell its {name} image; give FIXED and MOVING"
            raise InputError(msg)
        try:
            images[name] = open_path(path)
        except StoreError as error:
            if given is not None:
                raise
            msg = (
                f"{error}; {field} names it as its {name} image: give FIXED and MOVING"
            )
            raise StoreError(msg) from error
    return make_scene(
        opened,
        images["fixed"],
        images["moving"],
        channel=_named(channel, images["fixed"]),
        moving_channel=_named(moving_channel or channel, images["moving"]),
    )


def _named(channel: str | None, image: Any) -> int | str | None:
    from xdreg.cli.inputs import named_channel
    from xdreg.stores.pyramid import image_levels

    if channel is None:
        return None
    return named_channel(image_levels(image, "image")[0], channel)


def _show_in_napari(scene: Scene) -> None:
    try:
        import napari
    except ImportError as error:
        msg = (
            "napari is missing: pip install 'xdreg[napari]'; or look at the images in "
            "a browser, with --neuroglancer"
        )
        raise XdregError(msg) from error
    from xdreg.views.napari_plugin import open_viewer

    open_viewer(scene)
    napari.run()
