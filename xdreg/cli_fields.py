"""Commands on fields: invert, points."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.console import Console

from xdreg.cli_common import FieldPath, Overwrite, open_path
from xdreg.errors import InputError, StoreError

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
        typer.Argument(metavar="POINTS", help="CSV with columns named z, y and x."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="CSV to write.")],
    inverse: Annotated[
        bool, typer.Option("--inverse", help="From the moving image to the fixed one.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Map POINTS of the fixed image into the moving one, in physical units.

    Other columns are kept. Points that cannot be mapped become nan.

    Example: xdreg points out/field.ome.zarr landmarks.csv -o moved.csv
    """
    from xdreg.field import field_grid, open_field
    from xdreg.outputs import check_file, new_file
    from xdreg.points import transform_points

    check_file(output, overwrite=overwrite)
    opened = open_field(field)
    dims = field_grid(opened).dims
    header, rows = read_table(table)
    places = places_of(header, dims, table)
    found = transform_points(opened, numbers_of(rows, places, table), inverse=inverse)
    for row, point in zip(rows, found.tolist(), strict=True):
        for place, value in zip(places, point, strict=True):
            row[place] = repr(value)
    with (
        new_file(output, overwrite=overwrite) as partial,
        partial.open("w", newline="") as file,
    ):
        csv.writer(file).writerows([header, *rows])
    lost = int(np.isnan(found).any(axis=1).sum())
    rest = f", {lost} of them nan: outside the fixed image" if lost else ""
    _out.print(
        f"wrote {len(rows)} points to {output}{rest}", highlight=False, soft_wrap=True
    )


def read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows that are not empty."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path} cannot be read as CSV: {error}"
        raise StoreError(msg) from error
    if not rows:
        msg = f"{path} is empty; expected a header, for example z,y,x"
        raise InputError(msg)
    return [name.strip() for name in rows[0]], rows[1:]


def places_of(header: list[str], dims: tuple[str, ...], path: Path) -> list[int]:
    """Return the columns of the dims."""
    missing = [dim for dim in dims if header.count(dim) != 1]
    if missing:
        msg = (
            f"{path} has columns {header}; expected one named {missing[0]!r}, for the "
            f"field has dimensions {dims}"
        )
        raise InputError(msg)
    return [header.index(dim) for dim in dims]


def numbers_of(
    rows: list[list[str]], places: list[int], path: Path
) -> NDArray[np.float64]:
    """Return the coordinates ``(n, ndim)``; name the row that has none."""
    result = np.empty((len(rows), len(places)))
    for number, row in enumerate(rows):
        try:
            result[number] = [float(row[place]) for place in places]
        except (ValueError, IndexError) as error:
            msg = f"{path}: point {number + 1} is {row}; expected numbers"
            raise InputError(msg) from error
    return result
