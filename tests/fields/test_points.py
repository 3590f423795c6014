"""Points through a field and back, against inverses known in closed form."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import xdreg
from tests.helpers.fields import (
    Known,
    wavy,
)
from xdreg.fields.field import field_grid
from xdreg.grid import Grid

CASES = [(2, 0), (2, 60), (3, 0), (3, 60), (3, 150)]


@pytest.mark.parametrize(("ndim", "degrees"), CASES)
def test_points_go_there_and_back(ndim, degrees):
    known = Known(ndim, degrees)
    lower, upper = known.fixed.bounds
    points = np.random.default_rng(0).uniform(lower, upper, (200, ndim))
    there = known.field.dreg.transform_points(points)
    back = known.field.dreg.transform_points(there, inverse=True)
    assert np.abs(back - points).max() < 1e-3
    assert np.abs(known.back(there) - back).max() < 0.06
    labelled = xr.DataArray(there, dims=("point", "dim"), coords={"dim": range(ndim)})
    again = known.field.dreg.transform_points(labelled, inverse=True)
    assert again.dims == labelled.dims
    np.testing.assert_array_equal(again, back)


def test_points_from_outside_are_nan_both_ways():
    known = Known(3, 30)
    far = [[1e6, 0, 0], [np.nan, 1, 1], [np.inf, 1, 1]]
    for inverse in (False, True):
        assert np.isnan(known.field.dreg.transform_points(far, inverse=inverse)).all()
    lower, _ = known.fixed.bounds
    edge = known.forth(np.array([lower + 0.1, lower - 0.5]))
    found = known.field.dreg.transform_points(edge, inverse=True)
    assert np.isfinite(found).all(axis=1).tolist() == [True, False]
    assert known.field.dreg.transform_points(np.empty((0, 3)), inverse=True).size == 0


@pytest.mark.parametrize("spacing", [0.325, 0.1625, 0.2201, 1.3])
@pytest.mark.parametrize("origin", [0.0, -0.5, 84321.25])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_points_on_the_outer_edge_are_inside(spacing, origin, dtype):
    grid = Grid(("y", "x"), (16, 2047), (spacing,) * 2, (origin,) * 2)
    field = xdreg.make_field(np.zeros((2, *grid.shape), np.float32), grid)
    low, high = (
        origin - 0.5 * spacing,
        [origin + (n - 0.5) * spacing for n in (16, 2047)],
    )
    edges = np.array([[low, low], [high[0], low], [low, high[1]], high], dtype)
    assert np.isfinite(field.dreg.transform_points(edges)).all()
    beyond = edges + np.sign(edges - edges.mean(axis=0)) * 0.3 * spacing
    assert np.isnan(field.dreg.transform_points(beyond)).any(axis=1).all()


def test_points_outside_are_nan_and_wrong_shapes_refused():
    field, _ = wavy()
    assert np.isnan(field.dreg.transform_points([[1e6, 0, 0]])).all()
    with pytest.raises(xdreg.InputError, match=r"\(n, 3\)"):
        field.dreg.transform_points([[1.0, 2.0]])


@pytest.mark.parametrize("ndim", [2, 3])
def test_itk_round_trip_and_points(ndim):
    field, fixed = wavy(ndim)
    transform = field.dreg.to_itk_transform()
    back = xdreg.from_itk_transform(transform, field_grid(field))
    np.testing.assert_array_equal(back.displacement, field.displacement)
    lower, upper = fixed.bounds
    points = lower + np.random.default_rng(1).uniform(0.1, 0.9, (40, ndim)) * (
        upper - lower
    )
    theirs = [list(transform.TransformPoint(list(p[::-1])))[::-1] for p in points]
    np.testing.assert_allclose(field.dreg.transform_points(points), theirs, atol=1e-5)


def test_an_iterator_of_points_is_mapped_part_by_part():
    field, _ = wavy(2)
    taken = []

    def parts():
        for number in range(3):
            taken.append(number)
            yield pd.DataFrame({"x": [1.0, 2.0], "y": [3.0, number], "name": "ab"[:1]})

    mapped = field.dreg.transform_points(parts())
    assert taken == []
    first = next(mapped)
    assert taken == [0]
    assert list(first.columns) == ["x", "y", "name"]
    every = [first, *mapped]
    together = field.dreg.transform_points(pd.concat(parts()))
    np.testing.assert_array_equal(pd.concat(every)[["y", "x"]], together[["y", "x"]])
    back = field.dreg.transform_points(iter([np.array([[3.5, 1.5]])]), inverse=True)
    assert next(back).shape == (1, 2)
