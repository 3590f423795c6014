"""The pull of landmarks: what it reaches, and that nothing folds."""

import numpy as np
import pytest

import xdreg
from xdreg.coordinates import grid_of
from xdreg.engines.landmark_pull import Gaussians, Landmarks, sampled
from xdreg.engines.local_correlation import local_correlation
from xdreg.grid import Grid
from xdreg.numerics import folding, kernels

GRIDS = [
    Grid(("y", "x"), (60, 70), (2.0, 1.0), (5.0, -3.0)),
    Grid(("z", "y", "x"), (24, 30, 28), (2.0, 1.0, 1.5), (5.0, -3.0, 0.0)),
]


def marks(grid, count=8, size=3.0, seed=0):
    """Return landmarks with smooth displacements."""
    lower, upper = grid.bounds
    rng = np.random.default_rng(seed)
    points = rng.uniform(lower + 4, upper - 4, (count, grid.ndim))
    return Landmarks(points, size * np.sin(points / 15), 0.2)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_displacement_is_settled_on_landmarks_without_folds(grid):
    values = np.zeros((grid.ndim, *grid.shape), np.float32)
    landmarks = marks(grid)
    settled = landmarks.settled(values, grid, [6.0])
    gap = kernels.sample(settled, grid, landmarks.points).T - landmarks.wanted
    assert np.linalg.norm(gap, axis=1).max() <= 0.2
    assert folding.jacobian_determinant(settled, grid).min() > 0
    # What passes them already is left as it is.
    assert landmarks.settled(settled, grid, [6.0]) is settled


def test_a_large_motion_of_neighbours_does_not_fold():
    grid = GRIDS[0]
    points = np.array([[40.0, 30.0], [40.0, 36.0]])
    landmarks = Landmarks(points, np.array([[0.0, 4.0], [0.0, -1.0]]), 0.1)
    settled = landmarks.settled(np.zeros((2, *grid.shape), np.float32), grid, [5.0])
    assert folding.jacobian_determinant(settled, grid).min() > 0


def test_values_at_places_are_linear_also_beyond_the_ends():
    index = np.indices((5, 1, 6)).astype(np.float32)
    values = np.moveaxis(index, 0, -1)
    places = np.array([[1.25, 0, 3.5], [-0.25, 0, 5.4], [4.0, 0, 0.0]])
    np.testing.assert_allclose(sampled(values, places), places, atol=1e-6)
    out = np.zeros((5, 1, 6, 3), np.float32)
    one = Gaussians(
        np.array([[2.0, 0, 3.0]]), np.full((1, 3), 1.5), (5, 1, 6), exact=True
    )
    one.add(np.array([[0.1, 0.0, -0.2]]), out, np.ones(3))
    np.testing.assert_allclose(out[2, 0, 3], [0.1, 0, -0.2], rtol=2e-3)


@pytest.mark.parametrize("shape", [(64, 72), (40, 44, 48)])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_registration_passes_landmarks_and_follows_the_images_elsewhere(
    shape, stride
):
    pair = xdreg.datasets.phantom_pair(shape, amplitude=2.0)
    grid = grid_of(pair.fixed)
    points = np.asarray(pair.fixed_points, float)[:6]
    inside = grid.contains(points)
    points = points[inside]
    exact = np.asarray(pair.moving_points, float)[:6][inside] - points
    # The images do not say so, and the field goes there.
    wanted = exact + np.eye(len(points), grid.ndim)
    landmarks = Landmarks(points, wanted, 0.3)
    options = {"stride": stride, "update_sigma": 2.0, "field_sigma": 0.7}
    result = local_correlation(
        pair.fixed, pair.moving, landmarks=landmarks, **options
    ).displacement.values
    free = local_correlation(pair.fixed, pair.moving, **options).displacement.values
    gap = kernels.sample(result, grid, points).T - wanted
    assert np.linalg.norm(gap, axis=1).max() <= 0.3
    assert folding.jacobian_determinant(result, grid).min() > 0
    far = np.median(np.linalg.norm(result - free, axis=0))
    assert far < 0.1
    again = local_correlation(
        pair.fixed, pair.moving, landmarks=landmarks, threads=3, **options
    )
    np.testing.assert_array_equal(again.displacement, result)
