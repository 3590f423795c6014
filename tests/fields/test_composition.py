"""Transforms one after the other: fields, matrices, ITK's, in any order."""

import dask
import itk
import numpy as np
import pytest
import xarray as xr

import xdreg
from tests.helpers.fields import Known, image, moving_like, unreadable
from tests.helpers.matrices import affine, applied
from xdreg.fields import composition
from xdreg.fields.displacement import make_field
from xdreg.fields.field import field_grid, fixed_grid, moving_grid
from xdreg.grid import Grid
from xdreg.numerics import kernels
from xdreg.numerics.itk_transforms import displacement_image, matrix_to_itk


def moved(field):
    """Return a field's points, and where it maps them."""
    points = kernels.grid_points(field_grid(field))
    return points, points + field.displacement.values.reshape(points.shape[1], -1).T


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_first_is_applied_first(ndim):
    known, matrix = Known(ndim), affine(ndim)
    after = xdreg.compose(known.field, matrix)
    points, found = moved(after)
    np.testing.assert_allclose(found, applied(matrix, moved(known.field)[1]), atol=1e-4)
    assert field_grid(after) == known.grid
    assert fixed_grid(after) == known.fixed
    before = xdreg.compose(matrix, known.field, like=known.field)
    points, found = moved(before)
    there = applied(matrix, points)
    inside = known.holds(there)
    assert inside.sum() > 100
    truth = known.field.dreg.transform_points(there[inside])
    np.testing.assert_allclose(found[inside], truth, atol=1e-4)
    both = xdreg.compose(matrix, affine(ndim, 1), like=known.grid)
    expected = applied(affine(ndim, 1), applied(matrix, points))
    np.testing.assert_allclose(moved(both)[1], expected, atol=1e-4)
    method = known.field.dreg.compose(matrix, matrix)
    again = applied(matrix, moved(after)[1])
    np.testing.assert_allclose(moved(method)[1], again, atol=1e-4)


def test_a_field_and_its_inverse_make_the_identity():
    known = Known(3, 60)
    inverse = known.field.dreg.inverse(like=moving_like(known), step=1)
    around = known.field.dreg.compose(inverse)
    inner = around.displacement[:, 2:-2, 2:-2, 2:-2]
    assert float(np.abs(inner).max()) < 0.15
    assert float(np.abs(inner).mean()) < 0.02
    assert moving_grid(around) == known.fixed


def bspline(grid):
    """Return an ITK B-spline transform over a grid."""
    ndim = grid.ndim
    transform = itk.BSplineTransform[itk.D, ndim, 3].New()
    lower, upper = grid.bounds
    transform.SetTransformDomainOrigin([float(v) - 20 for v in lower[::-1]])
    transform.SetTransformDomainPhysicalDimensions(
        [float(v) + 40 for v in (upper - lower)[::-1]]
    )
    transform.SetTransformDomainMeshSize([4] * ndim)
    count = transform.GetNumberOfParameters()
    values = np.random.default_rng(0).normal(size=count)
    parameters = itk.OptimizerParameters[itk.D](count)
    for i, value in enumerate(values):
        parameters[i] = float(value)
    transform.SetParameters(parameters)
    return transform


@pytest.mark.parametrize("ndim", [2, 3])
def test_itk_transforms_take_any_place(ndim):
    known, matrix = Known(ndim), affine(ndim)
    spline, linear = bspline(known.fixed), matrix_to_itk(matrix)
    result = xdreg.compose(spline, linear, known.field, spline, like=known.grid)
    points, found = moved(result)

    def itk_points(transform, places):
        rows = [list(transform.TransformPoint(p[::-1].tolist()))[::-1] for p in places]
        return np.array(rows)

    step = applied(matrix, itk_points(spline, points))
    inside = known.holds(step)
    step = known.field.dreg.transform_points(step[inside])
    np.testing.assert_allclose(itk_points(spline, step), found[inside], atol=1e-4)
    first = xdreg.compose(spline, like=known.grid)
    np.testing.assert_allclose(moved(first)[1], itk_points(spline, points), atol=1e-4)


