"""Commands on fields: invert, points."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from xdreg.cli.common import (
    AsJson,
    FieldPath,
    Overwrite,
    ShowProgress,
    answer,
    open_path,
)
from xdreg.errors import InputError
from xdreg.stores.progress import working


def invert(
    field: FieldPath,
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="STORE", help="Field to write, as OME-Zarr."
        ),
    ],
    like: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE",
            help="Moving image; by default the one that FIELD was made for.",
        ),
    ] = None,
    step: Annotated[
        float,
        typer.Option(
            metavar="VOXELS",
            help="Voxels between its points: in 3-D 2 takes an eighth of the space, "
            "0.5 eight times as much for a quarter of the error.",
        ),
    ] = 1,
    as_json: AsJson = False,
    progress: ShowProgress = True,
    overwrite: Overwrite = False,
) -> None:
    """Invert FIELD: write the field moving → fixed, on the grid of the moving image.

    Example: xdreg invert out/field.ome.zarr --like moving.ome.zarr -o inverse.ome.zarr
    """
    from xdreg.fields.diagnostics import status_counts
    from xdreg.fields.inverse import inverse
    from xdreg.fields.store import open_field, save_field
    from xdreg.stores.outputs import check_target

    check_target(output, overwrite=overwrite)
    image = None if like is None else open_path(like)
    made = inverse(open_field(field), image, step=step)
    save_field(made, output, overwrite=overwrite, progress=progress)
    found = open_field(output)
    units = found["displacement"].attrs.get("units")
    counts = status_counts(found)
    values: dict[str, Any] = {
        "field": output,
        "blocks": counts,
        "largest_residual": float(found.block_max_residual.max()),
        "units": units,
        "outside_share": float(found.block_outside.mean()),
        "folded_share": float(found.block_folded.mean()),
    }
    lines = {
        "blocks": ", ".join(f"{n} {what}" for what, n in counts.items()),
        "residual": f"{values['largest_residual']:.2g} {units or ''} at most",
        "outside": f"{values['outside_share']:.1%} from outside the fixed image",
        "folded": f"{values['folded_share']:.2%} without an inverse",
        "wrote": str(output),
    }
    answer(values, lines, as_json=as_json)


def points(
    field: FieldPath,
    table: Annotated[
        Path,
        typer.Argument(
            metavar="POINTS",
            help="CSV or Parquet with columns named z, y and x, or axis-0 and so on; "
            "GeoJSON; or a mesh.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="FILE", help="File to write, of the same kind."
        ),
    ],
    inverse: Annotated[
        bool, typer.Option("--inverse", help="From the moving image to the fixed one.")
    ] = False,
    as_json: AsJson = False,
    progress: ShowProgress = True,
    overwrite: Overwrite = False,
) -> None:
    """Map POINTS of the fixed image into the moving one, in physical units.

    Whatever else is in the file is kept. Points that cannot be mapped become nan, and a
    geometry of GeoJSON that has one null.

    Example: xdreg points out/field.ome.zarr landmarks.csv -o moved.csv
    """
    from xdreg.fields.field import field_grid
    from xdreg.fields.points import transform_points
    from xdreg.fields.store import open_field
    from xdreg.stores.outputs import check_file, new_file
    from xdreg.stores.point_files import kind_of, read_points

    check_file(output, overwrite=overwrite)
    if kind_of(output) != kind_of(table):
        msg = f"{table} is {kind_of(table)} and {output} is not; write the same kind"
        raise InputError(msg)
    opened = open_field(field)
    found = read_points(table, field_grid(opened).dims)
    with working("mapping", enabled=progress):
        moved = transform_points(opened, found.points, inverse=inverse)
    with new_file(output, overwrite=overwrite) as partial:
        found.write(partial, moved)
    lost = int(np.isnan(moved).any(axis=1).sum())
    rest = f", {lost} of them nan: outside the fixed image" if lost else ""
    answer(
        {"points": output, "count": len(moved), "unmapped": lost},
        {"wrote": f"{len(moved)} points to {output}{rest}"},
        as_json=as_json,
    )
