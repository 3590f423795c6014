"""Pictures of a registration, drawn from a coarse level of the images (matplotlib).

Every function draws one plane, in physical axes. Those that take ``ax`` draw into given
axes and return them; `before_after` and `overview` return a figure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xdreg.errors import InputError
from xdreg.fields.field import open_displacement
from xdreg.fields.provenance import last_deformable
from xdreg.views.pictures import (
    SQUARES,
    Style,
    checked_style,
    checkerboard,
    difference,
    overlay,
    stretched,
)
from xdreg.views.planes import Plane
from xdreg.views.plot_axes import (
    axes_or_new,
    colour_bar,
    new_figure,
    panel_height,
    picture,
    place_text,
)
from xdreg.views.plot_blocks import block_map
from xdreg.views.plot_field import deformed_grid, jacobian, magnitude, quiver, within
from xdreg.views.viewed import Viewed, sampled, viewed_pair

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from xdreg.fields.reader import FieldReader

__all__ = [
    "before_after",
    "block_map",
    "compare",
    "deformed_grid",
    "jacobian",
    "magnitude",
    "overview",
    "quiver",
]


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
        ``"red-green"``, fixed in red; ``"checkerboard"``, squares of both in turn, in
        colour where both are; ``"difference"``, moving less fixed, for images of one
        modality: gain and offset are fitted first.
    before
        Draw the moving image as it lies, without the field.
    cut
        In space, the dim that the plane is perpendicular to; by default ``"z"``.
    at
        Where it cuts, in the units of the coordinates; by default in the middle of
        what the fixed image shows.
    channel, moving_channel
        Index or name of a channel, or ``"luminance"``; by default what was registered,
        else the luminance of an RGB image.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default in a new figure.

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
    pair = viewed_pair(field, fixed, moving, channel, moving_channel)
    plane = pair[0].plane(cut, at)
    ax = axes_or_new(ax)
    reader = None if before else open_displacement(field)
    _draw_pair(ax, pair, plane, reader, style)
    ax.set_title("before" if before else "after")
    return ax


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
        As of `compare`.

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
    pair = viewed_pair(field, fixed, moving, channel, moving_channel)
    plane = pair[0].plane(cut, at)
    figure = new_figure(14, panel_height(plane, 4.2))
    axes = figure.subplots(1, 3)
    _draw_both(axes, field, pair, plane, style)
    options: dict[str, Any] = {"cut": plane.cut, "at": plane.position}
    deformed_grid(field, fixed=fixed, channel=channel, ax=axes[2], **options)
    _say_where(figure, plane)
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
    """Draw what a registration is judged by: the pair, the field and its blocks.

    Parameters
    ----------
    field : Dataset
        A displacement field.
    fixed, moving : DataTree, DataArray or itk.Image, optional
        The pair; without it the field alone is drawn.
    style, cut, at, channel, moving_channel
        As of `compare`.

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
        options: dict[str, Any] = {"cut": cut, "at": at}
        figure = new_figure(13, 9.5 if blocks else 4.6)
        axes = figure.subplots(2 if blocks else 1, 2 if blocks else 3).ravel()
    else:
        pair = viewed_pair(field, fixed, moving, channel, moving_channel)
        plane = pair[0].plane(cut, at)
        place = within(field, plane.cut, plane.position)
        options = {"cut": plane.cut, "at": place}
        figure = new_figure(15, 2 * panel_height(plane, 4.2))
        axes = figure.subplots(2, 3).ravel()
        _draw_both(axes, field, pair, plane, style)
        axes = axes[2:]
        _say_where(figure, plane)
    deformed_grid(field, fixed=fixed, channel=channel, ax=axes[0], **options)
    magnitude(field, ax=axes[1], **options)
    jacobian(field, ax=axes[2], **options)
    if len(axes) > 3:
        if blocks:
            block_map(field, cut=options["cut"], ax=axes[3])
        else:
            quiver(field, ax=axes[3], **options)
    return figure  # type: ignore[no-any-return]


def _draw_both(
    axes: Any,
    field: xr.Dataset,
    pair: tuple[Viewed, Viewed],
    plane: Plane,
    style: Style,
) -> None:
    """Draw the pair before and after."""
    readers = None, open_displacement(field)
    for ax, reader, title in zip(axes, readers, ("before", "after"), strict=False):
        _draw_pair(ax, pair, plane, reader, style)
        ax.set_title(title)


def _draw_pair(
    ax: Any,
    pair: tuple[Viewed, Viewed],
    plane: Plane,
    displacement: FieldReader | None,
    style: Style,
) -> None:
    fixed, moving = pair
    if style == "checkerboard":
        values = _checked(fixed, moving, plane, displacement)
        picture(ax, values, plane, cmap="gray", vmin=0, vmax=1)
        return
    reference = sampled(fixed, plane)
    moved = sampled(moving, plane, displacement)
    if style == "difference":
        gaps, limit = difference(reference, moved)
        drawn = picture(ax, gaps, plane, cmap="RdBu_r", vmin=-limit, vmax=limit)
        colour_bar(ax, drawn, "moving less fixed")
        return
    laid = overlay(
        stretched(reference, fixed.limits),
        stretched(moved, moving.limits),
        red_green=style == "red-green",
    )
    picture(ax, laid, plane)


def _checked(
    fixed: Viewed, moving: Viewed, plane: Plane, displacement: FieldReader | None
) -> NDArray[Any]:
    colours = fixed.coloured and moving.coloured
    reference = sampled(fixed, plane, colours=colours)
    moved = sampled(moving, plane, displacement, colours=colours)
    limits = (0.0, 255.0) if colours else None
    reference = stretched(reference, limits or fixed.limits)
    moved = stretched(moved, limits or moving.limits)
    steps = dict(zip(plane.grid.dims, plane.grid.spacing, strict=True))
    extent = max(n * steps[d] for n, d in zip(plane.shape, plane.dims, strict=True))
    rows, columns = (max(1, round(extent / SQUARES / steps[dim])) for dim in plane.dims)
    return checkerboard(reference, moved, (rows, columns))


def _say_where(figure: Any, plane: Plane) -> None:
    text = place_text(plane)
    if text:
        figure.suptitle(text, parse_math=False)
