"""Layout of the field Dataset."""

import time

import dask.array
import numpy as np
import pytest

import xdreg
from xdreg.fields.displacement import make_field
from xdreg.fields.field import field_grid
from xdreg.grid import Grid


def test_components_are_known_by_name(tmp_path):
    values = np.stack([np.full((3, 4), 1.0), np.full((3, 4), 2.0)]).astype(np.float32)
    grid = Grid(("y", "x"), (3, 4), (1.0, 1.0), (0.0, 0.0))
    field = make_field(values, grid)
    turned = field.isel(component=[1, 0])
    point = [[1.0, 1.0]]
    np.testing.assert_array_equal(turned.dreg.transform_points(point), [[2.0, 3.0]])
    turned.dreg.to_ome_zarr(tmp_path / "field.ome.zarr")
    again = xdreg.open_field(tmp_path / "field.ome.zarr")
    np.testing.assert_array_equal(again.displacement, field.displacement)


def test_geometry_is_known_without_the_values():
    """Even to index a lazy array takes seconds if it has a hundred thousand chunks."""
    grid = Grid(("y", "x"), (10**6, 10**6), (2.0, 0.5), (3.0, -4.0), "meter")
    chunks = ((2,), (1000,) * 1000, (1000,) * 1000)
    data = dask.array.map_blocks(
        _refuse, chunks=chunks, dtype=np.float32, meta=np.empty((0, 0, 0), np.float32)
    )
    field = make_field(data, grid)
    began = time.perf_counter()
    assert field_grid(field) == grid
    assert "1000000 × 1000000" in repr(field.dreg)
    assert time.perf_counter() - began < 1


USES = [
    lambda field, path: xdreg.save(field, path),
    lambda field, path: xdreg.write_transform(field, path.with_suffix(".nrrd")),
    lambda field, path: field.dreg.transform_points([[1.0, 1.0]]),
    lambda field, path: field.dreg.statistics(),
    lambda field, path: xdreg.compose(field, field),
]


@pytest.mark.parametrize("use", USES)
def test_complex_displacements_are_refused(use, tmp_path):
    grid = Grid(("y", "x"), (3, 4), (1.0, 1.0), (0.0, 0.0))
    field = make_field(np.zeros((2, 3, 4), np.float32), grid)
    field = field.assign(displacement=field.displacement + 1j)
    with pytest.raises(xdreg.InputError, match="dtype complex"):
        use(field, tmp_path / "a.zarr")
    assert not list(tmp_path.iterdir())


def test_complex_numbers_are_refused_for_real_ones():
    grid = Grid(("y", "x"), (3, 4), (1.0, 1.0), (0.0, 0.0))
    values = np.zeros((2, 3, 4), np.float32)
    for displacement in (values + 1j, dask.array.zeros((2, 3, 4), dtype="c8")):
        with pytest.raises(xdreg.InputError, match="dtype complex"):
            make_field(displacement, grid)
    field, points = make_field(values, grid), np.ones((3, 2)) * (1 + 1j)
    with pytest.raises(xdreg.InputError, match="real numbers"):
        field.dreg.transform_points(points)
    with pytest.raises(xdreg.InputError, match="real numbers"):
        xdreg.landmark_errors(field, points, points)
    with pytest.raises(xdreg.InputError, match="real numbers"):
        xdreg.target_registration_error(points, points)
    with pytest.raises(xdreg.InputError, match="real numbers"):
        xdreg.compose(field, np.eye(3) + 1j)


def _refuse():
    raise AssertionError


def test_the_identity_on_a_field_s_grids_records_no_registration():
    pair = xdreg.datasets.phantom_pair((48, 56), amplitude=2.0)
    field = pair.fixed.dreg.register(pair.moving, stages="translation", progress=False)
    still = xdreg.identity(field)
    assert still.dreg.verdict.word == "unknown"
    assert list(still.data_vars) == ["displacement"]
    points = np.array([[3.0, 4.0], [20.0, 30.0]])
    np.testing.assert_array_equal(still.dreg.transform_points(points), points)
