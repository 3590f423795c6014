"""Cubic resampling on arrays of any kind against the compiled one."""

import numpy as np
import pytest

from tests.helpers.device_arrays import SPACE
from xdreg.grid import SPATIAL_DIMS, Grid
from xdreg.numerics.array_spline import pull_limited
from xdreg.numerics.interpolation import Spline


def grid_of_shape(shape, spacing=1.0, origin=0.0):
    ndim = len(shape)
    return Grid(SPATIAL_DIMS[-ndim:], shape, (spacing,) * ndim, (origin,) * ndim, None)


@pytest.mark.parametrize("shape", [(30, 34), (16, 18, 20), (1, 24, 20), (2, 3, 9)])
@pytest.mark.parametrize("unknown", ["none", "some", "all"])
def test_both_find_the_same(shape, unknown):
    rng = np.random.default_rng(4)
    values = rng.normal(size=shape).astype(np.float32)
    if unknown == "all":
        values[:] = np.nan
    if unknown == "some":
        values[rng.random(shape) < 0.1] = np.nan
    # The field lies on a coarser grid, and points beyond the image.
    coarse = grid_of_shape(tuple(-(-n // 3) for n in shape), 3.0, 1.0)
    field = rng.normal(0, 2, (len(shape), *coarse.shape)).astype(np.float32)
    target = grid_of_shape(tuple(n + 3 for n in shape), 0.9, -0.4)
    image = grid_of_shape(shape, 0.8, 0.3)
    expected = Spline(values, image, limited=True).resample(field, coarse, target)
    found = pull_limited(SPACE, values, image, field, coarse, target)
    assert found.dtype == np.float32
    # Rounding decides in which cell a position at its edge lies.
    differ = np.isnan(found) != np.isnan(expected)
    assert differ.mean() < 0.002
    both = np.isfinite(found) & np.isfinite(expected)
    assert both.any() == (unknown != "all")
    if both.any():
        assert (np.abs(found - expected)[both] > 1e-3).mean() < 0.002
