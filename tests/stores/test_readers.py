"""Readers of windows."""

import pickle

import dask.base
import numpy as np
import pytest
import xarray as xr

import xdreg
from tests.helpers.stores import rgb
from xdreg.errors import UnreadableError
from xdreg.grid import Grid
from xdreg.stores.channels import LUMINANCE_WEIGHTS
from xdreg.stores.readers import ImageReader, image_reader

PAIR = xdreg.datasets.phantom_pair((64, 80), amplitude=2.0)
WEIGHTS = tuple(LUMINANCE_WEIGHTS.values())


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_window_of_luminance_is_read(axis, chunked):
    image = rgb(PAIR.fixed, axis=axis)
    wanted = (image * xr.DataArray(list(WEIGHTS), dims="c")).sum("c")
    if chunked:
        image = image.chunk(20)
    reader = image_reader(image, select={"c": WEIGHTS})
    window = (slice(3, 30), slice(10, 55))
    np.testing.assert_allclose(
        reader.read_finite(window), wanted.transpose("y", "x")[window], atol=1e-3
    )
    # To the bit what a larger window holds there.
    np.testing.assert_array_equal(reader.read(window), reader.read()[window])
    other = image_reader(image, select={"c": WEIGHTS[::-1]})
    assert dask.base.tokenize(reader) != dask.base.tokenize(other)


GRID = Grid(("y", "x"), (6, 90), (2.0, 1.0), (0.0, 5.0))
VALUES = np.arange(540, dtype=np.float64).reshape(6, 90)


class Damaged:
    """An image of which one column cannot be read."""

    dtype = VALUES.dtype

    def __getitem__(self, index):
        columns = range(90)[index[1]]
        if 40 in columns:
            message = "damaged"
            raise UnreadableError(message)
        return VALUES[index]


def test_axes_come_in_dims_order_with_nan_for_what_is_not_finite():
    values = VALUES.T[None].copy()
    values[0, 3, 2] = np.inf
    reader = ImageReader(values, GRID, (0, "x", "y"))
    window = (slice(1, 5), slice(2, 9))
    expected = VALUES[window].copy()
    expected[1, 1] = np.inf
    np.testing.assert_array_equal(reader.read(window), expected)
    expected[1, 1] = np.nan
    np.testing.assert_array_equal(reader.read_finite(window), expected)


def test_what_is_unreadable_is_nan_in_a_look_at_a_level():
    reader = ImageReader(Damaged(), GRID, ("y", "x"))
    with pytest.raises(UnreadableError):
        reader.read_finite()
    with pytest.warns(UserWarning, match="damaged; it is masked out"):
        known = reader.read_known()
    lost = np.isnan(known)
    assert lost[:, 32:64].all()
    assert lost.sum() == 6 * 32
    np.testing.assert_array_equal(known[~lost], VALUES[~lost])


def test_a_mask_is_read_by_the_nearest_voxel():
    values = np.zeros((60, 90))
    values[20:40], values[25, 25] = 1, np.nan
    fine = Grid(("y", "x"), (60, 90), (1.0, 1.0), (0.0, 0.0))
    coarse = Grid(("y", "x"), (14, 18), (5.0, 5.0), (0.0, 0.0))
    mask = ImageReader(values, fine, ("y", "x")).read_mask(coarse)
    rows, columns = (np.arange(n) * 5 for n in coarse.shape)
    expected = ((rows >= 20) & (rows < 40))[:, None] & (columns < 90)
    expected[5, 5] = False
    np.testing.assert_array_equal(mask, expected)
    beyond = Grid(("y", "x"), (3, 3), (1.0, 1.0), (500.0, 500.0))
    assert not ImageReader(values, fine, ("y", "x")).read_mask(beyond).any()


def test_an_image_of_a_store_pickles_without_its_values(tmp_path):
    xdreg.save(xdreg.datasets.phantom_pair((48, 56)).fixed, tmp_path / "a.zarr")
    image = xdreg.open_ome_zarr(tmp_path / "a.zarr", level=0)
    assert len(pickle.dumps(image)) < 10_000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(image)), image)
