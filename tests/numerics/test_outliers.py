"""Pairs of points that do not fit the others."""

import numpy as np
import pytest

from tests.helpers.matrices import applied, turn
from xdreg.numerics.outliers import agree_linearly, agree_smoothly, joinable


def scattered(count, ndim, seed=0):
    return np.random.default_rng(seed).uniform(0, 100, (count, ndim))


def bent(points):
    """Return points after a smooth motion of up to 8, and a bit of noise."""
    noise = np.random.default_rng(1).normal(0, 0.3, points.shape)
    return points + 8 * np.sin(points[:, ::-1] / 30) + noise


@pytest.mark.parametrize(("ndim", "count"), [(2, 40), (3, 60)])
def test_outliers_of_a_smooth_map(ndim, count):
    fixed = scattered(count, ndim)
    moving = bent(fixed)
    assert agree_smoothly(fixed, moving).all()
    moving[[3, 17]] += 14.0
    assert np.flatnonzero(~agree_smoothly(fixed, moving)).tolist() == [3, 17]
    # Exact pairs of a linear map are no outliers of it by rounding.
    assert agree_smoothly(fixed, applied(turn(ndim), fixed)).all()


def test_points_that_occur_twice_have_a_smooth_map():
    fixed = np.repeat(scattered(12, 3), 2, axis=0)
    assert agree_smoothly(fixed, bent(fixed)).all()


@pytest.mark.parametrize("kind", ["rigid", "affine"])
@pytest.mark.parametrize(("count", "wrong"), [(6, [2]), (8, [5]), (30, [0, 4, 9, 11])])
def test_outliers_of_a_linear_map(kind, count, wrong):
    fixed = scattered(count, 3)
    moving = applied(turn(3), fixed)
    moving += np.random.default_rng(2).normal(0, 0.2, fixed.shape)
    assert agree_linearly(fixed, moving, kind).sum() >= count - 1
    moving[wrong] += (20.0, -30.0, 25.0)
    assert set(wrong) <= set(np.flatnonzero(~agree_linearly(fixed, moving, kind)))


def test_pairs_that_a_map_without_folds_cannot_have_together():
    fixed = np.array([[10, 10], [10, 14], [40, 40], [80, 20], [20, 70], [60, 90.0]])
    moving = fixed.copy()
    assert joinable(fixed, moving).all()
    moving[[0, 1]] = fixed[[1, 0]]
    assert np.flatnonzero(~joinable(fixed, moving)).tolist() == [1]
    # One place cannot go to two; one pair that is given twice is one.
    twice = np.concatenate([fixed, fixed[2:3]])
    assert joinable(twice, twice).all()
    assert not joinable(twice, twice + 5 * np.eye(7)[:, -1:]).all()
    # A turn of all is no fold.
    assert joinable(fixed, applied(turn(2, 180.0), fixed)).all()
    # Far away, one pair bends the common linear part: the others are no worse for it.
    far = fixed.copy()
    far[2] = 500.0, 700.0
    assert np.flatnonzero(~joinable(fixed, far)).tolist() == [2]
