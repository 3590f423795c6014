"""Interpolation and composition, against scipy and by hand."""

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from tests.helpers.images import geometry, places
from xdreg.grid import Grid
from xdreg.numerics import kernels

RNG = np.random.default_rng(0)


def _grids(ndim):
    dims = ("z", "y", "x")[-ndim:]
    image = Grid(dims, (12, 15, 18)[-ndim:], (2.0, 1.0, 0.5)[-ndim:], (3.0,) * ndim)
    return image, image.every((2,) * ndim)


@pytest.mark.parametrize("ndim", [2, 3])
def test_warp_equals_scipy(ndim):
    grid, field_grid = _grids(ndim)
    image = RNG.random(grid.shape, np.float32)
    field = RNG.normal(size=(ndim, *field_grid.shape)).astype(np.float32)
    warped = kernels.warp_array(image, grid, field, field_grid, grid)
    dense = kernels.resample_displacement(field, field_grid, grid)
    points = kernels.grid_points(grid) + dense.reshape(ndim, -1).T
    index = grid.physical_to_index(points).T
    expected = map_coordinates(image, index, order=1, mode="nearest").reshape(
        grid.shape
    )
    known = np.isfinite(warped)
    assert 0.5 < known.mean() < 1
    np.testing.assert_allclose(warped[known], expected[known], atol=1e-5)


def test_nearest_keeps_labels_and_dtype():
    grid, _ = _grids(3)
    labels = RNG.integers(0, 2**31, grid.shape).astype(np.uint32)
    matrix = np.eye(4)
    matrix[0, 3] = 2.0
    shift = kernels.affine_displacement(matrix, grid)
    warped = kernels.warp_array(labels, grid, *shift, grid, order=0, fill=7)
    assert warped.dtype == np.uint32
    np.testing.assert_array_equal(warped[:-1], labels[1:])
    assert (warped[-1] == 7).all()


def test_corners_reproduce_a_linear_transform():
    grid, _ = _grids(3)
    matrix = np.eye(4)
    matrix[:3] += 0.1 * RNG.normal(size=(3, 4))
    field = kernels.resample_displacement(
        *kernels.affine_displacement(matrix, grid), grid
    )
    points = kernels.grid_points(grid)
    assert len(points) == grid.size
    expected = points @ matrix[:3, :3].T + matrix[:3, 3] - points
    np.testing.assert_allclose(field.reshape(3, -1).T, expected, atol=1e-5)


def test_composition_applies_the_update_first():
    grid, _ = _grids(2)
    before = np.zeros((2, *grid.shape), np.float32)
    before[1] = 0.1 * grid.axis("x")
    update = np.zeros_like(before)
    update[1] = 1.0
    total = kernels.compose_displacements(update, grid, before, grid)
    np.testing.assert_allclose(total[1, 0, :-3], (1 + 0.1 * (grid.axis("x") + 1))[:-3])


def test_the_moving_box_holds_bumps_inside():
    grid, _ = _grids(2)
    field = np.zeros((2, *grid.shape), np.float32)
    field[0, 7, 9] = 40.0
    lower, upper = kernels.moved_bounds(field, grid, grid)
    assert upper[0] == grid.axis("y")[7] + 40
    assert lower[0] == grid.origin[0]


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("shift", [0.0, 30.0, -30.0])
def test_the_moving_box_holds_regions_beyond_the_field(ndim, shift):
    grid, points, _, field = geometry(ndim)
    region = Grid(
        grid.dims, (9, 8, 10)[-ndim:], (2.0, 2.0, 3.0)[-ndim:],
        tuple(o + shift for o in grid.origin),
    )  # fmt: skip
    lower, upper = kernels.moved_bounds(10 * field, points, region)
    fine = Grid(
        grid.dims, tuple(4 * n - 3 for n in region.shape),
        tuple(s / 4 for s in region.spacing), region.origin,
    )  # fmt: skip
    moved = places(points, fine, 10 * field)
    assert (moved.min(axis=0) >= lower - 1e-4).all()
    assert (moved.max(axis=0) <= upper + 1e-4).all()
    assert (upper - lower < 3 * np.ptp(moved, axis=0)).all()
