"""What blocks leave: whole files, of which a damaged one counts as none."""

import pickle

import numpy as np
import pytest
import zarr

from xdreg.block_array import BlockArray


@pytest.mark.parametrize("shape", [(), (7,), (2, 5, 4)])
def test_reads_what_was_stored_also_through_zarr(tmp_path, shape):
    array = BlockArray(tmp_path / "a", (3, 4), shape, np.nan)
    values = np.random.default_rng(0).random(shape, np.float32)
    array[2, 1] = values
    again = pickle.loads(pickle.dumps(array))
    np.testing.assert_array_equal(again[2, 1], values)
    assert np.isnan(again[0, 0]).all()
    assert again[0, 0].shape == shape
    assert list(again.done()) == [(2, 1)]
    stored = zarr.open_array(tmp_path / "a", mode="r")
    assert stored.shape == (3, 4, *shape)
    np.testing.assert_array_equal(stored[2, 1], values)


def test_a_file_that_is_damaged_counts_as_none(tmp_path):
    array = BlockArray(tmp_path / "a", (2,), (8,), -1)
    file = tmp_path / "a" / "1.0"
    array[(1,)] = np.arange(8)
    whole = file.read_bytes()
    for damaged in (b"", whole[:-3], whole[:9] + b"?" + whole[10:]):
        file.write_bytes(damaged)
        assert array.read((1,)) is None
        np.testing.assert_array_equal(array[(1,)], np.full(8, -1))
    array[(1,)] = np.arange(8)
    np.testing.assert_array_equal(array[(1,)], np.arange(8))


def test_nothing_but_whole_files_is_left(tmp_path):
    array = BlockArray(tmp_path / "a", (2, 2), (3,), 0)
    for index in np.ndindex(2, 2):
        array[index] = index[0]
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {"zarr.json", "0.0.0", "0.1.0", "1.0.0", "1.1.0"}
