"""Plots of a displacement field: grid, arrows, length, Jacobian determinant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xdreg.fields.field import field_grid
from xdreg.views.field_planes import FieldPlane, field_plane
from xdreg.views.pictures import enlargement, stretched
from xdreg.views.plot_axes import axes_or_new, colour_bar, frame, picture
from xdreg.views.viewed import sampled, viewed_fixed

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    from xdreg.views.planes import Plane

#: Lines of a deformed grid, and arrows, along the longer side.
GRID_LINES = 32
ARROWS = 26

#: The Jacobian determinant is shown at least between one over this and this.
LEAST_JACOBIAN_RANGE = 1.25


def deformed_grid(
    field: xr.Dataset,
    *,
    fixed: Any = None,
    affine: bool = False,
    cut: str | None = None,
    at: float | None = None,
    channel: Any = None,
    ax: Any = None,
) -> Any:
    """Draw where the lines of a regular grid go.

    Parameters
    ----------
    field : Dataset
        A displacement field.
    fixed : DataTree, DataArray or itk.Image, optional
        The fixed image, to draw on.
    affine
        Keep the field's affine part. Without it, the default, only what bends is
        drawn, and the grid stays in the picture however far the images are apart.
    cut
        In space, the dim that the plane is perpendicular to; by default ``"z"``.
    at
        Where it cuts, in the units of the coordinates; by default in the middle: of
        what the fixed image shows if that is given, else of the field.
    channel
        Which channel of the fixed image to draw on.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default in a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    InputError
        If there is no such plane.
    """
    found, shown, ax, colour = _prepare(field, fixed, cut, at, channel, ax)
    rows, columns = _moved(found, affine=affine)
    step = _step(found, GRID_LINES)
    for index in range(0, rows.shape[0], step):
        ax.plot(columns[index], rows[index], color=colour, linewidth=0.6)
    for index in range(0, rows.shape[1], step):
        ax.plot(columns[:, index], rows[:, index], color=colour, linewidth=0.6)
    frame(ax, shown)
    ax.set_title("where a regular grid goes" + _part(affine))
    return ax


def quiver(
    field: xr.Dataset,
    *,
    fixed: Any = None,
    affine: bool = False,
    cut: str | None = None,
    at: float | None = None,
    channel: Any = None,
    ax: Any = None,
) -> Any:
    """Draw arrows from points to where the field maps them.

    In space an arrow shows the part of the displacement that lies in the plane, and its
    colour the whole length. Short displacements are drawn enlarged, as the title says.

    Parameters
    ----------
    field, fixed, affine, cut, at, channel, ax
        As of `deformed_grid`.

    Returns
    -------
    matplotlib.axes.Axes
    """
    found, shown, ax, _ = _prepare(field, fixed, cut, at, channel, ax)
    plane = found.plane
    vectors = found.displacement if affine else found.local
    step = _step(found, ARROWS)
    place = slice(step // 2, None, step), slice(step // 2, None, step)
    rows, columns = (plane.grid.axis(dim)[place[0]] for dim in plane.dims)
    v, u = (vectors[plane.grid.dims.index(dim)][place] for dim in plane.dims)
    length = np.linalg.norm(vectors, axis=0)[place]
    spacing = dict(zip(plane.grid.dims, plane.grid.spacing, strict=True))
    pitch = step * min(spacing[dim] for dim in plane.dims)
    factor = enlargement(np.hypot(u, v), pitch)
    look: dict[str, Any] = {
        "width": 0.004,
        "headwidth": 4,
        "headlength": 4,
        "headaxislength": 3.5,
    }
    look["cmap"] = "viridis" if fixed is None else "plasma"
    arrows = ax.quiver(
        *(columns, rows, factor * u, factor * v, length),
        angles="xy",
        scale_units="xy",
        scale=1,
        **look,
    )
    colour_bar(ax, arrows, f"displacement{_in_units(plane.grid.units)}")
    frame(ax, shown)
    times = f", {factor:g} × as long" if factor != 1 else ""
    ax.set_title(f"displacement{times}" + _part(affine))
    return ax


def magnitude(
    field: xr.Dataset,
    *,
    affine: bool = False,
    cut: str | None = None,
    at: float | None = None,
    ax: Any = None,
) -> Any:
    """Draw the length of the displacement.

    Parameters
    ----------
    field, affine, cut, at, ax
        As of `deformed_grid`.

    Returns
    -------
    matplotlib.axes.Axes
    """
    found = field_plane(field, cut, at)
    ax = axes_or_new(ax)
    vectors = found.displacement if affine else found.local
    length = np.linalg.norm(vectors, axis=0)
    drawn = picture(ax, length, found.plane, cmap="magma", vmin=0)
    colour_bar(ax, drawn, f"displacement{_in_units(found.plane.grid.units)}")
    ax.set_title("length of the displacement" + _part(affine))
    return ax


def jacobian(
    field: xr.Dataset,
    *,
    cut: str | None = None,
    at: float | None = None,
    ax: Any = None,
) -> Any:
    """Draw the Jacobian determinant: blue shrinks, red grows; folds are marked.

    Doubling and halving are as far from white. Where a pixel stands for several points
    of the field, the smallest determinant of them is shown.

    Parameters
    ----------
    field, cut, at, ax
        As of `deformed_grid`.

    Returns
    -------
    matplotlib.axes.Axes
    """
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import FuncFormatter, NullLocator

    found = field_plane(field, cut, at)
    ax = axes_or_new(ax)
    folds = found.jacobian <= 0
    shown = np.where(folds, np.nan, found.jacobian)
    limit = _jacobian_limit(shown)
    norm = LogNorm(1 / limit, limit)
    drawn = picture(ax, shown, found.plane, cmap="RdBu_r", norm=norm)
    ticks = sorted({1 / limit, 1 / np.sqrt(limit), 1.0, np.sqrt(limit), limit})
    bar = colour_bar(
        ax, drawn, "Jacobian determinant", ticks=ticks,
        format=FuncFormatter(lambda value, _: f"{value:.2f}"), extend="both",
    )  # fmt: skip
    bar.ax.yaxis.set_minor_locator(NullLocator())
    text = "no fold in this plane"
    if folds.any():
        plane = found.plane
        rows, columns = (plane.grid.axis(dim) for dim in plane.dims)
        where = np.nonzero(folds)
        ax.plot(
            columns[where[1]], rows[where[0]], "s", markersize=4,
            markerfacecolor="yellow", markeredgecolor="black", markeredgewidth=0.6,
        )  # fmt: skip
        text = f"folds at {folds.sum()} of {folds.size} pixels, marked yellow"
    ax.set_title(f"volume change: {text}")
    return ax


def _prepare(
    field: xr.Dataset,
    fixed: Any,
    cut: str | None,
    at: float | None,
    channel: Any,
    ax: Any,
) -> tuple[FieldPlane, Plane, Any, str]:
    """Read the field in a plane, and draw the fixed image if there is one.

    Returns what was read, the plane to show, the axes, and a colour to draw with.
    """
    if fixed is None:
        found = field_plane(field, cut, at)
        return found, found.plane, axes_or_new(ax), "black"
    viewed = viewed_fixed(field, fixed, channel)
    plane = viewed.plane(cut, at)
    found = field_plane(field, cut, within(field, plane.cut, plane.position))
    ax = axes_or_new(ax)
    grey = stretched(sampled(viewed, plane), viewed.limits)
    picture(ax, grey, plane, cmap="gray", vmin=0, vmax=1)
    return found, plane, ax, "tab:cyan"


def within(field: xr.Dataset, cut: str | None, at: float | None) -> float | None:
    """Return a place in the fixed image that the field's own grid reaches."""
    if cut is None or at is None:
        return at
    grid = field_grid(field)
    low, high = (float(v[grid.dims.index(cut)]) for v in grid.bounds)
    return min(max(at, low), high)


def _moved(found: FieldPlane, *, affine: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return where the points of a plane go: rows and columns, physical."""
    plane = found.plane
    vectors = found.displacement if affine else found.local
    axes = [plane.grid.axis(dim) for dim in plane.dims]
    start = np.meshgrid(*axes, indexing="ij")
    parts = [vectors[plane.grid.dims.index(dim)] for dim in plane.dims]
    shape = plane.shape
    rows, columns = (a + b.reshape(shape) for a, b in zip(start, parts, strict=True))
    return rows, columns


def _step(found: FieldPlane, count: int) -> int:
    return max(1, round(max(found.plane.shape) / count))


def _jacobian_limit(values: NDArray[Any]) -> float:
    known = values[np.isfinite(values)]
    if not known.size:
        return LEAST_JACOBIAN_RANGE
    low, high = np.percentile(known, (1, 99))
    return float(max(high, 1 / max(low, 1e-3), LEAST_JACOBIAN_RANGE))


def _in_units(units: str | None) -> str:
    return f" / {units}" if units else ""


def _part(affine: bool) -> str:
    return "" if affine else ",\nwithout the affine part"
