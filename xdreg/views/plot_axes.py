"""Axes in physical units, pictures in them, and colour bars (matplotlib)."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from xdreg.grid import Grid
from xdreg.views.colours import PAIR_RGB
from xdreg.views.planes import Plane

#: Colour of axes where there is no data.
NOTHING = "0.85"

#: Letters of an image's name in a legend.
LONGEST_NAME = 24


def new_figure(width: float, height: float) -> Any:
    """Return a figure that a notebook shows once, when it is returned."""
    pyplot = _pyplot()
    # "constrained" cuts labels off, and leaves gaps, where scales must be equal.
    figure = pyplot.figure(figsize=(width, height), layout="compressed")
    # A notebook shows what is returned, and would show an open figure as well.
    pyplot.close(figure)
    return figure


def axes_or_new(ax: Any) -> Any:
    """Return the given axes, or new ones."""
    if ax is not None:
        return ax
    return _pyplot().subplots(layout="constrained")[1]


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        msg = "plots need matplotlib: pip install 'xdreg[plot]'"
        raise ImportError(msg) from error
    return plt


def frame(ax: Any, plane: Plane) -> None:
    """Set the limits of axes to the extent of a plane, and label them."""
    left, right, lower, upper = plane.extent
    ax.set_xlim(left, right)
    ax.set_ylim(*((upper, lower) if plane.upward else (lower, upper)))
    label(ax, plane.grid, plane.dims)


def label(ax: Any, grid: Grid, dims: tuple[str, str]) -> None:
    """Label axes with two dims of a grid, and keep their scales equal.

    Those of an oblique image are not the axes of the world, which the labels say.
    """
    units = f"{' of the image' if grid.direction else ''}{in_units(grid.units)}"
    # Units come from stores: a dollar sign in them starts no formula.
    ax.set_ylabel(f"{dims[0]}{units}", parse_math=False)
    ax.set_xlabel(f"{dims[1]}{units}", parse_math=False)
    ax.set_aspect("equal")


def in_units(units: str | None) -> str:
    """Return the end of a label for a quantity in some units."""
    return f" / {units}" if units else ""


def picture(ax: Any, values: NDArray[Any], plane: Plane, **options: Any) -> Any:
    """Show pixels in physical axes, and return matplotlib's image."""
    ax.set_facecolor(NOTHING)
    image = ax.imshow(values, extent=plane.extent, **options)
    frame(ax, plane)
    return image


def colour_bar(ax: Any, drawn: Any, text: str, **options: Any) -> Any:
    """Add a colour bar of the height of the picture."""
    bar_axes = ax.inset_axes((1.03, 0.0, 0.045, 1.0))
    bar = ax.figure.colorbar(drawn, cax=bar_axes, **options)
    bar.set_label(text, parse_math=False)
    return bar


def name_pair(ax: Any, fixed: str, moving: str, *, red_green: bool = False) -> None:
    """Add a legend of the colours of both images."""
    from matplotlib.patches import Patch

    colours = ((1.0, 0.0, 0.0), PAIR_RGB[1]) if red_green else PAIR_RGB
    handles = [
        Patch(facecolor=colour, label=role_name(name, role))
        for colour, name, role in zip(
            colours, (fixed, moving), ("fixed", "moving"), strict=True
        )
    ]
    legend = ax.legend(
        handles=handles, loc="upper left", fontsize="small", handlelength=1,
        facecolor="black", edgecolor="none", framealpha=0.5, labelcolor="white",
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)


def role_name(name: str, role: str) -> str:
    """Return the role of an image and its name, shortened."""
    if role in name:
        return name if len(name) <= LONGEST_NAME else role
    short = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
    return f"{role}: {short}"


def panel_height(plane: Plane, width: float) -> float:
    """Return the height of a panel for a plane, in inches, with room for its text."""
    left, right, lower, upper = plane.extent
    return width * min(max((lower - upper) / (right - left), 0.3), 2.0) + 1.2
