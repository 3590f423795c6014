"""Plots of a pair: before and after, in every style."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

import xdreg
from tests.helpers.viewers import ODD
from xdreg.coordinates import grid_of
from xdreg.fields.displacement import make_field

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def pair():
    return xdreg.datasets.phantom_pair((24, 60, 70), amplitude=4.0, noise=0.0)


@pytest.fixture(scope="module")
def field(pair):
    return make_field(pair.displacement.values, grid_of(pair.fixed))


def test_the_overlay_agrees_after_and_not_before(pair, field, tmp_path):
    for figure in (
        field.dreg.plot(pair.fixed, pair.moving),
        xdreg.plot.before_after(field, pair.fixed, pair.moving),
    ):
        before, after = (axis.images[0].get_array() for axis in figure.axes[:2])
        # Magenta and green differ where fixed and moved do.
        gaps = [
            np.abs(np.subtract(v[..., 0], v[..., 1])).mean() for v in (before, after)
        ]
        assert gaps[1] < 0.3 * gaps[0]
        figure.savefig(tmp_path / "figure.png", dpi=40)
        assert figure.axes[0].get_xlabel() == "x / micrometer"


@pytest.mark.parametrize("style", ["checkerboard", "difference", "red-green"])
@pytest.mark.parametrize("cut", ["z", "y", "x"])
def test_styles_along_every_axis(pair, field, style, cut):
    shown = []
    for before in (True, False):
        ax = xdreg.plot.compare(
            field, pair.fixed, pair.moving, style, before=before, cut=cut
        )
        shown.append(np.ma.filled(ax.images[0].get_array(), 0))
        plt.close(ax.figure)
    if style == "difference":
        assert np.abs(shown[1]).mean() < 0.3 * np.abs(shown[0]).mean()
    rows, columns = (d for d in ("z", "y", "x") if d != cut)
    assert shown[0].shape[:2] == (pair.fixed.sizes[rows], pair.fixed.sizes[columns])
    assert ax.get_ylabel() == f"{rows} / micrometer"
    assert ax.get_ylim() == (pair.fixed.sizes[rows] - 0.5, -0.5)


def test_a_checkerboard_keeps_colours():
    rgb = np.zeros((3, 40, 50), np.uint8)
    rgb[0], rgb[2] = 200, 90
    known = xdreg.datasets.phantom_pair((40, 50))
    image = xr.DataArray(rgb, dims=("c", "y", "x"), coords=known.fixed.coords)
    still = make_field(np.zeros((2, 40, 50), np.float32), grid_of(known.fixed))
    shown = xdreg.plot.compare(still, image, image, "checkerboard").images[0]
    np.testing.assert_allclose(shown.get_array()[5, 5] * 255, (200, 0, 90), atol=0.5)


def test_what_cannot_be_drawn_is_named(pair, field):
    with pytest.raises(xdreg.InputError, match="style must be one of 'overlay'"):
        xdreg.plot.compare(field, pair.fixed, pair.moving, "blink")
    with pytest.raises(xdreg.InputError, match="both images"):
        field.dreg.plot(pair.fixed)
    with pytest.raises(xdreg.InputError, match="fixed must be an image here"):
        xdreg.plot.compare(field, None, pair.moving)


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd)[:12])
def test_odd_arguments_end_in_one_clear_error(odd):
    flat = xdreg.datasets.phantom_pair((20, 24))
    still = make_field(np.zeros((2, 20, 24), np.float32), grid_of(flat.fixed))
    images = still, flat.fixed, flat.moving
    compare, names = xdreg.plot.compare, ("cut", "at", "channel", "style")
    calls = [lambda name=name: compare(*images, **{name: odd}) for name in names]
    calls += [
        lambda: still.dreg.plot(odd, odd),
        lambda: xdreg.plot.jacobian(odd),
    ]
    for call in calls:
        try:
            call()
        except xdreg.XdregError as error:
            assert str(error)
    plt.close("all")
