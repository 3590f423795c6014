"""Plots of a pair before and after registration, and overviews (matplotlib).

Every function draws one plane of a coarse level, in physical axes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xdreg.errors import InputError
from xdreg.fields.provenance import last_deformable
from xdreg.views.colours import DIVERGING
from xdreg.views.field_planes import field_plane
from xdreg.views.pictures import Style, checked_style, checkerboard, difference, overlay
from xdreg.views.plot_axes import (
    axes_or_new,
    colour_bar,
    name_pair,
    new_figure,
    panel_height,
    picture,
)
from xdreg.views.plot_blocks import block_map
from xdreg.views.plot_field import draw_grid, draw_jacobian, draw_magnitude, draw_quiver
from xdreg.views.scene import ScenePlane, make_scene

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from xdreg.views.planes import Plane

#: Squares of a checkerboard along the longer side.
SQUARES = 10


def compare(
    field: xr.Dataset,
    fixed: Any,
    moving: Any,
    style: Style = "overlay",
    *,
    before: bool = False,
    cut: str | None = None,
    at: float | None = None,
    channel: Any = None,
    moving_channel: Any = None,
    ax: Any = None,
) -> Any:
    """Draw the moving image on the fixed one, after registration or before.

    Parameters
    ----------
    field : Dataset
        A displacement field.
    fixed, moving : DataTree, DataArray or itk.Image ([c], [z], y, x)
        The pair. Of a tree, a coarse level is read.
    style
        ``"overlay"``, fixed in magenta and moving in green, grey where they agree;
        ``"red-green"``, fixed in red; ``"checkerboard"``, alternating squares, in
        colour where both are; ``"difference"``, moving minus fixed, for images of one
        modality: gain and offset are fitted first.
    before
        Draw the moving image without the field.
    cut
        In 3-D, the dim perpendicular to the plane; by default ``"z"``.
    at
        Position along ``cut``, in the units of the coordinates; by default the middle
        of what the fixed image shows.
    channel, moving_channel
        Index or name of a channel, or ``"luminance"``; by default the registered
        channel, else the luminance of an RGB image.
    ax : matplotlib.axes.Axes, optional
        Axes to draw in; by default in a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    InputError
        If the images do not fit the field, have several time points, or a channel must
        be chosen.
    """
    style = checked_style(style)
    options = {"channel": channel, "moving_channel": moving_channel}
    found = make_scene(field, fixed, moving, **options).plane(cut, at)
    return draw_pair(axes_or_new(ax), found, style, before=before)


def before_after(
    field: xr.Dataset,
    fixed: Any,
    moving: Any,
    *,
    style: Style = "overlay",
    cut: str | None = None,
    at: float | None = None,
    channel: Any = None,
    moving_channel: Any = None,
) -> Figure:
    """Draw a plane of the pair before and after registration, with the deformation.

    Parameters
    ----------
    field, fixed, moving, style, cut, at, channel, moving_channel
        As in `compare`.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If the images do not fit the field, have several time points, or a channel must
        be chosen.
    """
    style = checked_style(style)
    options = {"channel": channel, "moving_channel": moving_channel}
    found = make_scene(field, fixed, moving, **options).plane(cut, at)
    figure = new_figure(14, panel_height(found.plane, 4.2))
    _draw_before_after(figure, figure.subplots(1, 3), found, style)
    return figure  # type: ignore[no-any-return]


def overview(
    field: xr.Dataset,
    fixed: Any = None,
    moving: Any = None,
    *,
    style: Style = "overlay",
    cut: str | None = None,
    at: float | None = None,
    channel: Any = None,
    moving_channel: Any = None,
) -> Figure:
    """Draw what to judge a registration by: the pair, the field and its blocks.

    Parameters
    ----------
    field : Dataset
        A displacement field.
    fixed, moving : DataTree, DataArray or itk.Image, optional
        The pair; without it the field alone is drawn.
    style, cut, at, channel, moving_channel
        As in `compare`.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If only one image is given, or they do not fit the field.
    """
    style = checked_style(style)
    if (fixed is None) != (moving is None):
        msg = "a plot needs both images, fixed and moving, or none of them"
        raise InputError(msg)
    stage = last_deformable(field)
    blocks = stage is not None and "status" in stage.blocks
    if fixed is None:
        flow = field_plane(field, cut, at)
        figure = new_figure(13, 9.5 if blocks else 4.6)
        axes = figure.subplots(2 if blocks else 1, 2 if blocks else 3).ravel()
        draw_grid(axes[0], flow)
    else:
        options = {"channel": channel, "moving_channel": moving_channel}
        found = make_scene(field, fixed, moving, **options).plane(cut, at)
        flow, cut = found.field, found.plane.cut
        figure = new_figure(15, 2 * panel_height(found.plane, 4.2))
        axes = figure.subplots(2, 3).ravel()
        _draw_before_after(figure, axes, found, style)
        axes = axes[2:]
    draw_magnitude(axes[1], flow)
    draw_jacobian(axes[2], flow)
    if len(axes) > 3 and blocks:
        block_map(field, cut=cut, ax=axes[3])
    elif len(axes) > 3:
        draw_quiver(axes[3], flow)
    return figure  # type: ignore[no-any-return]


def _draw_before_after(figure: Any, axes: Any, found: ScenePlane, style: Style) -> None:
    """Draw the pair before and after, and a grid on the fixed image."""
    draw_pair(axes[0], found, style, before=True)
    draw_pair(axes[1], found, style)
    draw_grid(axes[2], found.field, (found.scene.pair[0], found.plane))
    if found.plane.text:
        figure.suptitle(found.plane.text, parse_math=False)


def draw_pair(ax: Any, found: ScenePlane, style: Style, *, before: bool = False) -> Any:
    """Draw both images of a plane in one picture."""
    fixed, moving = found.scene.pair
    if style == "checkerboard":
        found = found.in_colours
    moved = found.before if before else found.after
    ax.set_title("before" if before else "after")
    if style == "difference":
        gaps, limit = difference(found.fixed, moved)
        drawn = picture(ax, gaps, found.plane, cmap=DIVERGING, vmin=-limit, vmax=limit)
        colour_bar(ax, drawn, "moving − fixed")
        return ax
    pair = fixed.stretched(found.fixed), moving.stretched(moved)
    if style == "checkerboard":
        board = checkerboard(*pair, _square(found.plane))
        picture(ax, board, found.plane, cmap="gray", vmin=0, vmax=1)
    else:
        red_green = style == "red-green"
        picture(ax, overlay(*pair, red_green=red_green), found.plane)
        name_pair(ax, fixed.title, moving.title, red_green=red_green)
    return ax


def _square(plane: Plane) -> tuple[int, int]:
    """Return the pixels of a checkerboard's square, per axis."""
    extent = max(n * s for n, s in zip(plane.shape, plane.spacing, strict=True))
    rows, columns = (max(1, round(extent / SQUARES / s)) for s in plane.spacing)
    return rows, columns
