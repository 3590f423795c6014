"""Picture of the front page: a lung CT before and after, and the deformed grid.

Run it with the folder of the output as its argument; ``docs/_static`` has the result.
"""

import sys
from pathlib import Path

import matplotlib

import xdreg

matplotlib.use("Agg")


def draw(field, pair, path):
    """Draw a sagittal plane of the pair before and after, and the deformed grid."""
    figure = xdreg.plot.before_after(field, pair.fixed, pair.moving, cut="x")
    figure.suptitle("")
    for ax, title in zip(
        figure.axes, ("before", "after", "how space was deformed"), strict=True
    ):
        ax.set_title(title)
        ax.set_axis_off()
    figure.set_size_inches(9.6, 4.4)
    figure.savefig(path, dpi=100, bbox_inches="tight", pil_kwargs={"quality": 88})


def main():
    """Register the pair and draw it."""
    pair = xdreg.datasets.fetch("lung_ct")
    field = pair.fixed.dreg.register(
        pair.moving,
        fixed_mask=pair.fixed_mask,
        moving_mask=pair.moving_mask,
        block_shape=64,
    )
    draw(field, pair, Path(sys.argv[1]) / "lung_ct.jpg")


if __name__ == "__main__":
    main()
