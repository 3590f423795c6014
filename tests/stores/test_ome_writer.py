"""OME-Zarr images that are written: pyramids, chunks, options."""

import dask.array
import numpy as np
import pytest
import xarray as xr
import zarr

import xdreg
from tests.helpers.stores import levels_of, sample
from xdreg.stores.ome_writer import make_layout, write_ome_zarr


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
def test_the_pyramid_holds_means_in_the_same_dtype(tmp_path, dtype):
    image = sample(2, dtype=dtype)
    xdreg.save(image, tmp_path / "image.zarr", levels=2)
    coarse = xdreg.open_ome_zarr(tmp_path / "image.zarr", level=1)
    assert coarse.dtype == np.dtype(dtype)
    expected = image.values[:70, :92].reshape(35, 2, 46, 2).mean(axis=(1, 3))
    tolerance = 0.5001 if np.dtype(dtype).kind in "iu" else 1e-4
    np.testing.assert_allclose(coarse, expected, atol=tolerance)


def test_the_pyramid_does_not_depend_on_chunks(tmp_path):
    image = sample(3)
    xdreg.save(image, tmp_path / "whole.zarr", levels=3)
    xdreg.save(image.chunk(z=5, y=13), tmp_path / "parts.zarr", levels=3, chunks=11)
    whole, parts = (
        xdreg.open_ome_zarr(tmp_path / f"{name}.zarr") for name in ("whole", "parts")
    )
    for level in ("scale0", "scale1", "scale2"):
        np.testing.assert_array_equal(parts[level].image, whole[level].image)


def test_voxels_are_computed_once_and_a_failure_leaves_nothing(tmp_path):
    computed = []
    image = sample(2)

    def count(block):
        computed.append(block.shape)
        return block

    def fail(block):
        message = "upstream"
        raise RuntimeError(message)

    chunks = dask.array.from_array(image.values, chunks=32)
    xdreg.save(
        image.copy(data=chunks.map_blocks(count, meta=chunks._meta)),
        tmp_path / "image.zarr",
    )
    assert len(computed) == chunks.npartitions
    with pytest.raises(RuntimeError, match="upstream"):
        xdreg.save(
            image.copy(data=chunks.map_blocks(fail, meta=chunks._meta)),
            tmp_path / "image.zarr",
            overwrite=True,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["image.zarr"]
    np.testing.assert_array_equal(
        xdreg.open_ome_zarr(tmp_path / "image.zarr", level=0), image
    )


def test_label_pyramids_invent_nothing(tmp_path):
    labels = sample(2) // 50 * 1000
    xdreg.save(labels, tmp_path / "labels.zarr", labels=True, levels=2)
    coarse = xdreg.open_ome_zarr(tmp_path / "labels.zarr", level=1)
    assert set(np.unique(coarse)) <= set(np.unique(labels))


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (sample(2).values, {}, "must be a DataArray"),
        (sample(2).astype(complex), {}, "integers or floats"),
        (sample(2), {"version": "0.3"}, "version must be"),
        (sample(2), {"levels": 0}, "levels must be"),
        (sample(2), {"chunks": 0}, "chunks must be"),
        (sample(2), {"chunks": 1.5}, "chunks must be"),
        (sample(2), {"chunks": (8, 8, 8)}, "chunks must be"),
    ],
)
def test_unusable_options_write_nothing(tmp_path, image, options, message):
    with pytest.raises(xdreg.InputError, match=message):
        write_ome_zarr(image, tmp_path / "image.zarr", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("version", ["0.4", "0.5", "0.6"])
def test_time_points_are_kept(version, tmp_path):
    axis = np.arange(5.0)
    image = xr.DataArray(
        np.zeros((3, 5, 5), np.float32),
        {"t": [10.0, 10.5, 11.0], "y": axis, "x": axis},
        ("t", "y", "x"),
    )
    image.t.attrs["units"] = "second"
    xdreg.save(image, tmp_path / "a.zarr", version=version)
    again = xdreg.open_ome_zarr(tmp_path / "a.zarr", level=0)
    np.testing.assert_array_equal(again.t, image.t)
    assert again.t.attrs["units"] == "second"
    assert again.name == "image"
    uneven = image.assign_coords(t=[1.0, 2.0, 4.0])
    with pytest.raises(xdreg.InputError, match="evenly spaced"):
        xdreg.save(uneven, tmp_path / "b.zarr", version=version)


def test_an_altered_chunk_is_noticed(tmp_path):
    image = xdreg.datasets.phantom_pair((24, 28)).fixed
    xdreg.save(image, tmp_path / "a.zarr", levels=1)
    chunk = tmp_path / "a.zarr" / "0" / "c" / "0" / "0"
    stored = bytearray(chunk.read_bytes())
    stored[len(stored) // 2] ^= 1
    chunk.write_bytes(stored)
    with pytest.raises(RuntimeError, match="checksum"):
        zarr.open_array(tmp_path / "a.zarr" / "0")[:]


def test_many_chunks_are_kept_in_few_files():
    lazy = dask.array.zeros((3000, 3000, 3000), chunks=512, dtype="uint8")
    image = xdreg.make_image(lazy, 1.0, units="micrometer")
    options = {"levels": None, "chunks": None, "shards": None, "name": None}
    assert make_layout(image, "0.5", **options).together == (4, 4, 4)
    assert make_layout(image[:500], "0.5", **options).together is None
    assert make_layout(image, "0.4", **options).together is None


def test_shards_are_files_of_several_chunks(tmp_path):
    xdreg.save(sample(2), tmp_path / "a.zarr", chunks=16, shards=32)
    array = zarr.open_array(tmp_path / "a.zarr" / "0")
    assert (array.chunks, array.shards) == ((16, 16), (32, 32))
    files = [p for p in (tmp_path / "a.zarr" / "0" / "c").rglob("*") if p.is_file()]
    assert len(files) == 3 * 3
    np.testing.assert_array_equal(levels_of(tmp_path / "a.zarr")[0], sample(2))
    with pytest.raises(xdreg.InputError, match="multiples of the chunks"):
        xdreg.save(sample(2), tmp_path / "b.zarr", chunks=16, shards=24)
    with pytest.raises(xdreg.InputError, match=r"version='0\.5'"):
        xdreg.save(sample(2), tmp_path / "b.zarr", version="0.4", shards=32)
