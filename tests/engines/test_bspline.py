"""The B-spline field against ITK's own transform."""

import os
import subprocess
import sys

import numpy as np
import pytest

from xdreg.engines.bspline import basis_matrix, evaluate
from xdreg.errors import InputError
from xdreg.grid import Grid

COARSE = Grid(("z", "y", "x"), (7, 6, 9), (9.0, 7.5, 5.0), (-14.0, 20.0, -7.0), "meter")
FINE = Grid(("z", "y", "x"), (8, 9, 10), (4.0, 2.0, 1.5), (-4.0, 28.0, 1.0), "meter")


def flat(grid):
    return Grid(
        grid.dims[1:], grid.shape[1:], grid.spacing[1:], grid.origin[1:], grid.units
    )


@pytest.mark.parametrize(
    ("coarse", "grid"), [(COARSE, FINE), (flat(COARSE), flat(FINE))], ids=["3d", "2d"]
)
def test_equals_itk(coarse, grid):
    itk = pytest.importorskip("itk")
    coefficients = np.random.default_rng(1).normal(
        scale=3.0, size=(grid.ndim, *coarse.shape)
    )
    transform = itk.BSplineTransform[itk.D, grid.ndim, 3].New()
    fixed = (
        np.concatenate(
            [coarse.shape[::-1], coarse.origin[::-1], coarse.spacing[::-1]]
        ).tolist()
        + np.eye(grid.ndim).ravel().tolist()
    )
    parameters = itk.OptimizerParameters[itk.D](len(fixed))
    for i, value in enumerate(fixed):
        parameters[i] = value
    transform.SetFixedParameters(parameters)
    values = np.concatenate([c.ravel() for c in coefficients[::-1]])
    parameters = itk.OptimizerParameters[itk.D](values.size)
    for i, value in enumerate(values.tolist()):
        parameters[i] = value
    transform.SetParameters(parameters)
    field = evaluate(coefficients, coarse, grid)
    assert field.dtype == np.float32
    for index in np.ndindex(grid.shape):
        point = grid.index_to_physical(index)
        mapped = np.array(transform.TransformPoint(point[::-1].tolist()))[::-1]
        np.testing.assert_allclose(
            field[(slice(None), *index)], mapped - point, atol=1.4e-5
        )


def test_partition_of_unity_and_smoothness():
    basis = basis_matrix(np.linspace(1, 6, 101), 8)
    np.testing.assert_allclose(basis.sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(basis @ np.arange(8), np.linspace(1, 6, 101), atol=1e-12)
    assert (basis >= 0).all()


def test_nothing_beyond_the_support():
    assert (basis_matrix([-2.0, 9.5], 8) == 0).all()


def test_coefficients_must_fit():
    with pytest.raises(InputError, match="shape"):
        evaluate(np.zeros((3, 7, 6, 8)), COARSE, FINE)
    with pytest.raises(InputError, match="dims"):
        evaluate(np.zeros((3, 7, 6, 9)), COARSE, flat(FINE))


EVALUATED = """
import hashlib
import numpy as np
from xdreg.engines.bspline import evaluate
from xdreg.grid import Grid

dims = ("z", "y", "x")
few = Grid(dims, (21, 23, 25), (5.0,) * 3, (-5.0,) * 3, "micrometer")
many = Grid(dims, (90, 100, 110), (1.0,) * 3, (0.0,) * 3, "micrometer")
field = evaluate(np.random.default_rng(0).random((3, *few.shape)), few, many)
print(hashlib.sha256(field.tobytes()).hexdigest())
"""


def test_the_bits_do_not_depend_on_the_threads_of_blas():
    """Workers of a cluster have one thread; full matrix products would differ."""
    found = set()
    for threads in ("1", "2"):
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(names, threads)}
        command = [sys.executable, "-c", EVALUATED]
        found.add(subprocess.check_output(command, env=environment))
    assert len(found) == 1
