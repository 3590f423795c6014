"""Lengths in voxels."""

import numpy as np

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
