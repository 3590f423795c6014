"""Inversion of windows of a field, and affine fits."""

import numpy as np

from xdreg.numerics.inversion import fit_affine


def test_the_affine_part_of_flat_or_flipped_points():
    flat = np.array([[1.0, 0, 0], [1, 2, 0], [1, 0, 3], [1, 4, 4]])
    moved = flat * [1, 2, 3] + [5, 0, 0]
    matrix = fit_affine(flat, moved)
    np.testing.assert_allclose(matrix[:3, :3], np.diag([1.0, 2, 3]), atol=1e-9)
    flipped = fit_affine(flat[:, 1:], -flat[:, 1:] * [1, -1])
    np.testing.assert_allclose(flipped[:2, :2], np.diag([-1.0, 1]), atol=1e-9)
    flattened = fit_affine(flat[:, 1:], flat[:, 1:] * [1, 0])
    np.testing.assert_array_equal(flattened[:2, :2], np.eye(2))
