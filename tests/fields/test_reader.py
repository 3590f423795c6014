"""Windows and points of a field, wherever it is stored."""

import numpy as np
import pytest

import xdreg
from tests.helpers.fields import Known
from xdreg.fields.displacement import open_displacement
from xdreg.fields.reader import FieldReader
from xdreg.grid import Grid
from xdreg.numerics.kernels import (
    affine_displacement,
    resample_displacement,
)


@pytest.mark.parametrize("origin", [0.0, 3.2, 41.0, 44.0])
@pytest.mark.parametrize("size", [1, 4])
def test_a_field_is_read_no_finer_than_it_is_wanted(origin, size):
    """At the same points whatever the window, which it covers."""
    fine = Grid(("y", "x"), (103, 103), (0.5, 0.5), (0.0, 0.0))
    matrix = np.array([[1.1, 0.2, 3.0], [-0.1, 0.9, 1.0], [0.0, 0.0, 1.0]])
    values = resample_displacement(*affine_displacement(matrix, fine), fine)
    target = Grid(("y", "x"), (size, size), (2.0, 1.6), (origin, origin))
    read, grid = FieldReader(values, fine).read_around(target)
    assert read.size <= 2 * (size + 2) ** 2
    assert grid.spacing == (2.0, 1.5)
    assert [o % s for o, s in zip(grid.origin, grid.spacing, strict=True)] == [0, 0]
    expected = resample_displacement(*affine_displacement(matrix, target), target)
    found = resample_displacement(read, grid, target)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_points_of_a_field_are_the_same_wherever_it_lies(tmp_path):
    known = Known(3, 20)
    known.field.dreg.to_ome_zarr(tmp_path / "field.zarr")
    stored = xdreg.open_field(tmp_path / "field.zarr")
    fields = (known.field.load(), stored, stored.map(lambda v: v + 0))
    readers = [open_displacement(field) for field in fields]
    assert len({type(reader.source) for reader in readers}) == 3
    index = np.array([[0, 0, 0], [3, 1, 4], np.array(known.grid.shape) - 1])
    expected = known.field.displacement.values[:, *index.T].T
    for reader in readers:
        np.testing.assert_array_equal(reader.read_points(index), expected)
