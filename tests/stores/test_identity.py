"""What the voxels of an image are known by."""

import os
import shutil
import time

import dask.array
import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.storage import (
    FsspecStore,
    LocalStore,
    MemoryStore,
    WrapperStore,
    ZipStore,
)

import xdreg
from tests.helpers.servers import Handler, serving
from xdreg.stores import identity
from xdreg.stores.identity import UNKNOWN, identity_of, same_voxels
from xdreg.stores.ome_zarr import lazy_zarr
from xdreg.stores.pyramid import image_levels
from xdreg.stores.readers import image_reader, source_of

VALUES = np.random.default_rng(0).integers(0, 99, (40, 50)).astype("uint8")

#: How an array is written: layouts of chunks in version 2 and 3.
LAYOUTS = {
    "v2 flat": {"zarr_format": 2, "chunk_key_encoding": {"name": "v2"}},
    "v2 nested": {
        "zarr_format": 2,
        "chunk_key_encoding": {"name": "v2", "separator": "/"},
    },
    "v3": {},
    "v3 flat": {"chunk_key_encoding": {"name": "default", "separator": "."}},
    "v3 as v2": {"chunk_key_encoding": {"name": "v2", "separator": "."}},
    "shards": {"shards": (20, 20)},
}


def written(store, **layout):
    """Write an array without compression, so that every chunk keeps its size."""
    array = zarr.create_array(
        store,
        name="image",
        shape=VALUES.shape,
        chunks=(10, 10),
        dtype="uint8",
        compressors=None,
        attributes={"note": "one"},
        **layout,
    )
    array[:] = VALUES
    # Beyond the clock of the file system.
    time.sleep(0.02)
    return array


def opened(place):
    return zarr.open_array(place, path="image", mode="r")


def one_chunk(array):
    array[12:14, 33] = 200


def chunk_lost(array):
    files = [p for p in (array.store.root / "image").rglob("*") if p.is_file()]
    max(p for p in files if p.suffix != ".json" and p.name[0] != ".").unlink()


def chunk_added(array):
    chunk_lost(array)
    opened(array.store.root)
    array[:] = VALUES


