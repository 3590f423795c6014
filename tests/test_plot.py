"""Pictures: the right slice, before and after, from numpy and from a tree."""

import numpy as np

import xdreg
from xdreg.coordinates import grid_of
from xdreg.field import make_field


def test_the_overlay_agrees_after_and_not_before(tmp_path):
    pair = xdreg.datasets.phantom_pair((24, 60, 70), amplitude=4.0, noise=0.0)
    field = make_field(pair.displacement.values, grid_of(pair.fixed))
    figure = field.dreg.plot(pair.fixed, pair.moving)
    before, after = (axis.images[0].get_array() for axis in figure.axes[:2])
    # Magenta and green differ where fixed and moved do.
    gaps = [np.abs(np.subtract(v[..., 0], v[..., 1])).mean() for v in (before, after)]
    assert gaps[1] < 0.3 * gaps[0]
    figure.savefig(tmp_path / "figure.png")
    assert figure.axes[0].get_xlabel() == "x / micrometer"
