"""Whole images at a coarse level, and pairs of slides that are stored as volumes."""

import numpy as np
import pytest
import xarray as xr

import xdreg
from tests.helpers.images import (
    FLAT,
    about_centre,
    body,
    corner_error,
    moved,
    rotation,
)
from tests.helpers.matrices import matrix_of
from xdreg.coordinates import coordinates, grid_of
from xdreg.grid import Grid
from xdreg.registration.whole import Whole


def thick(flat, axis, height):
    """Return a plane as a volume of one voxel along an axis, at this height."""
    grid = grid_of(flat)
    parts = [[*part] for part in (grid.shape, grid.spacing, grid.origin)]
    for part, value in zip(parts, (1, 4.0, height), strict=True):
        part.insert(axis, value)
    volume = Grid(("z", "y", "x"), *map(tuple, parts), grid.units)
    values = flat.values.reshape(volume.shape)
    return xr.DataArray(values, dims=volume.dims, coords=coordinates(volume))


@pytest.mark.parametrize(("axis", "heights"), [(0, (0.0, 0.0)), (1, (3.0, 4.5))])
def test_a_turned_slide_is_found_as_a_volume_of_one_voxel(axis, heights):
    grid = FLAT
    matrix = about_centre(grid, rotation(2, 110), 3 * np.array(grid.spacing))
    flat = body(grid)
    images = flat, moved(flat, matrix)
    fixed, moving = (
        thick(one, axis, height) for one, height in zip(images, heights, strict=True)
    )
    field = fixed.dreg.register(moving, stages=[xdreg.Rigid()], progress=False)
    found = matrix_of(field)
    kept = [i for i in range(4) if i != axis]
    assert corner_error(found[np.ix_(kept, kept)], matrix, grid) < 1
    assert found[axis, -1] == pytest.approx(heights[1] - heights[0])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_transforms_of_a_plane_are_restored(axis):
    shape = [5, 6, 7]
    shape[axis] = 1
    grid = Grid(("z", "y", "x"), tuple(shape), (1.0, 2.0, 3.0), (10.0, 20.0, 30.0))
    values, mask = np.zeros(grid.shape, np.float32), np.ones(grid.shape, bool)
    start = np.eye(4) + 0.1 * np.random.default_rng(0).random((4, 4))
    start[-1] = 0, 0, 0, 1
    whole = Whole(grid, values, mask, grid, values, mask, start)
    assert [one.dims for one in whole.images] == [("y", "x")] * 2
    points = grid.index_to_physical(np.argwhere(mask))
    kept = [i for i in range(3) if i != axis]
    plane = whole.reduced(start)
    moved_points = points @ start[:3, :3].T + start[:3, 3]
    in_plane = points[:, kept] @ plane[:2, :2].T + plane[:2, 2]
    np.testing.assert_allclose(in_plane, moved_points[:, kept])
    np.testing.assert_allclose(whole.restored(plane, start), start)