@pytest.mark.parametrize("change", [one_chunk, chunk_lost, chunk_added])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_change_of_one_chunk_is_seen(layout, change, tmp_path):
    array = written(tmp_path / "a", **LAYOUTS[layout])
    before = identity_of(opened(tmp_path / "a"))
    assert identity_of(opened(tmp_path / "a")) == before
    change(array)
    assert not same_voxels(before, identity_of(opened(tmp_path / "a")))
    # Also by an array that was opened before.
    assert identity_of(array) == identity_of(opened(tmp_path / "a"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_no_change(layout, tmp_path, monkeypatch):
    array = written(tmp_path / "a", **LAYOUTS[layout])
    before = identity_of(array)
    array.attrs["note"] = "other"
    (tmp_path / "a" / "image" / ".DS_Store").touch()
    (tmp_path / "a" / "image" / "0.5f2e.partial").touch()
    for path in (tmp_path / "a").rglob("*"):
        times = path.stat()
        os.utime(path, ns=(0, times.st_mtime_ns))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    shutil.copytree("a", "copy")
    for place in ("a", tmp_path / "a", "link", "copy"):
        assert identity_of(opened(place)) == before
    shutil.move("a", "moved")
    assert identity_of(opened("moved")) == before
    with pytest.raises(xdreg.StoreError, match=r"a/image is gone.*mounted"):
        identity_of(array)


def test_chunks_that_are_links(tmp_path):
    """Their targets count, also those that are not there yet."""
    written(tmp_path / "a")
    for path in (tmp_path / "a" / "image" / "c").rglob("*"):
        if path.is_file():
            kept = tmp_path / f"{path.parent.name}-{path.name}"
            path.rename(kept)
            path.symlink_to(kept)
    before = identity_of(opened(tmp_path / "a"))
    (tmp_path / "1-3").rename(tmp_path / "away")
    gone = identity_of(opened(tmp_path / "a"))
    assert gone != before
    (tmp_path / "away").rename(tmp_path / "1-3")
    assert identity_of(opened(tmp_path / "a")) == before


@pytest.mark.parametrize("limit", ["MOST_FILES", "_SLOW"])
def test_many_files_and_slow_disks(limit, tmp_path, monkeypatch):
    array = written(tmp_path / "a")
    before = identity_of(array)
    monkeypatch.setattr(identity, limit, 0)
    monkeypatch.setattr(identity, "_BATCH", 3)
    # All chunks are in the sample.
    assert identity_of(array) == before
    one_chunk(array)
    assert identity_of(array) != before


def test_a_zip_file(tmp_path):
    def make(value):
        with ZipStore(tmp_path / "a.zip", mode="w") as store:
            VALUES[5, 5] = value
            written(store)
        return identity_of(opened(ZipStore(tmp_path / "a.zip", mode="r")))

    assert make(1) == make(1)
    assert make(1) != make(2)


@pytest.mark.parametrize("wrap", [lambda store: store, WrapperStore])
def test_a_store_in_memory(wrap):
    array = written(wrap(MemoryStore()))
    before = identity_of(array)
    assert identity_of(written(MemoryStore())) == before | identity_of(array)
    one_chunk(array)
    assert identity_of(array) != before


class OtherStore(LocalStore):
    """A store of another kind."""


@pytest.mark.parametrize("kind", ["fsspec", "other"])
def test_any_other_store(kind, tmp_path, monkeypatch):
    store = FsspecStore.from_url("memory://identity")
    if kind == "other":
        store = LocalStore(tmp_path)
        monkeypatch.setattr(zarr.storage, "LocalStore", OtherStore)
    array = written(store)
    before = identity_of(array)
    assert before == identity_of(array)
    array[:] = 255 - VALUES
    assert not same_voxels(before, identity_of(array))


def test_a_server(tmp_path):
    array = written(tmp_path / "a")
    with serving(tmp_path) as (url, _):
        before = identity_of(opened(f"{url}/a"))
        assert identity_of(opened(f"{url}/a")) == before
        assert UNKNOWN not in before["chunks"].values()
        array[:] = 255 - VALUES
        # The times that a server tells have no fractions.
        for path in (tmp_path / "a" / "image" / "c").rglob("*"):
            os.utime(path, (1e9, 1e9))
        assert not same_voxels(before, identity_of(opened(f"{url}/a")))


def test_a_server_that_does_not_answer(tmp_path, monkeypatch):
    """What it did not tell agrees with everything; the rest counts."""
    array = written(tmp_path / "a")
    monkeypatch.setattr(identity, "FIRST_WAIT", 0.01)
    plain = Handler.do_HEAD

    def head(self):
        fault = self.faults.next(self.path)
        return plain(self) if fault is None else self.send_error(fault)

    monkeypatch.setattr(Handler, "do_HEAD", head)
    with serving(tmp_path) as (url, faults):
        before = identity_of(opened(f"{url}/a"))
        faults.answers["c/0"] = 503
        after = identity_of(opened(f"{url}/a"))
        assert list(after["chunks"].values()).count(UNKNOWN) == 5
        assert same_voxels(before, after)
        array[-1] = 0
        for path in (tmp_path / "a" / "image" / "c" / "3").iterdir():
            os.utime(path, (1e9, 1e9))
        assert not same_voxels(before, identity_of(opened(f"{url}/a")))


@pytest.fixture
def stored(tmp_path):
    image = xdreg.datasets.phantom_pair((80, 96), amplitude=1.0).fixed.compute()
    xdreg.save(image, tmp_path / "i.zarr", chunks=32, progress=False)
    time.sleep(0.02)
    return tmp_path / "i.zarr"


def rewrite(store, level=0):
    array = zarr.open_group(store, mode="r+")[str(level)]
    array[:] = np.roll(array[:], 3, axis=1)


def test_keys_of_tasks_change_with_the_voxels(stored):
    first = xdreg.open_ome_zarr(stored, level=0)
    assert first.data.name == xdreg.open_ome_zarr(stored, level=0).data.name
    reader = image_reader(first)
    tokens = [dask.base.tokenize(reader), dask.base.tokenize(image_reader(first))]
    assert tokens[0] == tokens[1]
    rewrite(stored)
    assert first.data.name != xdreg.open_ome_zarr(stored, level=0).data.name
    # A reader keeps what it was known by; an image is looked at anew.
    assert dask.base.tokenize(reader) == tokens[0]
    assert dask.base.tokenize(image_reader(first)) != tokens[0]


@pytest.mark.parametrize(
    "derive",
    [
        lambda image: 2 * image,
        lambda image: image.astype("float32").rechunk(20)[3:],
        lambda image: dask.array.map_blocks(np.sqrt, image).T,
    ],
)
def test_a_derived_array_has_the_identity_of_its_sources(derive, stored):
    array = zarr.open_group(stored, mode="r")["0"]
    image = xr.DataArray(derive(lazy_zarr(array)), dims=("y", "x"))
    before = identity_of(source_of(image))
    assert identity_of(source_of(image)) == before
    rewrite(stored)
    assert identity_of(source_of(image)) != before


@pytest.mark.parametrize("chunks", [{}, None])
def test_an_array_that_xarray_opened(chunks, stored):
    # Levels differ in size, and have dimensions of one name.
    levels = xr.open_zarr(
        stored, chunks=chunks, consolidated=False, drop_variables=["1", "2", "3"]
    )
    before = identity_of(source_of(levels["0"]))
    rewrite(stored)
    assert identity_of(source_of(levels["0"])) != before


def test_two_stores_are_never_taken_for_one(tmp_path):
    """Archives unpack with one time for all; keys contain the place too."""
    for name, value in (("a", 3), ("b", 4)):
        array = written(tmp_path / name)
        array[0, 0] = value
        for path in (tmp_path / name).rglob("*"):
            os.utime(path, (1e9, 1e9))
    one, other = opened(tmp_path / "a"), opened(tmp_path / "b")
    assert lazy_zarr(one).name != lazy_zarr(other).name
    assert not same_voxels(identity_of(one), identity_of(other))


def test_levels_count_one_by_one(stored):
    levels = image_levels(xdreg.open_ome_zarr(stored), "image")
    before = [identity_of(source_of(level)) for level in levels]
    assert len(levels) > 1
    rewrite(stored, 1)
    after = [identity_of(source_of(level)) for level in levels]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False]
