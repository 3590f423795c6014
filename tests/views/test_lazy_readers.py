"""Arrays that read only what is asked of them."""

import numpy as np
import pytest

from tests.helpers.fields import Known, Watched, noisy_moving
from xdreg.fields.displacement import open_displacement
from xdreg.fields.provenance import recorded_image
from xdreg.grid import Grid
from xdreg.stores.readers import ImageReader
from xdreg.views.lazy_readers import MagnitudeReader, WindowArray
from xdreg.views.scene import make_scene

GRID = Grid(("z", "y", "x"), (7, 11, 13), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
KEYS = [
    ...,
    3,
    -1,
    (2, ..., 5),
    (slice(1, 6, 2), slice(None, None, -3), slice(-4, None)),
    (slice(None), np.int64(4)),
    (slice(5, 2),),
    (slice(6, 1, -2), 0, 0),
    (0, 1, 2),
]


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_reads_like_numpy(key):
    values = np.random.default_rng(0).random(GRID.shape)
    array = WindowArray(ImageReader(values, GRID, GRID.dims))
    view = array[key]
    assert view.shape == values[key].shape
    np.testing.assert_array_equal(np.asarray(view), values[key])
    assert (array.shape, array.ndim, array.size) == (values.shape, 3, values.size)
    again = (..., slice(None, None, 2))
    if view.ndim:
        np.testing.assert_array_equal(np.asarray(view[again]), values[key][again])


@pytest.mark.parametrize("key", [7, (0, 0, 0, 0), (slice(None), -12)])
def test_out_of_bounds(key):
    array = WindowArray(ImageReader(np.zeros(GRID.shape), GRID, GRID.dims))
    with pytest.raises(IndexError):
        array[key]


@pytest.mark.parametrize("ndim", [2, 3])
def test_warped_is_what_warp_says(ndim):
    known = Known(ndim, 20)
    moving = noisy_moving(known)
    scene = make_scene(known.field, None, moving)
    expected = known.field.dreg.warp(moving).values
    found = WindowArray(scene.warped[0])
    np.testing.assert_array_equal(np.asarray(found), expected)
    np.testing.assert_array_equal(np.asarray(found[17]), expected[17])
    assert found.dtype == moving.dtype
    assert recorded_image(known.field, "moving") is None


def test_a_plane_costs_a_plane():
    known = Known(3)
    moving = noisy_moving(known)
    watched = Watched(moving.values)
    scene = make_scene(known.field, None, moving)
    reader = scene.warped[0]
    reader._moving.source = watched
    # As napari does: first the tile with all planes, then the plane.
    tile = WindowArray(reader)[:, 4:40, 6:30]
    assert not watched.windows
    np.asarray(tile[20])
    (shape,) = watched.windows
    # The wave bends the plane by a few voxels of 1.2, and a margin is read.
    assert shape[0] < 12 < moving.shape[0] / 3


def test_magnitude_by_strides():
    known = Known(3, 10)
    reader = open_displacement(known.field)
    expected = np.linalg.norm(known.field.displacement.values, axis=0)
    found = MagnitudeReader(reader, (2, 1, 3))
    np.testing.assert_allclose(found.read(), expected[::2, :, ::3], rtol=1e-5)
    part = found.read((slice(1, 3), slice(5, 6), slice(0, 4)))
    np.testing.assert_allclose(part, expected[::2, :, ::3][1:3, 5:6, :4], rtol=1e-5)
    assert found.grid.spacing == (8.0, 2.0, 9.0)
    assert found.grid.origin == reader.grid.origin
