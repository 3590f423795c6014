"""The pictures of a report, each as a ``data:`` address that a page can hold."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from xdreg.fields.field import open_displacement
from xdreg.fields.preimage import affine_part
from xdreg.fields.reader import FieldReader
from xdreg.numerics import kernels
from xdreg.views.pictures import overlay, stretched
from xdreg.views.planes import Plane
from xdreg.views.plot import (
    block_map,
    compare,
    deformed_grid,
    jacobian,
    magnitude,
    quiver,
)
from xdreg.views.plot_axes import panel_height, picture, place_text
from xdreg.views.plot_field import within
from xdreg.views.viewed import Viewed, sampled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import xarray as xr
    from numpy.typing import NDArray

    from xdreg.fields.accuracy import LabelOverlap, LandmarkErrors
    from xdreg.fields.provenance import StageRecord
    from xdreg.partition import Partition

#: Dots per inch: sharp on a screen of twice the usual density at half the size.
DPI = 110

#: Pixels of a block's picture along its longer side.
BLOCK_PIXELS = 256

BEFORE_COLOUR, AFTER_COLOUR = "#9a9a9a", "#0072b2"


@dataclass(frozen=True)
class Wipe:
    """Three pictures of a plane, to be laid on each other in a page.

    Parameters
    ----------
    title
        Where the plane lies.
    fixed, before, after
        Addresses of the pictures: the fixed image, and the moving one as it lies and
        through the field.
    ratio
        Width over height.
    """

    title: str
    fixed: str
    before: str
    after: str
    ratio: float


def wipe(field: xr.Dataset, fixed: Viewed, moving: Viewed, plane: Plane) -> Wipe:
    """Return the pictures of a plane."""
    colours = fixed.coloured and moving.coloured
    reader = open_displacement(field)
    images = (
        sampled(fixed, plane, colours=colours),
        sampled(moving, plane, colours=colours),
        sampled(moving, plane, reader, colours=colours),
    )
    limits = [(0.0, 255.0) if colours else v.limits for v in (fixed, moving, moving)]
    left, right, lower, upper = plane.extent
    target, before, after = (
        image_address(stretched(image, shown))
        for image, shown in zip(images, limits, strict=True)
    )
    ratio = abs((right - left) / (lower - upper))
    return Wipe(place_text(plane), target, before, after, ratio)


def image_address(values: NDArray[Any]) -> str:
    """Return a picture of values from 0 to 1, ``(rows, columns)`` or with colours."""
    from PIL import Image

    pixels = np.rint(np.nan_to_num(values) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", optimize=True)
    return _address(buffer.getvalue())


def figure_address(
    draw: Callable[[Any], None], width: float, height: float, *, fine: float = 1.0
) -> str:
    """Return a figure that a function draws, of so many inches.

    It is made without pyplot, whose state belongs to the user.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    draw(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=fine * DPI)
    return _address(buffer.getvalue())


def _address(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def pair_figure(
    field: xr.Dataset, fixed: Viewed, moving: Viewed, plane: Plane, *, across: bool
) -> str:
    """Draw overlay before and after, and after it a checkerboard and a difference.

    Across modalities a difference of intensities says nothing, and is left out.
    """
    styles = ["overlay", "overlay", "checkerboard"] + ([] if across else ["difference"])

    def draw(figure: Any) -> None:
        for number, (ax, style) in enumerate(
            zip(figure.subplots(1, len(styles)), styles, strict=True)
        ):
            options: dict[str, Any] = {"cut": plane.cut, "at": plane.position}
            compare(field, fixed, moving, style, before=number == 0, ax=ax, **options)  # type: ignore[arg-type]
            ax.set_title(f"{style}, {'before' if number == 0 else 'after'}")

    width = 4.3
    return figure_address(draw, width * len(styles), panel_height(plane, width - 1.0))


def field_figure(field: xr.Dataset, fixed: Viewed, plane: Plane) -> str:
    """Draw the field in a plane: grid, arrows, length, Jacobian determinant."""
    place = within(field, plane.cut, plane.position)
    options: dict[str, Any] = {"cut": plane.cut, "at": place}

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, 4)
        deformed_grid(field, fixed=fixed, ax=axes[0], **options)
        quiver(field, ax=axes[1], **options)
        magnitude(field, ax=axes[2], **options)
        jacobian(field, ax=axes[3], **options)

    width = 4.3
    return figure_address(draw, 4 * width, panel_height(plane, width - 1.0) + 0.3)


def stage_figure(field: xr.Dataset, stage: StageRecord) -> str | None:
    """Draw the maps of a stage's blocks; None where there is but one block."""
    if np.prod(stage.counts) < 2:
        return None
    names = ["status"]
    both = {"similarity_before", "similarity_after"} <= stage.blocks.keys()
    names += ["similarity_after", "gain"] if both else []

    def draw(figure: Any) -> None:
        axes = np.atleast_1d(figure.subplots(1, len(names)))
        for ax, name in zip(axes, names, strict=True):
            block_map(field, name, stage=stage.number, ax=ax)

    return figure_address(draw, 5.2 * len(names), 3.8)


