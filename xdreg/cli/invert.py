"""The command ``invert``: the inverse of a field."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from xdreg.cli.common import (
    AsJson,
    FieldPath,
    Overwrite,
    answer,
    open_path,
)
from xdreg.cli.speaking import Quiet, ShowProgress, Verbose


def invert(
    field: FieldPath,
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            metavar="STORE",
            help="Field to write, as OME-Zarr, path or URL.",
        ),
    ],
    like: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE", help="Moving image; by default the one recorded in FIELD."
        ),
    ] = None,
    step: Annotated[
        float,
        typer.Option(
            metavar="VOXELS",
            help="Voxels between points of the inverse: in 3-D, 2 takes an eighth of "
            "the space, 0.5 eight times as much with a quarter of the error.",
        ),
    ] = 1,
    as_json: AsJson = False,
    progress: ShowProgress = True,
    verbose: Verbose = False,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Write the inverse of FIELD, moving → fixed, on the grid of the moving image.

    Example: xdreg invert out/field.ome.zarr --like moving.ome.zarr -o inverse.ome.zarr
    """
    from xdreg.fields.diagnostics import status_counts
    from xdreg.fields.inverse import inverse
    from xdreg.fields.store import open_field, save_field
    from xdreg.stores.apart import check_apart
    from xdreg.stores.outputs import check_target
    from xdreg.stores.paths import as_address, is_remote

    check_apart(output, field, like)
    if not is_remote(as_address(output)):
        check_target(output, overwrite=overwrite)
    image = None if like is None else open_path(like)
    made = inverse(open_field(field), image, step=step)
    save_field(made, output, overwrite=overwrite, progress=progress)
    found = open_field(output)
    values: dict[str, Any] = {
        "field": output,
        "blocks": status_counts(found),
        "largest_residual": float(found.block_max_residual.max()),
        "units": found["displacement"].attrs.get("units"),
        "outside_share": float(found.block_outside.mean()),
        "folded_share": float(found.block_folded.mean()),
    }
    units = values["units"] or ""
    lines = {
        "blocks": ", ".join(f"{n} {what}" for what, n in values["blocks"].items()),
        "residual": f"{values['largest_residual']:.2g} {units} at most",
        "outside": f"{values['outside_share']:.1%} from outside the fixed image",
        "folded": f"{values['folded_share']:.2%} without an inverse",
        "wrote": str(output),
    }
    answer(values, lines, as_json=as_json)
