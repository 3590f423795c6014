"""Pictures of a report, each as a ``data:`` URL that a page can hold."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from xdreg.fields.preimage import affine_part
from xdreg.fields.reader import FieldReader
from xdreg.numerics import kernels
from xdreg.stores.pyramid import image_levels
from xdreg.views.colours import LENGTHS, PAIR_RGB
from xdreg.views.image_view import image_view
from xdreg.views.pictures import Style, overlay
from xdreg.views.planes import Plane
from xdreg.views.plot import draw_pair
from xdreg.views.plot_axes import (
    LONGEST_NAME,
    colour_bar,
    in_units,
    name_pair,
    panel_height,
    picture,
)
from xdreg.views.plot_blocks import block_map
from xdreg.views.plot_field import draw_grid, draw_jacobian, draw_magnitude, draw_quiver

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr
    from numpy.typing import NDArray

    from xdreg.fields.accuracy import LabelOverlap, LandmarkErrors
    from xdreg.fields.provenance import StageRecord
    from xdreg.grid import Grid
    from xdreg.partition import Partition
    from xdreg.views.scene import Scene, ScenePlane

#: Dots per inch: sharp on a screen of double density at half the size.
DPI = 110

#: Width of a panel and of the picture in it, in inches.
PANEL, PICTURE = 4.3, 3.3

#: Pixels of a block's picture along its longer side.
BLOCK_PIXELS = 256

#: Landmarks and labels that are named in pictures, and the colour of what stands out.
NAMED, ODD = 5, "#d55e00"

#: Most labels that are drawn.
MOST_LABELS = 60

BEFORE_COLOUR, AFTER_COLOUR = "#9a9a9a", "#0072b2"


def wipe(plane: ScenePlane) -> dict[str, Any]:
    """Return three pictures of a plane for a page to lay over each other.

    ``ratio`` is width over height.
    """
    fixed, moving = plane.scene.pair
    shown = plane.in_colours
    rows = slice(None, None, -1 if plane.plane.upward else 1)
    return {
        "title": plane.plane.title,
        "fixed": picture_url(fixed.stretched(shown.fixed)[rows]),
        "before": picture_url(moving.stretched(shown.before)[rows]),
        "after": picture_url(moving.stretched(shown.after)[rows]),
        "ratio": plane.plane.ratio,
    }


def picture_url(values: NDArray[Any]) -> str:
    """Return a picture of values from 0 to 1, ``(rows, columns)`` or with colours."""
    from PIL import Image

    pixels = np.rint(np.nan_to_num(values) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", optimize=True)
    return _url(buffer.getvalue())


def _new_figure(width: float, height: float) -> Any:
    """Return a figure made without pyplot, whose state belongs to the user."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _figure_url(figure: Any, *, fine: float = 1.0) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=fine * DPI)
    return _url(buffer.getvalue())


