"""Plots of a displacement field: grid, arrows, length, Jacobian determinant.

Each public function reads a plane and calls its ``draw_…``, which figures and reports
share.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xdreg.views.colours import DIVERGING, LENGTHS
from xdreg.views.field_planes import FieldPlane, field_plane, field_plane_near
from xdreg.views.image_view import ImageView, image_view
from xdreg.views.pictures import enlargement
from xdreg.views.planes import Plane
from xdreg.views.plot_axes import axes_or_new, colour_bar, frame, in_units, picture

#: An image to draw on, and the plane of it.
Ground = tuple[ImageView, Plane] | None

#: Lines of a deformed grid, and arrows, along the longer side.
GRID_LINES = 32
ARROWS = 26

#: The colours of the Jacobian determinant span at least one over this to this.
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
    """Draw a regular grid as the field deforms it.

    Parameters
    ----------
    field : Dataset
        A displacement field.
    fixed : DataTree, DataArray or itk.Image, optional
        The fixed image, to draw on.
    affine
        Keep the field's affine part. By default only the rest is drawn, and the grid
        stays in the picture however far apart the images are.
    cut
        In 3-D, the dim perpendicular to the plane; by default ``"z"``.
    at
        Position along ``cut``, in the units of the coordinates; by default the middle:
        of what the fixed image shows if that is given, else of the field.
    channel
        The channel of the fixed image to draw on.
    ax : matplotlib.axes.Axes, optional
        Axes to draw in; by default in a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    InputError
        If there is no such plane.
    """
    found, ground = _read(field, fixed, channel, cut, at)
    return draw_grid(axes_or_new(ax), found, ground, affine=affine)


def draw_grid(
    ax: Any, found: FieldPlane, ground: Ground = None, *, affine: bool = False
) -> Any:
    """Draw a deformed grid, perhaps on an image."""
    _draw_ground(ax, ground)
    starts = np.stack(np.meshgrid(*found.plane.positions, indexing="ij"))
    rows, columns = starts + found.components(affine=affine)
    step = _step(found, GRID_LINES)
    look = {"color": "tab:cyan" if ground else "black", "linewidth": 0.6}
    for index in range(0, rows.shape[0], step):
        ax.plot(columns[index], rows[index], **look)
    for index in range(0, rows.shape[1], step):
        ax.plot(columns[:, index], rows[:, index], **look)
    frame(ax, ground[1] if ground else found.plane)
    ax.set_title("deformed grid" + _part(affine))
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

    In 3-D an arrow shows the part of the displacement in the plane, and its colour the
    whole length. Short displacements are enlarged, by the factor in the title.

    Parameters
    ----------
    field, fixed, affine, cut, at, channel, ax
        As in `deformed_grid`.

    Returns
    -------
    matplotlib.axes.Axes
    """
    found, ground = _read(field, fixed, channel, cut, at)
    return draw_quiver(axes_or_new(ax), found, ground, affine=affine)


def draw_quiver(
    ax: Any, found: FieldPlane, ground: Ground = None, *, affine: bool = False
) -> Any:
    """Draw the arrows of a field, perhaps on an image."""
    _draw_ground(ax, ground)
    step = _step(found, ARROWS)
    every = slice(step // 2, None, step)
    rows, columns = (positions[every] for positions in found.plane.positions)
    v, u = (part[every, every] for part in found.components(affine=affine))
    factor = enlargement(np.hypot(u, v), step * min(found.plane.spacing))
    arrows = ax.quiver(
        columns,
        rows,
        factor * u,
        factor * v,
        found.length(affine=affine)[every, every],
        angles="xy",
        scale_units="xy",
        scale=1,
        width=0.004,
        headwidth=4,
        headlength=4,
        headaxislength=3.5,
        cmap=LENGTHS,
    )
    colour_bar(ax, arrows, f"displacement{in_units(found.plane.grid.units)}")
    frame(ax, ground[1] if ground else found.plane)
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
        As in `deformed_grid`.

    Returns
    -------
    matplotlib.axes.Axes
    """
    found = field_plane(field, cut, at)
    return draw_magnitude(axes_or_new(ax), found, affine=affine)


def draw_magnitude(ax: Any, found: FieldPlane, *, affine: bool = False) -> Any:
    """Draw the length of a displacement."""
    length = found.length(affine=affine)
    drawn = picture(ax, length, found.plane, cmap=LENGTHS, vmin=0)
    colour_bar(ax, drawn, f"displacement{in_units(found.plane.grid.units)}")
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

    The scale is logarithmic: doubling and halving are equally far from white. Each
    pixel shows the smallest determinant of the field points in it.

    Parameters
    ----------
    field, cut, at, ax
        As in `deformed_grid`.

    Returns
    -------
    matplotlib.axes.Axes
    """
    found = field_plane(field, cut, at)
    return draw_jacobian(axes_or_new(ax), found)


def draw_jacobian(ax: Any, found: FieldPlane) -> Any:
    """Draw a Jacobian determinant, with its folds marked."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import FuncFormatter, NullLocator

    folds = found.jacobian <= 0
    shown = np.where(folds, np.nan, found.jacobian)
    limit = _jacobian_limit(shown)
    norm = LogNorm(1 / limit, limit)
    drawn = picture(ax, shown, found.plane, cmap=DIVERGING, norm=norm)
    ticks = sorted({1 / limit, 1 / np.sqrt(limit), 1.0, np.sqrt(limit), limit})
    bar = colour_bar(
        ax, drawn, "Jacobian determinant", ticks=ticks,
        format=FuncFormatter(lambda value, _: f"{value:.2f}"), extend="both",
    )  # fmt: skip
    bar.ax.yaxis.set_minor_locator(NullLocator())
    text = "no fold in this plane"
    if folds.any():
        rows, columns = found.plane.positions
        where = np.nonzero(folds)
        ax.plot(
            columns[where[1]], rows[where[0]], "s", markersize=4,
            markerfacecolor="yellow", markeredgecolor="black", markeredgewidth=0.6,
        )  # fmt: skip
        text = f"folds at {folds.sum()} of {folds.size} pixels, marked yellow"
    ax.set_title(f"volume change: {text}")
    return ax


def _read(
    field: xr.Dataset, fixed: Any, channel: Any, cut: str | None, at: float | None
) -> tuple[FieldPlane, Ground]:
    """Return the field in a plane, and the fixed image to draw on, if given."""
    if fixed is None:
        return field_plane(field, cut, at), None
    view = image_view(fixed, "fixed", field, channel)
    plane = view.plane(cut, at)
    return field_plane_near(field, plane), (view, plane)


def _draw_ground(ax: Any, ground: Ground) -> None:
    if ground is not None:
        view, plane = ground
        grey = view.stretched(view.pixels(plane))
        picture(ax, grey, plane, cmap="gray", vmin=0, vmax=1)


def _step(found: FieldPlane, count: int) -> int:
    return max(1, round(max(found.plane.shape) / count))


def _jacobian_limit(values: NDArray[Any]) -> float:
    known = values[np.isfinite(values)]
    if not known.size:
        return LEAST_JACOBIAN_RANGE
    low, high = np.percentile(known, (1, 99))
    return float(max(high, 1 / max(low, 1e-3), LEAST_JACOBIAN_RANGE))


def _part(affine: bool) -> str:
    return "" if affine else ",\nwithout the affine part"
