"""Pictures of two images as arrays."""

import numpy as np

from xdreg.views import pictures


def test_a_checkerboard_alternates():
    fixed, moved = np.zeros((4, 6, 3)), np.ones((4, 6, 3))
    board = pictures.checkerboard(fixed, moved, (2, 3))
    assert board[..., 0].tolist() == [[0, 0, 0, 1, 1, 1]] * 2 + [[1, 1, 1, 0, 0, 0]] * 2


def test_a_difference_knows_gain_and_offset():
    fixed = np.random.default_rng(0).random((30, 30)).astype(np.float32)
    moved = 7 - 3 * fixed
    moved[0] = np.nan
    gaps, limit = pictures.difference(fixed, moved)
    assert np.isnan(gaps[0]).all()
    assert np.nanmax(np.abs(gaps)) < 1e-5 < limit


def test_an_empty_background_does_not_set_the_range():
    values = np.array([0, 0, 0, 0, 0, 0, 4.0, 5.0, 6.0, np.nan])
    np.testing.assert_allclose(pictures.intensity_range(values), (4.02, 5.99))