def _url(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def pair_figure(plane: ScenePlane, *, across: bool) -> str:
    """Draw an overlay before, and overlay, checkerboard and difference after.

    Across modalities a difference of intensities means nothing, and is left out.
    """
    overlaid, _, board, gaps = get_args(Style)
    styles = [overlaid, overlaid, board] + ([] if across else [gaps])
    figure = _new_figure(PANEL * len(styles), panel_height(plane.plane, PICTURE))
    axes = figure.subplots(1, len(styles))
    for number, (ax, style) in enumerate(zip(axes, styles, strict=True)):
        draw_pair(ax, plane, style, before=number == 0)
        ax.set_title(f"{style}, {'before' if number == 0 else 'after'}")
    figure.suptitle(plane.plane.title, parse_math=False)
    return _figure_url(figure)


def field_figure(plane: ScenePlane) -> str:
    """Draw the field in a plane: grid, arrows, length, Jacobian determinant."""
    figure = _new_figure(4 * PANEL, panel_height(plane.plane, PICTURE) + 0.3)
    axes = figure.subplots(1, 4)
    draw_grid(axes[0], plane.field, (plane.scene.pair[0], plane.plane))
    draw_quiver(axes[1], plane.field)
    draw_magnitude(axes[2], plane.field)
    draw_jacobian(axes[3], plane.field)
    figure.suptitle(plane.plane.title, parse_math=False)
    return _figure_url(figure)


def stage_figure(field: xr.Dataset, stage: StageRecord) -> str | None:
    """Draw maps of a stage's blocks; return None for a single block."""
    if np.prod(stage.counts) < 2:
        return None
    names = ["status"]
    both = {"similarity_before", "similarity_after"} <= stage.blocks.keys()
    names += ["similarity_after", "gain"] if both else []
    figure = _new_figure(5.2 * len(names), 3.8)
    axes = np.atleast_1d(figure.subplots(1, len(names)))
    for ax, name in zip(axes, names, strict=True):
        block_map(field, name, stage=stage.number, ax=ax)
    return _figure_url(figure)


def landmark_figure(errors: LandmarkErrors, units: str | None) -> str:
    """Draw the cumulative distribution of landmark errors."""
    figure = _new_figure(6, 3.6)
    ax = figure.subplots()
    for values, colour, name in (
        (errors.before, BEFORE_COLOUR, "before"),
        (errors.after, AFTER_COLOUR, "after"),
    ):
        known = np.sort(values[np.isfinite(errors.after)])
        share = np.arange(1, known.size + 1) / max(known.size, 1)
        ax.plot(known, 100 * share, ".-", color=colour, label=name, linewidth=1)
    ax.set_xlabel("error" + in_units(units), parse_math=False)
    ax.set(ylabel="landmarks with at most this error / %", ylim=(0, 103), xlim=0)
    ax.grid(color="0.9")
    ax.legend(frameon=False)
    return _figure_url(figure)


def landmark_map(
    planes: Sequence[ScenePlane], errors: LandmarkErrors, odd: Sequence[int]
) -> str:
    """Draw all landmarks on the fixed image, projected onto its planes.

    Colours are the errors after registration. The worst have their names, those that
    stand out are ringed.
    """
    figure, axes = _side_by_side(planes)
    points = along_axes(errors.fixed, planes[0].scene.pair[0].grids[0])
    known = [i for i in errors.order[::-1] if np.isfinite(errors.after[i])]
    usual = [i for i in known if i not in odd]
    limit = float(errors.after[usual].max()) if usual else 1.0
    named = [i for i in errors.order if i in known][:NAMED]
    for ax, shown in zip(axes, planes, strict=True):
        _draw_fixed(ax, shown)
        y, x = points[:, list(shown.plane.axes)].T
        drawn = ax.scatter(
            x[known], y[known], c=errors.after[known], cmap=LENGTHS, vmin=0,
            vmax=limit or 1.0, s=22, edgecolors="black", linewidths=0.5,
        )  # fmt: skip
        ax.plot(x[odd], y[odd], "o", color=ODD, markersize=13, fillstyle="none")
        for i in named:
            _write(ax, x[i], y[i], errors.names[i])
    units = planes[0].plane.grid.units
    extend = "max" if odd else "neither"
    colour_bar(axes[-1], drawn, f"error after{in_units(units)}", extend=extend)
    return _figure_url(figure, fine=1.0 if len(planes) > 1 else 1.5)


def along_axes(points: NDArray[np.float64], grid: Grid) -> NDArray[np.float64]:
    """Return points of the world along the axes of an image that may be oblique."""
    return points if grid.direction is None else points @ grid.from_world[:-1, :-1].T


def label_map(
    planes: Sequence[ScenePlane], labels: tuple[Any, Any], names: dict[int, str]
) -> str:
    """Draw outlines of labels: of fixed in magenta, of moving after it in green.

    ``names`` has labels to draw, the worst first, of which some are named.
    """
    figure, axes = _side_by_side(planes)
    field, displacement = planes[0].scene.field, planes[0].scene.displacement
    views = [
        image_view(_finest(image), f"{side} labels", field)
        for image, side in zip(labels, ("fixed", "moving"), strict=True)
    ]
    for ax, shown in zip(axes, planes, strict=True):
        _draw_fixed(ax, shown)
        maps = [
            view.pixels(shown.plane, mapping, order=0)
            for view, mapping in zip(views, (None, displacement), strict=True)
        ]
        rows, columns = shown.plane.positions
        for place, (label, name) in enumerate(names.items()):
            for values, colour in zip(maps, PAIR_RGB, strict=True):
                inside = values == label
                if inside.any() and not inside.all():
                    ax.contour(
                        columns, rows, inside, [0.5], colors=[colour], linewidths=0.9
                    )
            where = np.nonzero(maps[0] == label)
            if place < NAMED and where[0].size:
                _write(ax, columns[where[1]].mean(), rows[where[0]].mean(), name)
    name_pair(axes[0], "fixed labels", "moving labels, after")
    return _figure_url(figure, fine=1.0 if len(planes) > 1 else 1.5)


def _finest(image: Any) -> Any:
    """Return the finest level of labels: coarser ones may hold means of numbers."""
    return image_levels(image, "labels")[0]


def _side_by_side(planes: Sequence[ScenePlane]) -> tuple[Any, Any]:
    """Return a figure with axes for planes in a row, each as wide as it shows."""
    shares = [shown.plane.ratio for shown in planes]
    height = min(PICTURE * len(planes) / sum(shares) + 1.0, 2.2 * PICTURE)
    figure = _new_figure(PANEL * max(len(planes), 1.6), height)
    axes = figure.subplots(1, len(planes), width_ratios=shares, squeeze=False)[0]
    return figure, axes


def _draw_fixed(ax: Any, shown: ScenePlane) -> None:
    fixed = shown.scene.pair[0]
    picture(ax, fixed.stretched(shown.fixed), shown.plane, cmap="gray", vmin=0, vmax=1)
    ax.set_title(shown.plane.title, parse_math=False)


def _write(ax: Any, x: float, y: float, name: str) -> None:
    """Write a name into a picture, so that it is read on black and on white."""
    from matplotlib.patheffects import withStroke

    short = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
    ax.annotate(
        short, (x, y), xytext=(5, 5), textcoords="offset points", fontsize=8,
        color="white", parse_math=False, clip_on=True,
        path_effects=[withStroke(linewidth=2, foreground="black")],
    )  # fmt: skip


def label_figure(overlaps: dict[int, LabelOverlap]) -> str:
    """Draw the Dice coefficient of every label, in the order given."""
    before, after = ([v.dice[i] for v in overlaps.values()] for i in (0, 1))
    figure = _new_figure(8, 3.6)
    ax = figure.subplots()
    places = np.arange(len(overlaps))
    ax.vlines(places, before, after, color="0.8", linewidth=1.5)
    ax.plot(places, before, "o", color=BEFORE_COLOUR, label="before", markersize=4)
    ax.plot(places, after, "o", color=AFTER_COLOUR, label="after", markersize=4)
    if len(overlaps) <= 60:
        ax.set_xticks(places, [str(v) for v in overlaps], rotation=90, fontsize=7)
    ax.set(xlabel="label", ylabel="Dice", ylim=(-0.03, 1.03))
    ax.grid(axis="y", color="0.9")
    ax.legend(frameon=False, loc="lower right")
    return _figure_url(figure)


def block_figure(scene: Scene, partition: Partition, block: Sequence[int]) -> str:
    """Draw a block's window by the field's affine part alone, and by the field."""
    from matplotlib.patches import Rectangle

    fixed, moving = scene.pair
    plane = block_plane(partition, block)
    matrix = affine_part(scene.displacement)
    linear = FieldReader(*kernels.affine_displacement(matrix, plane.grid))
    reference = fixed.stretched(fixed.pixels(plane))
    moved = (
        moving.stretched(moving.pixels(plane, mapping))
        for mapping in (linear, scene.displacement)
    )
    pictures = reference, *(overlay(reference, values) for values in moved)
    low, high = partition.grid.window(partition.core(block)).bounds
    row, column = plane.axes
    size = high[column] - low[column], high[row] - low[row]
    titles = "fixed", "affine part alone", "after"
    figure = _new_figure(8.4, panel_height(plane, 2.3))
    axes = figure.subplots(1, 3, sharey=True)
    for ax, values, title in zip(axes, pictures, titles, strict=True):
        picture(ax, values, plane, cmap="gray", vmin=0, vmax=1)
        ax.set_title(title, fontsize=9)
        ax.tick_params(labelsize=7)
        core = Rectangle(
            (low[column], low[row]), *size,
            fill=False, edgecolor="yellow", linewidth=0.8,
        )  # fmt: skip
        ax.add_patch(core)
    for ax in axes[1:]:
        ax.set_ylabel("")
    return _figure_url(figure, fine=0.8)


def block_plane(partition: Partition, block: Sequence[int]) -> Plane:
    """Return the plane through the middle of a block's window, in coarse pixels."""
    grid, cut = partition.grid.window(partition.window(block)), None
    if grid.ndim == 3:
        cut, middle = grid.dims[0], grid.shape[0] // 2
        grid = grid.window([slice(middle, middle + 1), slice(None), slice(None)])
    shrink = max(1, -(-max(grid.shape[-2:]) // BLOCK_PIXELS))
    return Plane(grid.coarsen([min(shrink, n) for n in grid.shape]), cut)
