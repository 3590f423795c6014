"""The command ``report``: an HTML page about a registration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xdreg.cli.common import (
    FieldPath,
    Overwrite,
    given_path,
    open_path,
    show,
)
from xdreg.cli.inputs import (
    FixedOfField,
    MovingOfField,
    Trust,
    given_or_recorded,
    shown_channel,
)
from xdreg.errors import InputError, XdregError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def report(
    field: FieldPath,
    fixed: FixedOfField = None,
    moving: MovingOfField = None,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="HTML file to write.", parser=given_path),
    ] = Path("qc.html"),
    landmarks: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="FIXED.csv MOVING.csv",
            help="Corresponding points, row by row: columns z, y and x in physical "
            "units; a column 'name' is shown.",
        ),
    ] = None,
    labels: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="FIXED MOVING", help="Label images of both."),
    ] = None,
    channel: Annotated[
        str | None, typer.Option(help="Channel to show, by name or number.")
    ] = None,
    moving_channel: Annotated[
        str | None, typer.Option(help="Channel of MOVING, if different.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the report.")] = None,
    trust: Trust = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a report about a registration: one HTML file with its pictures.

    Images that FIELD names are printed, then opened if they are local.

    Example: xdreg report out/field.ome.zarr fixed.ome.zarr moving.ome.zarr -o qc.html
    """
    from xdreg.fields.field import field_grid
    from xdreg.fields.store import open_field
    from xdreg.numerics.point_tables import paired_names
    from xdreg.stores.apart import check_apart
    from xdreg.stores.outputs import check_file
    from xdreg.stores.point_files import point_names
    from xdreg.views.report import report as write

    check_apart(output, field, fixed, moving, *(landmarks or ()), *(labels or ()))
    check_file(output, overwrite=overwrite)
    opened = open_field(field)
    dims = field_grid(opened).dims
    images = given_or_recorded(opened, field, (fixed, moving), trust=trust)
    points, names = None, None
    if landmarks is not None:
        points = _landmarks(landmarks[0], dims), _landmarks(landmarks[1], dims)
        names = paired_names(*map(point_names, landmarks))
    try:
        write(
            opened,
            output,
            *images,
            landmarks=points,
            landmark_names=names,
            labels=None if labels is None else tuple(map(open_path, labels)),
            channel=shown_channel(images[0], channel),
            moving_channel=shown_channel(images[1], moving_channel),
            title=title,
            overwrite=overwrite,
        )
    except ImportError as error:
        raise XdregError(str(error)) from error
    show(f"wrote {output}")


def _landmarks(path: Path, dims: tuple[str, ...]) -> NDArray[np.float64]:
    from xdreg.stores.point_files import read_points

    found = read_points(path, dims)
    if not len(found.points):
        msg = f"{path} has a header and no points; expected a row per point"
        raise InputError(msg)
    return found.points
