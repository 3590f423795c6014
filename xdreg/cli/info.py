"""The command ``info``: contents of an image or a field."""

from __future__ import annotations

from typing import Annotated, Any

import typer
import xarray as xr
from rich.table import Table

from xdreg.cli.common import AsJson, answer, open_path_or_field, show
from xdreg.cli.summary import field_summary, summary_lines, verdict_line
from xdreg.errors import printable


def info(
    path: Annotated[
        str, typer.Argument(metavar="IMAGE", help="An image, or a field.ome.zarr.")
    ],
    as_json: AsJson = False,
) -> None:
    """Print the contents of an image or a field.

    Example: xdreg info fixed.ome.zarr
    """
    opened = open_path_or_field(path)
    if isinstance(opened, xr.Dataset):
        from xdreg.fields.field import field_grid

        grid, summary = field_grid(opened), field_summary(opened)
        values = {"kind": "field", "grid": grid.to_dict(), **summary}
        text = (
            f"displacement field of {_sizes(grid.shape)} points in "
            f"{', '.join(grid.dims)}, every {_sizes(grid.spacing)} {grid.units or ''}"
        )
        lines = {"field": text.rstrip(), **summary_lines(summary)}
        lines["verdict"] = verdict_line(summary)
        answer(values, lines, as_json=as_json)
        return
    from xdreg.stores.pyramid import image_levels

    levels = [_level(array) for array in image_levels(opened, "image")]
    if as_json:
        answer({"kind": "image", "levels": levels}, {}, as_json=True)
        return
    table = Table(
        "level", "dims", "shape", "spacing", "origin", "units", "dtype", "chunks"
    )
    for number, level in enumerate(levels):
        table.add_row(
            str(number),
            printable(" ".join(level["dims"])),
            _sizes(level["shape"]),
            _sizes(level["spacing"]),
            ", ".join(f"{v:g}" for v in level["origin"]),
            printable(str(level["units"])),
            level["dtype"],
            str(tuple(level["chunks"])) if level["chunks"] else "-",
        )
    show(table)


def _sizes(values: Any) -> str:
    return " × ".join(f"{v:g}" for v in values)


def _level(array: xr.DataArray) -> dict[str, Any]:
    from xdreg.coordinates import grid_of

    grid = grid_of(array)
    return {
        "dims": [str(dim) for dim in array.dims],
        "shape": array.shape,
        "spacing": grid.spacing,
        "origin": grid.origin,
        "units": grid.units,
        "dtype": str(array.dtype),
        "chunks": [sizes[0] for sizes in array.chunks] if array.chunks else None,
    }
