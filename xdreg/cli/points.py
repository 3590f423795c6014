"""The command ``points``: points of a file, mapped by a field."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from xdreg.cli.common import (
    AsJson,
    FieldPath,
    Overwrite,
    answer,
    given_path,
    open_path,
)
from xdreg.cli.speaking import Quiet, ShowProgress, Verbose
from xdreg.errors import InputError


def points(
    field: FieldPath,
    table: Annotated[
        Path,
        typer.Argument(
            metavar="POINTS",
            help="CSV or Parquet with columns z, y and x, or axis-0, axis-1 and so on; "
            "GeoJSON; or a mesh.",
            parser=given_path,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="File to write, in the same format.",
            parser=given_path,
        ),
    ],
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="LABELS",
            help="Label image of MOVING, such as an atlas's annotation: also write the "
            "column label, the region in which a point lies. With --inverse, of FIXED.",
        ),
    ] = None,
    names: Annotated[
        Path | None,
        typer.Option(
            help="CSV or JSON of the regions with a column id, such as BrainGlobe's "
            "structures.csv; its other columns are written, too.",
            parser=given_path,
        ),
    ] = None,
    inverse: Annotated[
        bool, typer.Option("--inverse", help="From the moving image to the fixed one.")
    ] = False,
    as_json: AsJson = False,
    progress: ShowProgress = True,
    verbose: Verbose = False,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Map POINTS of the fixed image into the moving one, in physical units.

    The rest of the file is kept. Points that cannot be mapped become nan, and a GeoJSON
    geometry with such a point becomes null.

    Example: xdreg points out/field.ome.zarr landmarks.csv -o moved.csv
    """
    if names is not None and labels is None:
        msg = "--names names the regions of a label image; give that as well"
        raise InputError(msg, labels=...)
    from xdreg.fields.field import field_grid
    from xdreg.fields.points import transform_points
    from xdreg.fields.regions import point_regions
    from xdreg.fields.store import open_field
    from xdreg.numerics.point_tables import read_table
    from xdreg.stores.apart import check_apart
    from xdreg.stores.outputs import check_file, new_file
    from xdreg.stores.point_files import kind_of, point_frame, read_points, write_frame
    from xdreg.stores.progress import working

    check_apart(output, field, table, labels, names)
    check_file(output, overwrite=overwrite)
    if kind_of(output) != kind_of(table):
        msg = f"{table} is {kind_of(table)} and {output} is not; write the same format"
        raise InputError(msg)
    opened = open_field(field)
    dims = field_grid(opened).dims
    if labels is None:
        found = read_points(table, dims)
        with working("mapping", enabled=progress):
            moved = transform_points(opened, found.points, inverse=inverse)
        with new_file(output, overwrite=overwrite) as partial:
            found.write(partial, moved)
    else:
        frame = point_frame(table)
        with working("mapping", enabled=progress):
            frame = point_regions(
                opened, frame, open_path(labels), names, inverse=inverse
            )
        with new_file(output, overwrite=overwrite) as partial:
            write_frame(frame, partial)
        moved = read_table(frame, dims).values
    noun = "point" if len(moved) == 1 else "points"
    lost = int(np.isnan(moved).any(axis=1).sum())
    rest = f", {lost} of them nan: outside the fixed image" if lost else ""
    answer(
        {"points": output, "count": len(moved), "unmapped": lost},
        {"wrote": f"{len(moved)} {noun} to {output}{rest}"},
        as_json=as_json,
    )
