"""Arrays whose chunks are checked: missing, damaged, too large, too late."""

import asyncio
import os
import pickle
import shutil
import subprocess
import sys

import dask
import dask.array
import numcodecs
import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

import xdreg
from tests.helpers.servers import serving
from xdreg.errors import UnavailableError, UnreadableError
from xdreg.stores import fetching, retrying
from xdreg.stores.checked_arrays import MOST_LOST, checked, counting_chunks
from xdreg.stores.readers import image_reader, source_of

VALUES = np.random.default_rng(0).integers(0, 200, (40, 50)).astype(np.uint16)
LAYOUTS = {
    "v2 blosc": {"zarr_format": 2, "compressors": numcodecs.Blosc()},
    "v2 zstd": {"zarr_format": 2, "compressors": numcodecs.Zstd()},
    "v2 delta": {
        "zarr_format": 2,
        "filters": numcodecs.Delta("<u2"),
        "compressors": numcodecs.GZip(),
    },
    "v3 blosc": {"compressors": BloscCodec()},
    "v3 gzip": {"compressors": GzipCodec()},
    "v3 two": {"compressors": [BloscCodec(), ZstdCodec()]},
    "v3 raw": {"compressors": None},
    "sharded": {"compressors": BloscCodec(), "shards": (20, 20)},
}
SHARDED = LAYOUTS["sharded"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.01)


def written(place, **layout):
    chunks = (10, 10)
    array = zarr.create_array(
        place, shape=VALUES.shape, chunks=chunks, dtype=VALUES.dtype, **layout
    )
    array[:] = VALUES
    return checked(zarr.open_array(place, mode="r"))


def chunk_of(folder, index):
    version_3 = (folder / "zarr.json").exists()
    return folder / ("c/" + "/".join(index) if version_3 else ".".join(index))


@pytest.fixture(params=LAYOUTS)
def stored(request, tmp_path):
    """Write an array; return it, its folder and a chunk with its window."""
    folder = tmp_path / "array"
    array = written(folder, **LAYOUTS[request.param])
    size = 20 if "shards" in LAYOUTS[request.param] else 10
    return array, folder, chunk_of(folder, "11"), (slice(size, 2 * size),) * 2


def test_whole_arrays_are_read_as_they_are(stored):
    array, *_ = stored
    np.testing.assert_array_equal(array[:], VALUES)
    np.testing.assert_array_equal(array[3:17, 5], VALUES[3:17, 5])
    points = np.array([0, 39, 7]), np.array([49, 0, 7])
    np.testing.assert_array_equal(array.vindex[points], VALUES[points])
    again = pickle.loads(pickle.dumps(array))
    np.testing.assert_array_equal(again[:], VALUES)
    assert len(pickle.dumps(array)) < 2000
    assert checked(array) is array
    plain = zarr.open_array(array.store, mode="r")
    assert array.metadata == plain.metadata
    assert (array.store, array.path, array.chunks) == (plain.store, "", plain.chunks)


def test_tokens_are_those_of_the_data_not_of_the_time_limit(tmp_path):
    first = written(tmp_path / "array", **SHARDED)
    with dask.config.set({"xdreg.read-deadline": "5 minutes"}):
        second = checked(zarr.open_array(tmp_path / "array", mode="r"))
    assert dask.base.tokenize(first) == dask.base.tokenize(second)


