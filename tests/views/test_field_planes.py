"""A field in a plane."""

import dask.array
import numpy as np
import pytest

import xdreg
from tests.helpers.fields import Known
from xdreg.fields.displacement import make_field
from xdreg.fields.measures import jacobian_determinant
from xdreg.grid import Grid
from xdreg.views.field_planes import field_plane


def test_of_a_huge_field_the_plane_and_its_neighbours_are_read():
    made = []

    def make(block_info=None):
        made.append(block_info[None]["chunk-location"])
        return np.zeros(block_info[None]["chunk-shape"], np.float32)

    grid = Grid(("z", "y", "x"), (240,) * 3, (1.0,) * 3, (0.0,) * 3)
    chunks = dask.array.core.normalize_chunks((3, 40, 40, 40), (3, *grid.shape))
    data = dask.array.map_blocks(
        make, chunks=chunks, dtype=np.float32, meta=np.empty((0,) * 4, np.float32)
    )
    field_plane(make_field(data, grid), "x", 100.0)
    planes = [place for place in made if place[3] == 2]
    # Beside it a few single points, to which the affine part is fitted.
    assert len(set(planes)) == 36
    assert len({place for place in made if place[3] != 2}) <= 4 * 4 * 3


def test_a_field_in_a_plane_is_that_of_the_whole():
    known = Known(3, 20)
    found = field_plane(known.field, "x", 40.0)
    index = round((40.0 - known.grid.origin[2]) / known.grid.spacing[2])
    whole = known.field.displacement.values[..., index]
    np.testing.assert_array_equal(found.displacement, whole)
    jacobian = jacobian_determinant(known.field).values[..., index]
    np.testing.assert_array_equal(found.jacobian, jacobian)
    # Its affine part is a turn; what is left are the waves.
    assert np.abs(found.local).max() < 3 * known.amplitude
    assert np.abs(found.displacement).max() > 5 * known.amplitude


def test_a_fold_does_not_fall_between_two_pixels():
    grid = Grid(("y", "x"), (5000, 40), (1.0, 1.0), (0.0, 0.0))
    values = np.zeros((2, *grid.shape), np.float32)
    values[0, 3001] = 3.0
    found = field_plane(make_field(values, grid))
    assert found.plane.shape == (1000, 8)
    folds = np.unique(np.nonzero(found.jacobian <= 0)[0])
    np.testing.assert_array_equal(folds, [600])


def test_a_plane_of_absurdly_many_points_is_refused():
    grid = Grid(("y", "x"), (36, 10**9), (1.0, 1.0), (0.0, 0.0))
    data = dask.array.zeros((2, *grid.shape), dtype=np.float32, chunks=(2, 36, 10**6))
    with pytest.raises(xdreg.InputError, match="points in the plane to draw"):
        field_plane(make_field(data, grid))
