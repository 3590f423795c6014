"""The command that tells what a store holds: info."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from xdreg.cli.common import AsJson, answer, open_path, show
from xdreg.cli.summary import field_summary, summary_lines
from xdreg.errors import StoreError

if TYPE_CHECKING:
    import xarray as xr

    from xdreg.grid import Grid


def info(
    path: Annotated[
        str, typer.Argument(metavar="IMAGE", help="An image, or a field.ome.zarr.")
    ],
    as_json: AsJson = False,
) -> None:
    """Print what an image or a field holds.

    Example: xdreg info fixed.ome.zarr
    """
    from xdreg.fields.field import field_grid
    from xdreg.fields.store import open_field
    from xdreg.stores.pyramid import image_levels

    try:
        image = open_path(path)
    except StoreError as error:
        if "scene" not in str(error):
            raise
        field = open_field(path)
        grid, summary = field_grid(field), field_summary(field)
        values = {"kind": "field", "grid": grid.to_dict(), **summary}
        lines = {"field": _field_text(grid), **summary_lines(summary)}
        answer(values, lines, as_json=as_json)
        return
    levels = [_level(array) for array in image_levels(image, "image")]
    if as_json:
        answer({"kind": "image", "levels": levels}, {}, as_json=True)
        return
    table = Table(
        "level", "dims", "shape", "spacing", "origin", "units", "dtype", "chunks"
    )
    for number, level in enumerate(levels):
        table.add_row(
            str(number),
            " ".join(level["dims"]),
            *(" × ".join(f"{v:g}" for v in level[n]) for n in ("shape", "spacing")),
            ", ".join(f"{v:g}" for v in level["origin"]),
            str(level["units"]),
            level["dtype"],
            str(tuple(level["chunks"])) if level["chunks"] else "-",
        )
    show(table)


def _field_text(grid: Grid) -> str:
    shape, spacing = (
        " × ".join(f"{v:g}" for v in values) for values in (grid.shape, grid.spacing)
    )
    return (
        f"displacement field of {shape} points in {', '.join(grid.dims)}, every "
        f"{spacing} {grid.units or ''}".rstrip()
    )


def _level(array: xr.DataArray) -> dict[str, Any]:
    from xdreg.coordinates import grid_of

    grid = grid_of(array)
    return {
        "dims": [str(dim) for dim in array.dims],
        "shape": list(array.shape),
        "spacing": list(grid.spacing),
        "origin": list(grid.origin),
        "units": grid.units,
        "dtype": str(array.dtype),
        "chunks": [sizes[0] for sizes in array.chunks] if array.chunks else None,
    }
