"""The command ``warp``: an image and its pyramid, resampled through a field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from xdreg.cli.common import (
    AsJson,
    FieldPath,
    MovingPath,
    Overwrite,
    answer,
    open_path,
    whole_numbers,
)
from xdreg.cli.speaking import Quiet, ShowProgress, Verbose
from xdreg.errors import InputError
from xdreg.stores.paths import as_address, is_remote

if TYPE_CHECKING:
    from xdreg.numerics.interpolation import Order


LabelRule = Annotated[
    Literal["nearest", "majority", "gaussian"],
    typer.Option(help="Which label to take between voxels."),
]
Like = Annotated[
    str | None,
    typer.Option(help="Image whose grid to use; by default the fixed image's."),
]
Spacing = Annotated[
    str | None,
    typer.Option(
        metavar="LENGTHS", help="Voxel spacing, such as 2 or 4,2,2, in the fixed units."
    ),
]
Region = Annotated[
    list[str] | None,
    typer.Option(
        metavar="DIM=START:STOP",
        help="Part to resample, in physical units, such as z=100:200. Repeat it for "
        "several dims.",
    ),
]


def warp(
    field: FieldPath,
    moving: MovingPath,
    output: Annotated[
        str, typer.Option("-o", "--output", help="OME-Zarr to write, path or URL.")
    ],
    all_levels: Annotated[
        bool,
        typer.Option(
            "--all-levels",
            help="Resample each level from the matching level of MOVING, instead of "
            "building coarser ones from the finest.",
        ),
    ] = False,
    order: Annotated[
        int, typer.Option(help="1: linear; 3: cubic B-spline; 0: nearest voxel.")
    ] = 1,
    labels: Annotated[
        bool, typer.Option("--labels", help="MOVING holds labels: keep their values.")
    ] = False,
    label_rule: LabelRule = "nearest",
    image_only: Annotated[
        bool,
        typer.Option("--image-only", help="Leave out labels in the store of MOVING."),
    ] = False,
    like: Like = None,
    spacing: Spacing = None,
    region: Region = None,
    fill: Annotated[float, typer.Option(help="Value outside MOVING.")] = 0,
    levels: Annotated[int | None, typer.Option(help="Number of levels.")] = None,
    version: Annotated[
        Literal["0.4", "0.5", "0.6"], typer.Option(help="Version of OME-Zarr.")
    ] = "0.5",
    chunks: Annotated[
        str | None, typer.Option(help="Voxels of a chunk: 64, or 32,64,64 per axis.")
    ] = None,
    shards: Annotated[
        str | None,
        typer.Option(help="Voxels of a file of several chunks, as for --chunks."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Do not resume an earlier command.")
    ] = False,
    as_json: AsJson = False,
    progress: ShowProgress = True,
    verbose: Verbose = False,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Resample MOVING through FIELD onto the fixed grid, or another.

    All channels and time points, and labels in its store. The same command resumes a
    run that was killed.

    Example: xdreg warp out/field.ome.zarr moving.ome.zarr -o moved.ome.zarr
    """
    from xdreg.fields.store import open_field
    from xdreg.fields.warp_to import warp_to
    from xdreg.stores.apart import check_apart
    from xdreg.stores.outputs import check_target

    check_apart(output, field, moving, like)
    if not is_remote(as_address(output)):
        check_target(output, overwrite=overwrite)
    warp_to(
        open_field(field),
        open_path(moving),
        output,
        progress=progress,
        order=cast("Order", order),
        labels=label_rule if labels else None,
        label_groups=None if image_only else label_rule,
        like=None if like is None else open_path(like),
        spacing=None if spacing is None else _numbers(spacing, "--spacing"),
        region=None if region is None else dict(_part(text) for text in region),
        fill_value=fill,
        levels_from="moving" if all_levels else "finest",
        levels=levels,
        chunks=whole_numbers(chunks, "--chunks"),
        shards=whole_numbers(shards, "--shards"),
        version=version,
        overwrite=overwrite,
        fresh=fresh,
    )
    answer({"moved": output}, {"wrote": output}, as_json=as_json)


def _numbers(text: str, name: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        msg = f"{name} must be a number, or one per dim: 4,2,2; got {text!r}"
        raise InputError(msg) from error


def _part(text: str) -> tuple[str, slice]:
    """Return the dim and the slice of coordinates in text such as ``z=100:200``."""
    dim, _, ends = text.partition("=")
    start, colon, stop = ends.partition(":")
    try:
        values: list[Any] = [float(end) if end else None for end in (start, stop)]
    except ValueError:
        colon = ""
    if not colon:
        msg = f"--region must be DIM=START:STOP, such as z=100:200, got {text!r}"
        raise InputError(msg)
    return dim.strip(), slice(*values)