def test_nan_before_an_itk_transform_is_said():
    known = Known(2)
    values = known.field.displacement.values.copy()
    values[0, 3, 4] = np.nan
    field = xdreg.compose(make_field(values, known.grid), bspline(known.fixed))
    with pytest.raises(xdreg.InputError, match="mend the field before it"):
        field.compute()


def test_itk_transforms_of_single_precision_are_taken():
    known = Known(2, 5.0)
    stored = displacement_image(known.field.displacement.values, known.grid)
    single = itk.DisplacementFieldTransform[itk.F, 2].New()
    single.SetDisplacementField(stored)
    found = xdreg.compose(single, affine(2), like=known.grid)
    expected = xdreg.compose(known.field, affine(2))
    np.testing.assert_allclose(found.displacement, expected.displacement, atol=1e-4)
    inner = known.grid.window((slice(2, 9), slice(3, 8)))
    sampled = xdreg.from_itk_transform(single, inner)
    np.testing.assert_allclose(
        sampled.displacement, known.field.displacement[:, 2:9, 3:8], atol=1e-5
    )


def test_bits_do_not_depend_on_chunks_and_graphs_read_nothing(monkeypatch):
    known = Known(3, 20)
    other = known.field.dreg.inverse(like=moving_like(known)).compute()
    whole = xdreg.compose(known.field, other).compute(scheduler="synchronous")
    monkeypatch.setitem(composition.FIELD_CHUNK, 3, 9)
    with dask.config.set(scheduler="threads", num_workers=3):
        chunked = xdreg.compose(known.field.chunk(z=4, x=5), other.chunk(y=6)).compute()
    xr.testing.assert_allclose(chunked, whole, atol=2e-5)
    again = xdreg.compose(known.field, other).compute(scheduler="synchronous")
    xr.testing.assert_identical(chunked, again)
    xdreg.compose(unreadable(known.field), unreadable(other), np.eye(4))


def test_units_are_converted_or_refused():
    known = Known(3)
    small = Grid(
        known.grid.dims,
        known.grid.shape,
        tuple(s / 1000 for s in known.grid.spacing),
        tuple(o / 1000 for o in known.grid.origin),
        "millimeter",
    )
    same = make_field(known.field.displacement.values / 1000, small)
    one, other = (xdreg.compose(known.field, f) for f in (known.field, same))
    np.testing.assert_allclose(other.displacement, one.displacement, atol=1e-4)
    assert other.displacement.attrs["units"] == "micrometer"
    bare = Grid(small.dims, small.shape, small.spacing, small.origin)
    with pytest.raises(xdreg.InputError, match=r"transform 2.*do not convert"):
        xdreg.compose(known.field, make_field(same.displacement.values, bare))


def test_mistakes_are_named():
    known = Known(3)
    with pytest.raises(xdreg.InputError, match="at least one"):
        xdreg.compose()
    with pytest.raises(xdreg.InputError, match=r": like=\.\.\."):
        xdreg.compose(np.eye(4), known.field)
    with pytest.raises(xdreg.InputError, match="transform 2"):
        xdreg.compose(known.field, np.eye(3))
    with pytest.raises(xdreg.InputError, match="transform 2 is a str"):
        xdreg.compose(known.field, "transform.tfm")
    with pytest.raises(xdreg.InputError, match="transform 2 has dimensions"):
        xdreg.compose(known.field, Known(2).field)
    with pytest.raises(xdreg.InputError, match="transform 2 has 2 dimensions"):
        xdreg.compose(known.field, itk.AffineTransform[itk.D, 2].New())


def test_the_grid_of_an_image():
    known = Known(3)
    like = image(known.fixed)
    assert field_grid(xdreg.compose(np.eye(4), like=like)) == known.fixed
