"""A field's summary, as text for a terminal and as HTML for a notebook."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
import xarray as xr
from dask.utils import format_bytes

from xdreg.coordinates import grid_of
from xdreg.errors import XdregError, printable
from xdreg.fields.diagnostics import status_counts
from xdreg.fields.field import field_grid, fixed_grid, moving_grid
from xdreg.fields.provenance import StageRecord, last_deformable, stages_of
from xdreg.grid import Grid
from xdreg.registration.verdict import verdict
from xdreg.stores.pyramid import image_levels
from xdreg.views.colours import status_colour


def summary_rows(field: xr.Dataset) -> dict[str, str]:
    """Return a field's properties by name, without computing anything.

    Text is printable; it may come from any store.
    """
    grid = field_grid(field)
    rows = {
        "grid": f"{_times(grid.shape)} points ({', '.join(grid.dims)}), every "
        f"{_times(grid.spacing)} {grid.units or 'in coordinates without a unit'}",
        "size": format_bytes(field["displacement"].nbytes)
        + ("" if field["displacement"].chunks is None else ", lazy"),
        "fixed": image_text(fixed_grid(field)),
    }
    if "t" in field["displacement"].dims:
        rows["frames"] = f"{field.sizes['t']}: " + ", ".join(
            f"{n} {name}" for name, n in status_counts(field, "status").items()
        )
    moving = moving_grid(field)
    if moving is not None:
        rows["moving"] = image_text(moving)
    stages = [stage.name for stage in stages_of(field) if stage.name]
    if stages:
        rows["stages"] = " → ".join(stages)
    if "start" in field.attrs:
        rows["start"] = str(field.attrs["start"])
    if "metric" in field.attrs:
        rows["metric"] = str(field.attrs["metric"])
    last = last_deformable(field)
    if last is not None and last.statuses:
        rows["blocks"] = ", ".join(f"{n} {name}" for name, n in last.statuses.items())
        means = mean_similarity(last)
        if means is not None:
            rows["similarity"] = "{:.3f} → {:.3f}, mean of the blocks".format(*means)
        rows["verdict"] = str(verdict(field))
        missing = missing_share(last)
        if missing > 0:
            rows["missing"] = f"{missing:.2g} of the images' chunks, mean of the blocks"
    return {name: printable(text) for name, text in rows.items()}


def mean_similarity(stage: StageRecord) -> tuple[float, float] | None:
    """Return the mean similarity of blocks before and after; None if unknown."""
    before, after = (stage.mean(f"similarity_{when}") for when in ("before", "after"))
    return None if np.isnan(before + after) else (before, after)


def missing_share(stage: StageRecord) -> float:
    """Return the mean share of missing chunks of a stage's blocks, 0 if unknown."""
    return float(np.nan_to_num(stage.mean("missing_chunks")))


def image_text(grid: Grid) -> str:
    """Return an image's geometry in a line."""
    text = f"{_times(grid.shape)} voxels of {_times(grid.spacing)} {grid.units or ''}"
    return text.rstrip()


def summary_text(field: xr.Dataset) -> str:
    """Return the summary in lines."""
    try:
        rows = summary_rows(field)
    except XdregError as error:
        return f"xdreg: {error}"
    width = max(len(name) for name in rows)
    lines = [f"  {name.ljust(width)}  {text}" for name, text in rows.items()]
    return "\n".join(["xdreg displacement field", *lines])


def image_summary(image: Any) -> str:
    """Return an image's geometry and levels in lines."""
    try:
        levels = image_levels(image, "image")
        grids = [grid_of(level, "image") for level in levels]
    except XdregError as error:
        return f"xdreg: {error}"
    others = {d: n for d, n in levels[0].sizes.items() if d not in grids[0].dims}
    rows = {
        "size": image_text(grids[0]),
        "axes": ", ".join(map(str, levels[0].dims)),
        "type": f"{levels[0].dtype}, {format_bytes(levels[0].nbytes)}"
        + ("" if levels[0].chunks is None else ", lazy"),
        "levels": ", ".join(_times(grid.shape) for grid in grids),
    }
    rows |= {str(dim): str(count) for dim, count in others.items()}
    lines = [f"  {name:<6}  {printable(text)}" for name, text in rows.items()]
    return "\n".join(["xdreg image", *lines])


def summary_html(field: xr.Dataset) -> str:
    """Return the summary as HTML, with all strings of a store escaped."""
    try:
        rows = summary_rows(field)
    except XdregError as error:
        return f"<p>xdreg: {escape(str(error))}</p>"
    cells = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(text)}</td></tr>'
        for name, text in rows.items()
    )
    return (
        f"<div><b>xdreg displacement field</b><table>{cells}</table>"
        f"{_status_bar(field)}</div>"
    )


def _status_bar(field: xr.Dataset) -> str:
    """Return a bar with a part per status, as wide as its share of the blocks."""
    last = last_deformable(field)
    if last is None or not last.statuses:
        return ""
    parts = "".join(
        f'<div title="{escape(f"{count} {name}")}" style="flex:{count};background:'
        f'{status_colour(name)}"></div>'
        for name, count in last.statuses.items()
    )
    return (
        '<div style="display:flex;height:0.7em;max-width:32em;border:1px solid #888">'
        f"{parts}</div>"
    )


def _times(values: tuple[float, ...]) -> str:
    return " × ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in values)
