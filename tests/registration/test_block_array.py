"""What blocks leave: whole files, of which a damaged one counts as none."""

import os
import pickle
import re

import numpy as np
import pytest
import zarr

import xdreg
from xdreg.registration.block_array import (
    BlockArray,
    intact,
    open_array,
    store_window,
)


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


def test_a_window_of_chunks_is_what_zarr_would_have_written(tmp_path):
    arrays = [open_array(tmp_path / n, (3, 10, 7), (3, 4, 3), np.nan) for n in "ab"]
    values = np.random.default_rng(0).random((3, 10, 7), np.float32)
    for y in (slice(0, 4), slice(4, 10)):
        for x in (slice(0, 3), slice(3, 6), slice(6, 7)):
            window = (slice(0, 3), y, x)
            store_window(arrays[0], window, values[window])
            arrays[1][window] = values[window]
    np.testing.assert_array_equal(arrays[0][:], values)
    files = sorted(path.name for path in (tmp_path / "b").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "a").iterdir())
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (
            tmp_path / "b" / name
        ).read_bytes()


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


@pytest.mark.parametrize("compress", [False, True])
def test_damaged_chunks_and_metadata_count_as_missing(compress, tmp_path):
    path = tmp_path / "a"
    array = open_array(path, (4, 6), (2, 6), np.nan, compress=compress)
    array[:2] = 1.0
    np.testing.assert_array_equal(intact(array, np.s_[:2]), np.ones((2, 6)))
    assert intact(array, np.s_[2:]) is None
    whole = (path / "zarr.json").read_bytes()
    for damaged in (b"{", b"[]", b"3", whole.replace(b"float32", b"float64"), b""):
        (path / "zarr.json").write_bytes(damaged)
        array = open_array(path, (4, 6), (2, 6), np.nan, compress=compress)
        np.testing.assert_array_equal(intact(array, np.s_[:2]), np.ones((2, 6)))
        assert (path / "zarr.json").read_bytes() == whole
    chunk = path / "0.0"
    chunk.write_bytes(chunk.read_bytes()[:-5])
    assert intact(array, np.s_[:2]) is None


@pytest.mark.parametrize("place", ["zarr.json", "1.0"])
@pytest.mark.parametrize("how", ["folder", "pipe", "device", "loop"])
def test_what_is_no_file_is_refused_by_name(place, how, tmp_path):
    array = BlockArray(tmp_path / "a", (2,), (8,), -1)
    file = tmp_path / "a" / place
    file.unlink(missing_ok=True)
    if how == "folder":
        file.mkdir()
    elif how == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero" if how == "device" else file)
    with pytest.raises(xdreg.StoreError, match=re.escape(str(file))):
        BlockArray(tmp_path / "a", (2,), (8,), -1) if "z" in place else array.read((1,))


def test_other_files_next_to_the_chunks_are_ignored(tmp_path):
    array = BlockArray(tmp_path / "a", (2, 3), (8,), -1)
    array[1, 2] = 4
    for name in ("1.1.0 (copy)", "1.0", "9.9.0", ".0.0.0.12", "1.1.1", "x", "1..0"):
        (tmp_path / "a" / name).write_bytes(b"?")
    assert list(array.done()) == [(1, 2)]


def test_nothing_but_whole_files_is_left(tmp_path):
    array = BlockArray(tmp_path / "a", (2, 2), (3,), 0)
    for index in np.ndindex(2, 2):
        array[index] = index[0]
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {"zarr.json", "0.0.0", "0.1.0", "1.0.0", "1.1.0"}
