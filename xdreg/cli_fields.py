"""Commands on fields: invert, points."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from xdreg.cli_common import FieldPath, Overwrite, open_path
from xdreg.errors import InputError

# Names and units come from stores: no part of them is markup.
_out = Console(markup=False)


def invert(
    field: FieldPath,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Field to write, as OME-Zarr.")
    ],
    like: Annotated[
        str | None,
        typer.Option(help="Moving image; by default the one that FIELD was made for."),
    ] = None,
    step: Annotated[
        int | None,
        typer.Option(help="Voxels between its points; by default about those of FIELD"),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Invert FIELD: write the field moving → fixed, on the grid of the moving image.

    Example: xdreg invert out/field.ome.zarr --like moving.ome.zarr -o inverse.ome.zarr
    """
    from xdreg.field import open_field, save_field, status_counts
    from xdreg.inverse_field import inverse
    from xdreg.outputs import check_target

    check_target(output, overwrite=overwrite)
    image = None if like is None else open_path(like)
    save_field(
        inverse(open_field(field), image, step=step), output, overwrite=overwrite
    )
    found = open_field(output)
    units = found["displacement"].attrs.get("units", "")
    counts = ", ".join(f"{n} {what}" for what, n in status_counts(found).items())
    rows = {
        "blocks": counts,
        "residual": f"{float(found.block_max_residual.max()):.2g} {units} at most",
        "outside": f"{float(found.block_outside.mean()):.1%} from outside the fixed "
        "image",
        "folded": f"{float(found.block_folded.mean()):.2%} without an inverse",
    }
    for name, text in rows.items():
        _out.print(f"{name:<12} {text}", highlight=False, soft_wrap=True)
    _out.print(f"wrote {output}", highlight=False, soft_wrap=True)


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
        Path, typer.Option("-o", "--output", help="File to write, of the same kind.")
    ],
    inverse: Annotated[
        bool, typer.Option("--inverse", help="From the moving image to the fixed one.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Map POINTS of the fixed image into the moving one, in physical units.

    Whatever else is in the file is kept. Points that cannot be mapped become nan, and a
    geometry of GeoJSON that has one null.

    Example: xdreg points out/field.ome.zarr landmarks.csv -o moved.csv
    """
    from xdreg.field import field_grid, open_field
    from xdreg.outputs import check_file, new_file
    from xdreg.point_files import kind_of, read_points
    from xdreg.points import transform_points

    check_file(output, overwrite=overwrite)
    if kind_of(output) != kind_of(table):
        msg = f"{table} is {kind_of(table)} and {output} is not; write the same kind"
        raise InputError(msg)
    opened = open_field(field)
    found = read_points(table, field_grid(opened).dims)
    moved = transform_points(opened, found.points, inverse=inverse)
    with new_file(output, overwrite=overwrite) as partial:
        found.write(partial, moved)
    lost = int(np.isnan(moved).any(axis=1).sum())
    rest = f", {lost} of them nan: outside the fixed image" if lost else ""
    _out.print(
        f"wrote {len(moved)} points to {output}{rest}", highlight=False, soft_wrap=True
    )
