"""Phantom pairs: the truth is the truth, whatever the chunking."""

import numpy as np
import pytest

import xdreg
from xdreg.coordinates import grid_of
from xdreg.numerics import folding, kernels


@pytest.mark.parametrize("shape", [(40, 50), (24, 40, 50)])
def test_chunking_changes_no_bit(shape):
    a = xdreg.datasets.phantom_pair(shape, chunks=64)
    b = xdreg.datasets.phantom_pair(shape, chunks=17)
    for name in ("fixed", "moving", "displacement", "foreground"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize("shape", [(60, 70), (40, 50, 60)])
def test_the_pair_is_related_by_its_field(shape):
    pair = xdreg.datasets.phantom_pair(shape, noise=0.0, dtype="float32", spacing=0.5)
    grid = grid_of(pair.fixed)
    field = pair.displacement.values
    moved = kernels.warp_array(pair.moving.values, grid, field, grid, grid)
    gap = np.abs(moved - pair.fixed.values)
    before = np.abs(pair.moving.values - pair.fixed.values)
    # What is left is linear interpolation of the texture.
    assert np.nanmean(gap) < 0.1 * before.mean()
    assert folding.jacobian_determinant(field, grid).min() > 0
    np.testing.assert_allclose(
        kernels.sample(field, grid, pair.fixed_points).T,
        pair.moving_points - pair.fixed_points,
        atol=0.02,
    )


def test_seeds_differ_and_shapes_are_checked():
    a, b = (xdreg.datasets.phantom_pair((32, 32), seed=s).fixed for s in (0, 1))
    assert (a != b).any()
    with pytest.raises(xdreg.InputError, match="two or three"):
        xdreg.datasets.phantom_pair((8, 8, 8, 8))
