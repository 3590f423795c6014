"""ITK's transform files: points, composites, linear transforms."""

import subprocess
import sys

import itk
import numpy as np
import pytest

import xdreg
from tests.helpers.fields import Known, difference, points_of
from xdreg import bridges
from xdreg.fields.field import field_grid
from xdreg.grid import Grid


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("affine", [False, True])
def test_itk_maps_points_as_the_field_does(tmp_path, ndim, affine):
    known = Known(ndim, 20.0)
    path = tmp_path / "warp.h5"
    xdreg.write_transform(known.field, path, affine=affine, units="micrometer")
    (transform,) = itk.transformread(str(path))
    points = points_of(known)
    found = [list(transform.TransformPoint(p[::-1].tolist()))[::-1] for p in points]
    expected = known.field.dreg.transform_points(points)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    back = xdreg.open_transform(path, units="micrometer")
    assert difference(back, known.field) < 1e-4
    far = known.fixed.centre + 1000.0
    moved = np.array(list(transform.TransformPoint(far[::-1].tolist())))[::-1]
    # Only the affine part goes on beyond the grid: the nearest to all that bends.
    matrix = bridges.to_matrix(known.field, tolerance=np.inf)
    turned = matrix[:-1, :-1] @ far + matrix[:-1, -1]
    np.testing.assert_allclose(moved, turned if affine else far, rtol=1e-9)


def test_a_linear_transform_needs_to_be_told_where(tmp_path):
    transform = itk.AffineTransform[itk.D, 2].New()
    transform.SetMatrix(itk.matrix_from_array(np.array([[1.1, -0.2], [0.1, 0.9]])))
    transform.SetOffset([-4.0, 3.0])
    for name in ("a.tfm", "a.mat", "a.txt"):
        itk.transformwrite([transform], str(tmp_path / name))
        with pytest.raises(xdreg.InputError, match=r": like=\.\.\."):
            xdreg.open_transform(tmp_path / name)
        like = Grid(("y", "x"), (5, 6), (2.0, 1.0), (1.0, 7.0), "millimeter")
        field = xdreg.open_transform(tmp_path / name, like=like)
        expected = [[0.9, 0.1, 3.0], [-0.2, 1.1, -4.0], [0.0, 0.0, 1.0]]
        np.testing.assert_allclose(bridges.to_matrix(field), expected, atol=1e-5)


def test_a_composite_is_read_in_its_order(tmp_path):
    known = Known(2, 5.0)
    spline = itk.BSplineTransform[itk.D, 2, 3].New()
    spline.SetTransformDomainOrigin([-200.0, -200.0])
    spline.SetTransformDomainPhysicalDimensions([500.0, 500.0])
    spline.SetTransformDomainMeshSize([4, 4])
    count = spline.GetNumberOfParameters()
    numbers = itk.OptimizerParameters[itk.D](count)
    for i, value in enumerate(np.random.default_rng(0).normal(size=count)):
        numbers.SetElement(i, float(value))
    spline.SetParameters(numbers)
    both = itk.CompositeTransform[itk.D, 2].New()
    both.AddTransform(spline)
    both.AddTransform(known.field.dreg.to_itk_transform())
    itk.transformwrite([both], str(tmp_path / "both.h5"))
    field = xdreg.open_transform(tmp_path / "both.h5", units="micrometer")
    assert field_grid(field) == field_grid(known.field)
    expected = xdreg.from_itk_transform(both, field_grid(field))
    assert difference(field, expected) < 1e-3


READ_LOAD_READ = """
import sys, itk, xdreg
xdreg.open_transform(sys.argv[1], units="micrometer")
itk.ElastixRegistrationMethod
itk.transformread(sys.argv[1])
print("read")
"""


def test_elastix_may_be_loaded_after_a_transform_is_read(tmp_path):
    """ITK alone crashes where it is loaded between two reads."""
    path = tmp_path / "warp.h5"
    xdreg.write_transform(Known(2, 20.0).field, path, units="micrometer")
    command = [sys.executable, "-c", READ_LOAD_READ, path]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stdout) == (0, "read\n"), done.stderr
