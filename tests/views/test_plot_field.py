"""Plots of a field: the right lines, arrows and folds."""

import matplotlib
import numpy as np
import pytest

import xdreg
from tests.helpers.fields import Known, folding
from xdreg.coordinates import grid_of
from xdreg.fields.displacement import make_field

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def field():
    pair = xdreg.datasets.phantom_pair((24, 60, 70), amplitude=4.0, noise=0.0)
    return make_field(pair.displacement.values, grid_of(pair.fixed))


def test_the_grid_goes_where_the_field_says(field):
    ax = xdreg.plot.deformed_grid(field, affine=True, cut="z", at=10.0)
    line = ax.lines[0].get_xydata()
    u = field.displacement.sel(component=["x", "y"]).isel(z=10, y=0).values.T
    np.testing.assert_allclose(line - np.stack([np.arange(70), np.zeros(70)], 1), u)
    turned = Known(3, 40)
    ax = xdreg.plot.deformed_grid(turned.field, cut="z")
    # Without the turn all of it stays near the picture.
    drawn = np.concatenate([v.get_xydata() for v in ax.lines])
    lower, upper = turned.fixed.bounds
    assert (drawn > lower[:0:-1] - 8).all()
    assert (drawn < upper[:0:-1] + 8).all()


def test_arrows_are_as_long_as_they_say():
    grid = xdreg.Grid(("y", "x"), (52, 52), (1.0, 1.0), (0.0, 0.0), "micrometer")
    values = np.zeros((2, 52, 52), np.float32)
    values[1, 20:] = 0.09
    ax = xdreg.plot.quiver(make_field(values, grid), affine=True)
    arrows = ax.collections[0]
    assert "20 × as long" in ax.get_title()
    np.testing.assert_allclose(arrows.U.max(), 20 * 0.09, rtol=1e-6)
    np.testing.assert_allclose(arrows.get_array().max(), 0.09, rtol=1e-6)


def test_folds_are_marked():
    ax = xdreg.plot.jacobian(folding((90, 80)))
    assert "folds at" in ax.get_title()
    marked = ax.lines[0].get_xydata()
    assert len(marked) > 3
    assert np.linalg.norm(marked - (45, 40), axis=1).max() < 20
    ax = xdreg.plot.jacobian(Known(2).field)
    assert "no fold" in ax.get_title()
    assert not ax.lines


def test_magnitude_is_in_the_units_of_the_field(field):
    ax = xdreg.plot.magnitude(field, affine=True, cut="y", at=7.0)
    length = np.linalg.norm(field.displacement.isel(y=7), axis=0)
    np.testing.assert_allclose(ax.images[0].get_array(), length, rtol=1e-5)
    assert ax.child_axes[0].get_ylabel() == "displacement / micrometer"


def test_a_dollar_sign_in_units_starts_no_formula(tmp_path):
    grid = xdreg.Grid(("y", "x"), (20, 20), (1.0, 1.0), (0.0, 0.0), "$\\frac{")
    figure = make_field(np.zeros((2, 20, 20), np.float32), grid).dreg.plot()
    figure.savefig(tmp_path / "figure.png", dpi=40)
    assert (tmp_path / "figure.png").stat().st_size > 0
