"""Maps of the blocks of a stage: their status and diagnostics."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xdreg.errors import InputError
from xdreg.fields.diagnostics import SEVERITY, status_name
from xdreg.fields.field import field_grid
from xdreg.fields.provenance import StageRecord, last_deformable, stages_of
from xdreg.partition import BlockStatus
from xdreg.views.colours import LENGTHS, status_colour
from xdreg.views.planes import checked_dim, runs_upward
from xdreg.views.plot_axes import NOTHING, axes_or_new, colour_bar, in_units, label

#: Diagnostics that a map can show: title, and which end is bad.
MEASURES = {
    "similarity_before": ("similarity before the stage", "low"),
    "similarity_after": ("similarity after the stage", "low"),
    "gain": ("gain in similarity", "low"),
    "min_jacobian": ("smallest Jacobian determinant of the update", "low"),
    "max_update": ("largest update", "high"),
    "attempts": ("attempts", "high"),
    "from_search": ("started from the search", "high"),
    "disagreement": ("disagreement with the blend", "high"),
    "neighbour_difference": ("difference from neighbours / voxels", "high"),
    "missing_chunks": ("missing chunks of the images", "high"),
    "seconds": ("time / s", "high"),
}

#: In a map of at most this many blocks, each shows its value.
NUMBERED = 80

#: In a map of at least this many blocks, no borders are drawn.
BORDERLESS = 2000


def block_map(
    field: xr.Dataset,
    what: str = "status",
    *,
    stage: int | None = None,
    cut: str | None = None,
    at: int | None = None,
    ax: Any = None,
) -> Any:
    """Draw a map of the blocks of a stage.

    Parameters
    ----------
    field : Dataset
        A displacement field.
    what
        ``"status"``, ``"gain"``, or the name of a diagnostic without ``block_``, such
        as ``"similarity_after"``.
    stage
        Number of the stage; by default the last deformable one.
    cut
        In 3-D, the dim to look along; by default ``"z"``.
    at
        Index of a layer of blocks along ``cut``; by default every place shows the worst
        of all layers.
    ax : matplotlib.axes.Axes, optional
        Axes to draw in; by default in a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    InputError
        If the field has no such stage or measure.
    """
    record = _chosen_stage(field, stage)
    values = _measured(record, what)
    grid = field_grid(field)
    flat, shown, text = _flattened(values, grid.dims, what, cut, at)
    ax = axes_or_new(ax)
    borders = [
        _borders(record, grid.dims.index(dim), n)
        for dim, n in zip(shown, flat.shape, strict=True)
    ]
    ax.set_facecolor(NOTHING)
    width = 0.6 if flat.size < BORDERLESS else 0
    look = {"edgecolors": "white", "linewidth": width}
    name, bad = MEASURES.get(what, (what, ""))
    if what == "status":
        _draw_statuses(ax, borders, flat, record, look)
    else:
        colours = LENGTHS if bad == "low" else "magma"
        drawn = ax.pcolormesh(*borders[::-1], flat, cmap=colours, **look)
        units = in_units(grid.units) if what == "max_update" else ""
        colour_bar(ax, drawn, name + units)
        _number(ax, borders, flat, drawn)
    if record.partition is None:
        ax.set(xlabel=f"block_{shown[1]}", ylabel=f"block_{shown[0]}", aspect="equal")
    else:
        label(ax, grid, shown)
    if not runs_upward(shown[0], grid.units):
        ax.invert_yaxis()
    ax.set_title(name + text)
    return ax


def _chosen_stage(field: xr.Dataset, stage: int | None) -> StageRecord:
    """Return a stage by number, else the last deformable one."""
    found = last_deformable(field)
    if stage is not None:
        records = {record.number: record for record in stages_of(field)}
        if not _is_whole(stage) or stage not in records:
            msg = f"stage must be one of {list(records)}, got {stage!r}"
            raise InputError(msg)
        found = records[stage]
    if found is None or "status" not in found.blocks:
        msg = (
            "the field has no diagnostics of blocks; fields from register have them, "
            "lazy ones after compute()"
        )
        raise InputError(msg)
    return found


def _is_whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _measured(record: StageRecord, what: object) -> NDArray[Any]:
    """Return a measure of every block."""
    blocks = dict(record.blocks)
    if {"similarity_before", "similarity_after"} <= blocks.keys():
        blocks["gain"] = blocks["similarity_after"] - blocks["similarity_before"]
    known = [name for name in ("status", *MEASURES) if name in blocks]
    if not isinstance(what, str) or what not in known:
        msg = f"what must be one of {', '.join(map(repr, known))}; got {what!r}"
        raise InputError(msg)
    return np.asarray(blocks[what])


def _flattened(
    values: NDArray[Any],
    dims: tuple[str, ...],
    what: str,
    cut: str | None,
    at: int | None,
) -> tuple[NDArray[Any], tuple[str, str], str]:
    """Return the map of a plane, its dims, and what the title says of the rest."""
    if values.ndim == 2:
        if cut is not None or at is not None:
            msg = "the blocks are those of a 2-D image; leave out cut and at"
            raise InputError(msg)
        return values, (dims[0], dims[1]), ""
    cut = checked_dim(dims, cut)
    axis = dims.index(cut)
    rows, columns = (dim for dim in dims if dim != cut)
    count = values.shape[axis]
    if at is not None:
        if not _is_whole(at) or not 0 <= at < count:
            msg = f"at must be a layer of blocks from 0 to {count - 1}, got {at!r}"
            raise InputError(msg)
        text = f", layer {at} of {count} along {cut}"
        return np.take(values, at, axis), (rows, columns), text
    text = f", the worst along {cut}" if count > 1 else ""
    if what == "status":
        return _worst_status(values, axis), (rows, columns), text
    worst = np.fmin if MEASURES[what][1] == "low" else np.fmax
    return worst.reduce(values, axis=axis), (rows, columns), text


def _worst_status(values: NDArray[Any], axis: int) -> NDArray[Any]:
    order = [*SEVERITY, BlockStatus.SUCCESS]
    rank = np.full(values.shape, len(order))
    for place, status in enumerate(order):
        rank[values == status] = place
    first = np.expand_dims(rank.argmin(axis), axis)
    return np.take_along_axis(values, first, axis).squeeze(axis)


def _borders(record: StageRecord, axis: int, count: int) -> NDArray[np.float64]:
    """Return the borders of blocks: physical, or in block numbers."""
    if record.partition is None:
        return np.arange(count + 1, dtype=np.float64) - 0.5
    grid, size = record.partition.grid, record.partition.block_shape[axis]
    voxels = np.minimum(np.arange(count + 1) * size, grid.shape[axis])
    return np.asarray(grid.origin[axis] + grid.spacing[axis] * (voxels - 0.5))


def _draw_statuses(
    ax: Any,
    borders: list[NDArray[Any]],
    values: NDArray[Any],
    record: StageRecord,
    look: dict[str, Any],
) -> None:
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    found = np.unique(record.blocks["status"]).tolist()
    index = np.searchsorted(found, values)
    colours = [status_colour(status_name(v)) for v in found]
    ax.pcolormesh(
        *borders[::-1], index, cmap=ListedColormap(colours), vmin=-0.5,
        vmax=len(found) - 0.5, **look,
    )  # fmt: skip
    handles = [
        Patch(facecolor=status_colour(name), edgecolor="0.5", label=f"{name} ({count})")
        for name, count in record.statuses.items()
    ]
    ax.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False
    )


def _number(
    ax: Any, borders: list[NDArray[Any]], values: NDArray[Any], drawn: Any
) -> None:
    """Write each block's value into it, where there are few blocks."""
    if values.size > NUMBERED:
        return
    rows, columns = ((e[1:] + e[:-1]) / 2 for e in borders)
    for index in zip(*np.nonzero(np.isfinite(values)), strict=True):
        red, green, blue, _ = drawn.cmap(drawn.norm(values[index]))
        dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
        ax.text(
            columns[index[1]], rows[index[0]], f"{values[index]:.3g}", fontsize=7,
            ha="center", va="center", color="white" if dark else "black",
        )  # fmt: skip
