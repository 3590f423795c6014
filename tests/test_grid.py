"""Grids, and units of length."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xdreg.errors import InputError
from xdreg.grid import (
    Grid,
    checked_matrix,
    positive_per_axis,
    pyramid_factors,
    unit_ratio,
)

GRID = Grid(("y", "x"), (8, 12), (2.0, 1.0), (3.0, 0.0), "micrometer")


def test_a_coarse_grid_keeps_the_extent():
    coarse = Grid(("y", "x"), (8, 6), (1.0, 2.0), (3.0, 5.0)).coarsen((2, 3))
    assert coarse.shape == (4, 2)
    lower, upper = coarse.bounds
    np.testing.assert_allclose([lower, upper], [[2.5, 4.0], [10.5, 16.0]])


@given(st.integers(1, 50), st.integers(1, 5))
def test_every_kth_point_covers_the_last_voxel(size, step):
    grid = Grid(("y", "x"), (size, 3), (1.0, 1.0), (0.0, 0.0)).every((step, 1))
    last = (grid.shape[0] - 1) * step
    assert size - 1 <= last < size - 1 + step


@pytest.mark.parametrize(
    ("source", "target", "ratio"),
    [("millimeter", "micrometer", 1000.0), ("um", "mm", 1e-3), (None, None, 1.0)],
)
def test_units_convert(source, target, ratio):
    assert unit_ratio(source, target) == ratio


@pytest.mark.parametrize("pair", [("millimeter", None), ("pixel", "micrometer")])
def test_units_that_do_not_convert_are_refused(pair):
    with pytest.raises(InputError, match="do not convert"):
        unit_ratio(*pair)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"dims": ("x", "y")}, "spatial dimensions must be"),
        ({"dims": ["y", "x"]}, "must be a tuple"),
        ({"shape": (3,)}, "differ in length"),
        ({"shape": (3, 0)}, "at least one voxel"),
        ({"spacing": (1.0, -1.0)}, "spacing must be positive"),
        ({"origin": (0.0, np.inf)}, "origin must be finite"),
        ({"spacing": (1.0, 1e-320)}, "between 1e-18 and 1e"),
        ({"spacing": (1e300, 1.0)}, "between 1e-18 and 1e"),
        ({"origin": (0.0, -1e300)}, "voxels of .* from zero"),
        ({"origin": (1e9, 0.0), "spacing": (1e-4, 1.0)}, "voxels of .* from zero"),
    ],
)
def test_an_invalid_geometry_is_refused(values, text):
    with pytest.raises(InputError, match=text):
        replace(GRID, **values)


def test_points_and_indices_are_inverse():
    index = np.random.default_rng(0).uniform(-3, 9, (7, 2))
    points = GRID.index_to_physical(index)
    np.testing.assert_allclose(GRID.physical_to_index(points), index)
    np.testing.assert_array_equal(GRID.index_to_physical([0, 0]), GRID.origin)


def test_a_box_is_covered_by_the_voxels_that_interpolate_it():
    assert GRID.covering((4.0, 5.5), (5.0, 6.0)) == (slice(0, 3), slice(5, 8))
    assert GRID.covering((4.0, 5.5), (5.0, 6.0), margin=9) == (
        slice(0, 8),
        slice(0, 12),
    )
    assert GRID.covering((99.0, 0.0), (120.0, 4.0)) is None
    assert GRID.covering((np.nan, 0.0), (np.nan, 4.0)) is None


def test_windows_may_have_steps():
    part = GRID.window((slice(2, 7, 2), slice(None, None, 3)))
    assert part.shape == (3, 4)
    assert part.spacing == (4.0, 3.0)
    assert part.origin == (7.0, 0.0)


def test_strides_reach_no_farther_than_a_step_of_the_other_grid():
    coarse = replace(GRID, spacing=(6.1, 0.5))
    assert GRID.strides_to(coarse) == (3, 1)
    assert GRID.strides_to(GRID) == (1, 1)


def test_a_grid_survives_json():
    assert Grid.from_dict(json.loads(json.dumps(GRID.to_dict()))) == GRID


@pytest.mark.parametrize("value", [0, -1.5, (1.0, 2.0, 3.0), "2", None, np.nan, True])
def test_numbers_per_axis_are_checked(value):
    assert positive_per_axis(2, 2, "step") == (2.0, 2.0)
    with pytest.raises(InputError, match="step must be a number above zero"):
        positive_per_axis(value, 2, "step")


@pytest.mark.parametrize(
    "matrix", [np.eye(2), np.zeros((3, 3)), np.full((3, 3), np.nan), 2 * np.eye(3)]
)
def test_matrices_that_are_not_linear_transforms_are_refused(matrix):
    np.testing.assert_array_equal(checked_matrix(np.eye(3), 2, "m"), np.eye(3))
    with pytest.raises(InputError, match=r"initial is a matrix .*shape \(3, 3\)"):
        checked_matrix(matrix, 2, "initial")


def test_pyramids_wait_for_coarse_axes():
    grid = Grid(("z", "y", "x"), (40, 256, 200), (4.0, 1.0, 1.0), (0.0,) * 3)
    assert pyramid_factors(grid) == [(1, 2, 2), (1, 2, 2)]
    assert pyramid_factors(grid, smallest=32) == [(1, 2, 2), (1, 2, 2), (2, 2, 2)]
    flat = Grid(("z", "y", "x"), (1, 256, 200), (0.1, 1.0, 1.0), (0.0,) * 3)
    assert pyramid_factors(flat) == [(1, 2, 2), (1, 2, 2)]
