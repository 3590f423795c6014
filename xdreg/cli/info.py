"""The command ``info``: contents of an image or a field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.table import Table

from xdreg.cli.common import (
    AsJson,
    answer,
    is_field_store,
    is_store,
    open_path,
    show,
)
from xdreg.cli.summary import field_summary, summary_lines, verdict_line
from xdreg.errors import printable
from xdreg.stores.paths import as_address

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

    from xdreg.grid import Grid


def info(
    path: Annotated[
        str, typer.Argument(metavar="IMAGE", help="An image, or a field.ome.zarr.")
    ],
    as_json: AsJson = False,
) -> None:
    """Print the contents of an image or a field.

    Example: xdreg info fixed.ome.zarr
    """
    if is_field_store(path):
        _print_field(_field(path), as_json=as_json)
        return
    levels = _stored_levels(path) if is_store(path) else _levels(path)
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


def _field(path: str) -> xr.Dataset:
    """Open a field, with its displacement if it must be computed from several steps."""
    from xdreg.fields.stored import read_stored
    from xdreg.stores.nodes import open_group
    from xdreg.stores.ownership import SERIES

    address = as_address(path)
    group = open_group(address, None)
    if SERIES not in group.attrs:
        outline = read_stored(address, group).outline()
        if outline is not None:
            return outline
    from xdreg.fields.store import open_field

    return open_field(path)


def _print_field(field: xr.Dataset, *, as_json: bool) -> None:
    from xdreg.fields.diagnostics import status_counts
    from xdreg.fields.field import field_grid

    grid, summary = field_grid(field), field_summary(field)
    values = {"kind": "field", "grid": grid.to_dict(), **summary}
    text = (
        f"displacement field of {_sizes(grid.shape)} points in "
        f"{', '.join(grid.dims)}, every {_sizes(grid.spacing)} {grid.units or ''}"
    )
    lines = {"field": text.rstrip(), **summary_lines(summary)}
    frames = status_counts(field, "status")
    if frames:
        values["frames"] = frames
        lines["frames"] = ", ".join(f"{n} {name}" for name, n in frames.items())
    else:
        lines["verdict"] = verdict_line(summary)
    answer(values, lines, as_json=as_json)


def _stored_levels(path: str) -> list[dict[str, Any]]:
    """Return the levels of a stored image, from its metadata alone."""
    from xdreg.stores.nodes import open_given
    from xdreg.stores.ome_metadata import read_metadata
    from xdreg.stores.orientation import level_layout

    address, group = open_given(path)
    found = read_metadata(address, group)
    levels = []
    for array, level in found.levels:
        layout = level_layout(array, level, found, address)
        chunks = array.shards or array.chunks
        sizes = ([of[axis] for axis in layout.order] for of in (array.shape, chunks))
        levels.append(_row(layout.dims, layout.grid, array.dtype, *sizes))
    return levels


def _levels(path: str) -> list[dict[str, Any]]:
    """Return the levels of an image that is no store."""
    from xdreg.coordinates import grid_of
    from xdreg.stores.pyramid import image_levels

    return [
        _row(
            [str(dim) for dim in array.dims],
            grid_of(array),
            array.dtype,
            array.shape,
            [sizes[0] for sizes in array.chunks] if array.chunks else None,
        )
        for array in image_levels(open_path(path), "image")
    ]


def _row(
    dims: Sequence[str],
    grid: Grid,
    dtype: Any,
    shape: Sequence[int],
    chunks: Sequence[int] | None,
) -> dict[str, Any]:
    return {
        "dims": list(dims),
        "shape": list(shape),
        "spacing": grid.spacing,
        "origin": grid.origin,
        "units": grid.units,
        "dtype": str(dtype),
        "chunks": None if chunks is None else list(np.minimum(chunks, shape).tolist()),
    }