def landmark_figure(errors: LandmarkErrors, units: str | None) -> str:
    """Draw the errors of all landmarks, each in order of size."""

    def draw(figure: Any) -> None:
        ax = figure.subplots()
        pair = (
            (errors.before, BEFORE_COLOUR, "before"),
            (
                errors.after,
                AFTER_COLOUR,
                "after",
            ),
        )
        for values, colour, name in pair:
            known = np.sort(values[np.isfinite(errors.after)])
            share = np.arange(1, known.size + 1) / max(known.size, 1)
            ax.plot(known, 100 * share, ".-", color=colour, label=name, linewidth=1)
        ax.set_xlabel(f"error / {units}" if units else "error", parse_math=False)
        ax.set(ylabel="landmarks with at most this error / %", ylim=(0, 103), xlim=0)
        ax.grid(color="0.9")
        ax.legend(frameon=False)

    return figure_address(draw, 6, 3.6)


def label_figure(overlaps: dict[int, LabelOverlap]) -> str:
    """Draw the Dice coefficient of every label, the worst first."""
    order = sorted(overlaps, key=lambda label: overlaps[label].dice[1])
    before, after = (
        [overlaps[label].dice[place] for label in order] for place in (0, 1)
    )

    def draw(figure: Any) -> None:
        ax = figure.subplots()
        places = np.arange(len(order))
        ax.vlines(places, before, after, color="0.8", linewidth=1.5)
        ax.plot(places, before, "o", color=BEFORE_COLOUR, label="before", markersize=4)
        ax.plot(places, after, "o", color=AFTER_COLOUR, label="after", markersize=4)
        if len(order) <= 60:
            ax.set_xticks(places, [str(v) for v in order], rotation=90, fontsize=7)
        ax.set(xlabel="label", ylabel="Dice", ylim=(-0.03, 1.03))
        ax.grid(axis="y", color="0.9")
        ax.legend(frameon=False, loc="lower right")

    return figure_address(draw, 8, 3.6)


def block_figure(
    field: xr.Dataset,
    fixed: Viewed,
    moving: Viewed,
    partition: Partition,
    block: Sequence[int],
) -> str:
    """Draw a block's window by the field's affine part alone, and by the field."""
    plane = block_plane(partition, block)
    reader = open_displacement(field)
    matrix = affine_part(reader)
    linear = FieldReader(*kernels.affine_displacement(matrix, plane.grid))
    reference = stretched(sampled(fixed, plane), fixed.limits)
    shown = [
        stretched(sampled(moving, plane, mapping), moving.limits)
        for mapping in (linear, reader)
    ]
    core = partition.grid.window(partition.core(block)).bounds
    row, column = (partition.grid.dims.index(dim) for dim in plane.dims)

    def draw(figure: Any) -> None:
        from matplotlib.patches import Rectangle

        titles = "fixed", "affine part alone", "after"
        pictures = reference, *(overlay(reference, moved) for moved in shown)
        axes = figure.subplots(1, 3, sharey=True)
        for ax, values, title in zip(axes, pictures, titles, strict=True):
            picture(ax, values, plane, cmap="gray", vmin=0, vmax=1)
            ax.set_title(title, fontsize=9)
            ax.tick_params(labelsize=7)
            low, high = core
            size = high[column] - low[column], high[row] - low[row]
            corner = low[column], low[row]
            ax.add_patch(
                Rectangle(corner, *size, fill=False, edgecolor="yellow", linewidth=0.8)
            )
        for ax in axes[1:]:
            ax.set_ylabel("")

    return figure_address(draw, 8.4, panel_height(plane, 2.3), fine=0.8)


def block_plane(partition: Partition, block: Sequence[int]) -> Plane:
    """Return the plane through the middle of a block's window, in coarse pixels."""
    window = partition.grid.window(partition.window(block))
    cut = window.dims[0] if window.ndim == 3 else None
    shape = list(window.shape)
    shrink = max(1, -(-max(shape[-2:]) // BLOCK_PIXELS))
    spacing, origin = list(window.spacing), list(window.origin)
    for axis in range(window.ndim):
        if cut is not None and axis == 0:
            origin[axis] += spacing[axis] * (shape[axis] // 2)
            shape[axis] = 1
            continue
        shape[axis] = max(1, shape[axis] // shrink)
        origin[axis] += 0.5 * (shrink - 1) * spacing[axis]
        spacing[axis] *= shrink
    grid = replace(
        window, shape=tuple(shape), spacing=tuple(spacing), origin=tuple(origin)
    )
    return Plane(grid, cut)
