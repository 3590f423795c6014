"""Lengths in voxels."""

import time

import numpy as np
import pytest

from tests.helpers.images import image, texture
from xdreg.engines.local_correlation import local_correlation
from xdreg.engines.voxel_units import VoxelUnits
from xdreg.grid import Grid


def test_lengths_are_physical():
    grid = Grid(("z", "y", "x"), (8, 9, 10), (4.0, 1.0, 1.0), (0.0,) * 3)
    units = VoxelUnits(grid)
    assert units.voxels(2.0, {3: 1.0}) == (0.5, 2.0, 2.0)
    assert units.radius([4.0, 3.0, 0.4], {3: 1.0}) == (1, 3, 1)
    np.testing.assert_allclose(
        units.squared_steps * 16, units.squared_steps[::-1] * [1, 16, 256]
    )


@pytest.mark.parametrize("ratio", [1e3, 1e6, 1e9])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_lengths_far_beyond_an_axis_are_bounded(axis, ratio):
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = ratio
    units = VoxelUnits(Grid(("z", "y", "x"), (8, 9, 400), tuple(spacing), (0.0,) * 3))
    for length in (None, ratio, 7.0):
        voxels = np.array(units.voxels(length, {3: 13.0}))
        assert (voxels <= (64, 64, 800)).all()
    # Within twice the axis, or 64 voxels, nothing changes.
    assert units.voxels([0, 0, 700.0], {3: 1.0})[2] == 700.0 / spacing[2]


@pytest.mark.parametrize("metric", ["lncc", "mind"])
@pytest.mark.parametrize("shape", [(2, 17, 11), (24, 26)])
@pytest.mark.parametrize("fine", [0, -1])
def test_absurd_ratios_of_spacings_neither_hang_nor_exhaust_memory(metric, shape, fine):
    spacing = [1.0] * len(shape)
    spacing[fine] = 1e-6
    grid = Grid(
        ("z", "y", "x")[-len(shape) :], shape, tuple(spacing), (0.0,) * len(shape)
    )
    images = [image(texture(shape, seed=seed), grid) for seed in range(2)]
    began = time.perf_counter()
    found = local_correlation(*images, metric=metric, iterations=2).displacement
    assert np.isfinite(found).all()
    assert time.perf_counter() - began < 30