def test_a_chunk_that_is_cut_off_is_an_error(stored):
    array, _, chunk, window = stored
    whole = chunk.read_bytes()
    for kept in (0, 7, len(whole) // 2, len(whole) - 1):
        chunk.write_bytes(whole[:kept])
        for look in (slice(None), window):
            with pytest.raises(UnreadableError, match=r"1.1 cannot be read"):
                array[look]
    chunk.write_bytes(whole)
    np.testing.assert_array_equal(array[:], VALUES)


def test_a_shard_that_ends_early_holds_no_zeros(tmp_path):
    layout = {"compressors": None, "shards": {"shape": (20, 20)}}
    layout["shards"]["index_location"] = "start"
    array = written(tmp_path / "array", **layout)
    chunk = tmp_path / "array/c/0/0"
    chunk.write_bytes(chunk.read_bytes()[:80])
    with pytest.raises(UnreadableError, match="cannot be read"):
        array[10:20, 10:20]
    with pytest.raises(UnreadableError):
        array[:]


@pytest.mark.parametrize("what", ["folder", "pipe", "dangling", "device", "huge"])
def test_what_is_no_chunk_is_not_taken_for_one(stored, what):
    array, folder, chunk, window = stored
    chunk.unlink()
    if what == "folder":
        chunk.mkdir()
    elif what == "pipe":
        os.mkfifo(chunk)
    elif what == "huge":
        chunk.touch()
        os.truncate(chunk, 2**40)
    else:
        chunk.symlink_to("/dev/zero" if what == "device" else folder / "nothing")
    with pytest.raises(UnreadableError, match="cannot be read"):
        array[window]


def test_links_to_chunks_are_followed(stored, tmp_path):
    array, _, chunk, _ = stored
    chunk.rename(tmp_path / "elsewhere")
    chunk.symlink_to(tmp_path / "elsewhere")
    np.testing.assert_array_equal(array[:], VALUES)


def test_missing_chunks_hold_the_fill_value_and_are_counted(stored):
    array, _, chunk, window = stored
    chunk.unlink()
    with counting_chunks() as count:
        values = array[:]
    assert (values[window] == 0).all()
    assert np.count_nonzero(values != VALUES) <= values[window].size
    assert count.missing == 1
    assert count.share == 1 / count.read


def test_storage_that_is_gone_holds_nothing(stored):
    array, folder, chunk, window = stored
    away = folder.with_name("away")
    folder.rename(away)
    for _ in range(2):
        for look in (slice(None), window):
            with pytest.raises(UnavailableError, match="chunks are missing, and so is"):
                array[look]
        folder.mkdir(exist_ok=True)  # what a mount leaves
    folder.rmdir()
    away.rename(folder)
    np.testing.assert_array_equal(array[:], VALUES)
    # As soon as all is there, only the metadata may say that a chunk is missing.
    document = next(p for p in folder.iterdir() if p.name in ("zarr.json", ".zarray"))
    chunk.unlink()
    for content in ("", "[]", "<html>"):
        document.write_text(content)
        with pytest.raises(UnavailableError):
            array[window]


def test_metadata_are_not_read_where_nothing_is_missing(stored):
    array, folder, *_ = stored
    for name in ("zarr.json", ".zarray"):
        (folder / name).unlink(missing_ok=True)
    np.testing.assert_array_equal(array[:], VALUES)


def test_a_process_that_does_not_see_the_disk_reads_nothing(tmp_path):
    array = written(tmp_path / "array")
    task = pickle.dumps(array)
    (tmp_path / "array").rename(tmp_path / "away")
    code = "import pickle, sys; pickle.load(sys.stdin.buffer)[:]"
    done = subprocess.run([sys.executable, "-c", code], input=task, capture_output=True)
    assert done.returncode == 1
    assert b"UnavailableError" in done.stderr


@pytest.mark.parametrize("bomb", ["gzip", "zstd", "blosc"])
def test_a_chunk_in_a_shard_unpacks_to_no_more_than_a_chunk(tmp_path, bomb):
    codec = {"gzip": GzipCodec(), "zstd": ZstdCodec(), "blosc": BloscCodec()}[bomb]
    layout = {"compressors": codec, "shards": (20, 20)}
    array = written(tmp_path / "array", **layout)
    # The same shard, of chunks that are a thousand times as large.
    zarr.create_array(
        tmp_path / "bomb",
        shape=(2000, 2000),
        chunks=(1000, 1000),
        shards=(2000, 2000),
        compressors=codec,
        dtype=np.uint16,
    )[:] = 1
    shutil.copy(tmp_path / "bomb/c/0/0", tmp_path / "array/c/0/0")
    with pytest.raises(UnreadableError, match="at most"):
        array[:10, :10]


def test_arrays_of_users_are_checked_too(tmp_path):
    written(tmp_path / "array")
    given = dask.array.from_zarr(str(tmp_path / "array"))
    image = xr.DataArray(
        given, dims=("y", "x"), coords={"y": np.arange(40.0), "x": np.arange(50.0)}
    )
    image.to_dataset(name="image").to_zarr(tmp_path / "xarray.zarr")
    by_xarray = xr.open_zarr(tmp_path / "xarray.zarr")["image"]
    views = [v for a in (image, by_xarray) for v in (a, a[5:], a.astype("f4") / 2)]
    readers = [image_reader(view) for view in views]
    for view, reader in zip(views, readers, strict=True):
        np.testing.assert_array_equal(reader.read(), view)
    assert len(pickle.dumps(readers[3])) < 2000
    (tmp_path / "array").rename(tmp_path / "away")
    (tmp_path / "xarray.zarr/image").rename(tmp_path / "away too")
    for reader in readers:
        with pytest.raises(UnavailableError):
            reader.read()


def test_an_array_in_memory_is_read(tmp_path):
    store = zarr.storage.MemoryStore()
    array = checked(zarr.create_array(store, shape=4, chunks=2, dtype="i2"))
    assert (array[:] == 0).all()
    given = xr.DataArray(dask.array.from_array(array, chunks=2), dims="x")
    assert (np.asarray(source_of(given)[:]) == 0).all()


def test_a_server_that_loses_everything_is_noticed(tmp_path):
    pytest.importorskip("aiohttp")
    image = xdreg.datasets.phantom_pair((40, 40)).fixed.compute()
    xdreg.save(image, tmp_path / "image.zarr", chunks=20, levels=1)
    with serving(tmp_path) as (url, faults):
        array = xdreg.open_ome_zarr(f"{url}/image.zarr", level=0)
        faults.answers = {"/c/1/0": 404}
        assert (array[20:, :20] == 0).all()
        faults.answers = {"image.zarr": 404}
        with pytest.raises(UnavailableError, match="chunks are missing"):
            array.load()


def test_a_server_that_drips_is_given_up_in_time(tmp_path):
    pytest.importorskip("aiohttp")
    image = xdreg.datasets.phantom_pair((40, 40)).fixed.compute()
    xdreg.save(image, tmp_path / "image.zarr", chunks=10, levels=1)
    with (
        serving(tmp_path) as (url, faults),
        dask.config.set({"xdreg.read-deadline": "1 s"}),
    ):
        array = xdreg.open_ome_zarr(f"{url}/image.zarr", level=0)
        faults.answers = {"0/zarr.json": "drip"}
        with pytest.raises(xdreg.StoreError, match=r"did not come within 1 s"):
            xdreg.open_ome_zarr(f"{url}/image.zarr")
        faults.answers = {"/c/1/1": "drip"}
        # A look at a whole level waits for a chunk once.
        with pytest.warns(UserWarning, match=r"c/1/1 did not .* it is masked out"):
            known = image_reader(array).read_known()
        assert np.argwhere(np.isnan(known)).min(axis=0).tolist() == [10, 10]
        assert np.isnan(known).sum() == 100
        asked = sum("/c/1/1" in path for path in faults.asked)
        assert asked == 1
        faults.answers = {"/c/": "drip"}
        faults.asked.clear()
        with pytest.raises(UnavailableError, match="does not answer"):
            image_reader(array).read_known()
        assert MOST_LOST < len(faults.asked) <= 16


def test_a_busy_bucket_is_given_up_in_time(tmp_path):
    """The client of S3 tries again by itself, and so do Zarr's callers."""
    pytest.importorskip("s3fs")
    image = xdreg.datasets.phantom_pair((40, 40)).fixed.compute()
    (tmp_path / "bucket").mkdir()
    xdreg.save(image, tmp_path / "bucket/image.zarr", chunks=10, levels=1)
    with serving(tmp_path) as (url, faults):
        options = {"storage_options": {"endpoint_url": url, "anon": True}}
        # What answers may take as long as a busy machine takes.
        patient = xdreg.open_ome_zarr("s3://bucket/image.zarr", level=0, **options)
        np.testing.assert_array_equal(patient, image)
        with dask.config.set({"xdreg.read-deadline": "2 s"}):
            array = xdreg.open_ome_zarr("s3://bucket/image.zarr", level=0, **options)
            for answer in ((503, "SlowDown"), (400, "RequestTimeout")):
                faults.answers = {"/c/1/1": answer}
                with pytest.raises(UnreadableError, match="c/1/1 did not come within"):
                    array[10:20, 10:20].load()
            faults.answers = {"image.zarr": (500, "InternalError")}
            with pytest.raises(xdreg.StoreError, match=r"zarr\.json did not come"):
                xdreg.open_ome_zarr("s3://bucket/image.zarr", **options)


@pytest.mark.parametrize("limit", ["soon", 0, -1, "nan", None, [], "0 s"])
def test_a_time_limit_is_a_time(tmp_path, limit):
    image = xdreg.datasets.phantom_pair((40, 40)).fixed.compute()
    xdreg.save(image, tmp_path / "image.zarr", levels=1)
    with (
        dask.config.set({"xdreg.read-deadline": limit}),
        pytest.raises(xdreg.InputError, match=r"'xdreg\.read-deadline' .* above zero"),
    ):
        xdreg.open_ome_zarr(tmp_path / "image.zarr")


@pytest.mark.parametrize("pause", [0.0, 0.3, 60.0])
def test_the_time_limit_is_asked_for_what_does_not_come_at_once(monkeypatch, pause):
    monkeypatch.setattr(fetching, "_LOOK", 0.1)

    async def read():
        await asyncio.sleep(pause)
        return "here"

    waiting = fetching.persistently(read, "it", remote=False, seconds=None)
    with dask.config.set({"xdreg.read-deadline": "1 s" if pause else "never"}):
        if pause < 1:
            assert asyncio.run(waiting) == "here"
        else:
            with pytest.raises(UnreadableError, match="it did not come within 1 s"):
                asyncio.run(waiting)
