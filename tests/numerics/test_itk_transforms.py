"""Transforms of ITK: as matrices, sampled, refused."""

import itk
import numpy as np
import pytest

import xdreg
from xdreg.grid import Grid
from xdreg.numerics.itk_transforms import (
    displacement_from_itk,
    matrix_from_itk,
    matrix_to_itk,
)
from xdreg.numerics.kernels import grid_points


def test_linear_transforms_are_matrices_in_dims_order():
    transform = itk.Euler3DTransform[itk.D].New()
    transform.SetCenter([3.0, 4.0, 5.0])
    transform.SetRotation(0.2, -0.1, 0.3)
    transform.SetTranslation([1.0, 2.0, 3.0])
    matrix = matrix_from_itk(transform)
    back = matrix_to_itk(matrix)
    point = np.array([7.0, -2.0, 9.0])
    expected = np.array(list(transform.TransformPoint(list(point))))
    np.testing.assert_allclose(list(back.TransformPoint(list(point))), expected)
    ours = matrix[:3, :3] @ point[::-1] + matrix[:3, 3]
    np.testing.assert_allclose(ours, expected[::-1])


def test_a_composite_transform_is_sampled():
    grid = Grid(("y", "x"), (6, 8), (1.0, 0.5), (2.0, -1.0))
    spline = itk.BSplineTransform[itk.D, 2, 3].New()
    spline.SetTransformDomainOrigin([-2.0, 1.0])
    spline.SetTransformDomainPhysicalDimensions([8.0, 9.0])
    spline.SetTransformDomainMeshSize([3, 3])
    count = spline.GetNumberOfParameters()
    parameters = itk.OptimizerParameters[itk.D](count)
    for i, value in enumerate(np.random.default_rng(0).normal(size=count)):
        parameters.SetElement(i, float(value))
    spline.SetParameters(parameters)
    shift = itk.TranslationTransform[itk.D, 2].New()
    shift.SetOffset([0.3, 0.7])
    both = itk.CompositeTransform[itk.D, 2].New()
    both.AddTransform(shift)
    both.AddTransform(spline)
    field = displacement_from_itk(both, grid).reshape(2, -1).T
    points = grid_points(grid)
    expected = [list(both.TransformPoint(list(p[::-1])))[::-1] for p in points]
    np.testing.assert_allclose(points + field, expected, atol=1e-5)


def test_what_is_no_transform_is_refused():
    grid = Grid(("y", "x"), (6, 8), (1.0, 0.5), (2.0, -1.0))
    with pytest.raises(xdreg.InputError, match=r"itk\.Transform"):
        xdreg.from_itk_transform("a.tfm", grid)
    with pytest.raises(xdreg.InputError, match="3 dimensions"):
        xdreg.from_itk_transform(itk.TranslationTransform[itk.D, 3].New(), grid)
