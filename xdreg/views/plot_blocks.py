"""Maps of a run's blocks: what became of each, and how similar it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xdreg.errors import InputError
from xdreg.fields.diagnostics import (
    SEVERITY,
    STATUS_COLOURS,
    UNKNOWN_COLOUR,
    status_name,
)
from xdreg.fields.provenance import (
    StageRecord,
    last_deformable,
    stages_of,
)
from xdreg.partition import BlockStatus
from xdreg.views.plot_axes import NOTHING, axes_or_new, colour_bar, label

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

#: What a map may show, with its name, its colours, and which end is the bad one.
_MEASURES: dict[str, tuple[str, str, str]] = {
    "similarity_before": ("similarity before the stage", "viridis", "low"),
    "similarity_after": ("similarity after the stage", "viridis", "low"),
    "gain": ("gain in similarity", "viridis", "low"),
    "min_jacobian": ("smallest Jacobian determinant of the update", "viridis", "low"),
    "max_update": ("largest update", "magma", "high"),
    "attempts": ("attempts", "magma", "high"),
    "from_search": ("begun at the search's result", "magma", "high"),
    "disagreement": ("disagreement with the blend", "magma", "high"),
    "neighbour_difference": ("difference from neighbours / voxels", "magma", "high"),
    "seconds": ("time / s", "magma", "high"),
}

#: Up to so many blocks in a map each shows its number.
NUMBERED = 80


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
        Its number; by default the last deformable one.
    cut
        In space, the dim to look along; by default ``"z"``.
    at
        Which layer of blocks along it; by default all, and each place shows the worst
        of them.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default in a new figure.

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
    dims = tuple(str(d) for d in field["displacement"].dims if d != "component")
    flat, shown, text = _flattened(values, dims, what, cut, at)
    ax = axes_or_new(ax)
    edges = [_edges(record, dims.index(dim), n) for dim, n in
             zip(shown, flat.shape, strict=True)]  # fmt: skip
    ax.set_facecolor(NOTHING)
    look = {"edgecolors": "white", "linewidth": 0.6 if flat.size < 2000 else 0}
    if what == "status":
        _draw_statuses(ax, edges, flat, record, look)
    else:
        name, colours, _ = _MEASURES[what]
        drawn = ax.pcolormesh(*edges[::-1], flat, cmap=colours, **look)
        units = field["displacement"].attrs.get("units") if what == "max_update" else ""
        colour_bar(ax, drawn, f"{name} / {units}" if units else name)
        _number(ax, edges, flat, drawn)
    if record.partition is None:
        ax.set(xlabel=f"block_{shown[1]}", ylabel=f"block_{shown[0]}", aspect="equal")
    else:
        label(ax, record.partition.grid, shown)
    ax.invert_yaxis()
    ax.set_title(f"{'status' if what == 'status' else _MEASURES[what][0]}{text}")
    return ax


def _chosen_stage(field: xr.Dataset, stage: int | None) -> StageRecord:
    records = stages_of(field)
    found = last_deformable(field)
    if stage is not None:
        numbers = [record.number for record in records]
        whole = isinstance(stage, int | np.integer) and not isinstance(stage, bool)
        if not whole or stage not in numbers:
            msg = f"stage must be one of {numbers}, got {stage!r}"
            raise InputError(msg)
        found = records[numbers.index(stage)]
    if found is None or "status" not in found.blocks:
        msg = (
            "the field tells nothing of its blocks; a field that register returned "
            "does, and of a lazy one compute() it first"
        )
        raise InputError(msg)
    return found


def _measured(record: StageRecord, what: object) -> NDArray[Any]:
    if isinstance(what, str) and what == "gain":
        pair = [record.blocks.get(f"similarity_{w}") for w in ("after", "before")]
        if pair[0] is not None and pair[1] is not None:
            return np.asarray(pair[0] - pair[1])
    known = [name for name in ("status", *_MEASURES) if name in record.blocks]
    if not isinstance(what, str) or what not in known:
        msg = (
            f"what must be 'gain' or one of {', '.join(map(repr, known))}; got {what!r}"
        )
        raise InputError(msg)
    return np.asarray(record.blocks[what])


def _flattened(
    values: NDArray[Any],
    dims: tuple[str, ...],
    what: str,
    cut: str | None,
    at: int | None,
) -> tuple[NDArray[Any], tuple[str, str], str]:
    """Return the map in a plane, its dims, and what to say of the way there."""
    if values.ndim == 2:
        if cut is not None or at is not None:
            msg = "the blocks lie in a plane; leave out cut and at"
            raise InputError(msg)
        return values, (dims[0], dims[1]), ""
    cut = dims[0] if cut is None else cut
    if not isinstance(cut, str) or cut not in dims:
        msg = f"cut must be one of {', '.join(map(repr, dims))}, got {cut!r}"
        raise InputError(msg)
    axis = dims.index(cut)
    rows, columns = (dim for dim in dims if dim != cut)
    count = values.shape[axis]
    if at is not None:
        whole = isinstance(at, int | np.integer) and not isinstance(at, bool)
        if not whole or not 0 <= at < count:
            msg = f"at must be a layer of blocks from 0 to {count - 1}, got {at!r}"
            raise InputError(msg)
        text = f", layer {at} of {count} along {cut}"
        return np.take(values, at, axis), (rows, columns), text
    text = f", the worst along {cut}" if count > 1 else ""
    if what == "status":
        return _worst_status(values, axis), (rows, columns), text
    reduce = np.fmin if _MEASURES[what][2] == "low" else np.fmax
    return reduce.reduce(values, axis=axis), (rows, columns), text


def _worst_status(values: NDArray[Any], axis: int) -> NDArray[Any]:
    order = [*SEVERITY, BlockStatus.SUCCESS]
    rank = np.full(values.shape, len(order))
    for place, status in enumerate(order):
        rank[values == status] = place
    first = np.expand_dims(rank.argmin(axis), axis)
    return np.take_along_axis(values, first, axis).squeeze(axis)


def _edges(record: StageRecord, axis: int, count: int) -> NDArray[np.float64]:
    """Return the borders of blocks: physical, or block numbers."""
    if record.partition is None:
        return np.arange(count + 1, dtype=np.float64) - 0.5
    grid, size = record.partition.grid, record.partition.block_shape[axis]
    voxels = np.minimum(np.arange(count + 1) * size, grid.shape[axis])
    return np.asarray(grid.origin[axis] + grid.spacing[axis] * (voxels - 0.5))


def _draw_statuses(
    ax: Any,
    edges: list[NDArray[Any]],
    values: NDArray[Any],
    record: StageRecord,
    look: dict[str, Any],
) -> None:
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    names = list(record.statuses)
    found = np.unique(record.blocks["status"]).tolist()
    index = np.searchsorted(found, values)
    colours = [STATUS_COLOURS.get(status_name(v), UNKNOWN_COLOUR) for v in found]
    ax.pcolormesh(
        *edges[::-1], index, cmap=ListedColormap(colours), vmin=-0.5,
        vmax=len(found) - 0.5, **look,
    )  # fmt: skip
    handles = [
        Patch(
            facecolor=STATUS_COLOURS.get(name, UNKNOWN_COLOUR),
            edgecolor="0.5",
            label=f"{name} ({record.statuses[name]})",
        )
        for name in names
    ]
    ax.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False
    )


def _number(
    ax: Any, edges: list[NDArray[Any]], values: NDArray[Any], drawn: Any
) -> None:
    """Write each block's number into it, where there are few."""
    if values.size > NUMBERED:
        return
    rows, columns = ((e[1:] + e[:-1]) / 2 for e in edges)
    for index in zip(*np.nonzero(np.isfinite(values)), strict=True):
        red, green, blue, _ = drawn.cmap(drawn.norm(values[index]))
        dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
        ax.text(
            columns[index[1]], rows[index[0]], f"{values[index]:.3g}", fontsize=7,
            ha="center", va="center", color="white" if dark else "black",
        )  # fmt: skip
