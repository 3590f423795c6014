"""The Jacobian determinant, and fields that fold no more."""

import numpy as np
import pytest

from xdreg.grid import Grid
from xdreg.numerics import folding, kernels


def test_jacobian_of_a_scaling_and_of_a_fold():
    grid = Grid(("z", "y", "x"), (12, 15, 18), (2.0, 1.0, 0.5), (3.0, 3.0, 3.0))
    points = kernels.grid_points(grid).T.reshape(3, *grid.shape)
    scaled = folding.jacobian_determinant((0.5 * points).astype(np.float32), grid)
    np.testing.assert_allclose(scaled, 1.5**3, rtol=1e-3)
    folded = folding.jacobian_determinant((-1.5 * points).astype(np.float32), grid)
    assert (folded < 0).all()


def test_unfolding_smooths_folds_and_leaves_the_rest():
    grid = Grid(("y", "x"), (40, 40), (1.0, 1.0), (0.0, 0.0))
    points = kernels.grid_points(grid).T.reshape(2, 40, 40)
    bump = np.exp(-((points - 10) ** 2).sum(axis=0) / 8)
    field = np.stack([6 * bump, np.sin(points[0] / 9)]).astype(np.float32)
    assert folding.jacobian_determinant(field, grid).min() < 0
    unfolded = folding.unfold(field, grid)
    assert folding.jacobian_determinant(unfolded, grid).min() > 0
    np.testing.assert_array_equal(unfolded[:, 25:, 25:], field[:, 25:, 25:])
    np.testing.assert_array_equal(folding.unfold(unfolded, grid), unfolded)


@pytest.mark.parametrize("linear", [np.eye(2), np.diag([-0.3, 0.3])])
def test_easing_back_keeps_two_fields_from_folding_together(linear):
    """Whatever the linear part, be it mirrored and shrunk."""
    grid = Grid(("y", "x"), (60, 60), (1.0, 1.0), (0.0, 0.0))
    noise = np.random.default_rng(1).normal(0, 1.5, (2, 2, 60, 60)).astype(np.float32)
    noise[:, :, 40:] = 0
    first, update = (folding.unfold(field, grid) for field in noise)
    for field in (first, update):
        assert folding.jacobian_determinant(field, grid).min() > 0
    points = kernels.grid_points(grid).T
    moved = linear @ (points + first.reshape(2, -1)) - points
    before = moved.reshape(2, 60, 60).astype(np.float32)
    sign = np.sign(np.linalg.det(linear))

    def least(field):
        total = kernels.compose_displacements(field, grid, before, grid)
        return (sign * folding.jacobian_determinant(total, grid)).min()

    assert least(update) < 0
    eased = folding.ease_back(update, grid, before, grid)
    assert least(eased) > 0
    np.testing.assert_array_equal(eased[:, 50:], update[:, 50:])
    same = np.all(eased == update, axis=0).mean()
    assert same > 0.5
