"""OME-Zarr in and out: exact geometry, versions, remote stores, what is refused."""

import functools
import http.server
import json
import threading

import numpy as np
import pytest
import xarray as xr
import zarr

import xdreg
from tests.data import ROOT, needs_data
from xdreg.coordinates import coordinates, grid_of
from xdreg.grid import Grid
from xdreg.ome_zarr import zarr_array_of


def sample(ndim=3, channels=0, dtype="uint16"):
    grid = Grid(
        ("z", "y", "x")[-ndim:],
        (21, 70, 93)[-ndim:],
        (2.5, 1.366, 1.366)[-ndim:],
        (-1434.5, 3.3, 0.1)[-ndim:],
        "millimeter",
    )
    shape = (channels,) * bool(channels) + grid.shape
    values = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    dims = ("c",) * bool(channels) + grid.dims
    image = xr.DataArray(values, dims=dims, coords=coordinates(grid))
    return image.assign_coords(c=["dapi", "gfp"][:channels]) if channels else image


@pytest.mark.parametrize("version", ["0.4", "0.5", "0.6"])
@pytest.mark.parametrize(("ndim", "channels"), [(2, 0), (2, 2), (3, 0), (3, 2)])
def test_an_image_comes_back_exactly(tmp_path, version, ndim, channels):
    image = sample(ndim, channels)
    xdreg.save(image, tmp_path / "image.ome.zarr", version=version, name="kidney")
    tree = xdreg.open_ome_zarr(tmp_path / "image.ome.zarr")
    opened = tree["scale0/image"]
    np.testing.assert_array_equal(opened, image)
    assert grid_of(opened) == grid_of(image)
    assert opened.attrs["name"] == tree.name == "kidney"
    if channels:
        assert list(opened.c.values) == ["dapi", "gfp"]
    coarse = grid_of(tree["scale1/image"])
    assert coarse == grid_of(image).coarsen((1, 2, 2)[-ndim:])
    assert opened.chunks is not None


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
def test_the_pyramid_holds_means_in_the_same_dtype(tmp_path, dtype):
    image = sample(2, dtype=dtype)
    xdreg.save(image, tmp_path / "image.zarr", levels=2)
    coarse = xdreg.open_ome_zarr(tmp_path / "image.zarr", level=1)
    assert coarse.dtype == np.dtype(dtype)
    expected = image.values[:70, :92].reshape(35, 2, 46, 2).mean(axis=(1, 3))
    tolerance = 0.5001 if np.dtype(dtype).kind in "iu" else 1e-4
    np.testing.assert_allclose(coarse, expected, atol=tolerance)


def test_label_pyramids_invent_nothing(tmp_path):
    labels = sample(2) // 50 * 1000
    xdreg.save(labels, tmp_path / "labels.zarr", labels=True, levels=2)
    coarse = xdreg.open_ome_zarr(tmp_path / "labels.zarr", level=1)
    assert set(np.unique(coarse)) <= set(np.unique(labels))


def test_outputs_are_not_overwritten_unless_asked(tmp_path):
    path = tmp_path / "image.zarr"
    xdreg.save(sample(2), path)
    with pytest.raises(xdreg.StoreError, match="exists"):
        xdreg.save(sample(2), path)
    xdreg.save(sample(2) * 0 + 5, path, overwrite=True)
    assert float(xdreg.open_ome_zarr(path, level=0).mean()) == 5
    assert not list(tmp_path.glob(".*"))


def test_a_sharded_store_is_chunked_by_shards(tmp_path):
    path = tmp_path / "sharded.zarr"
    xdreg.save(sample(2), path, levels=1)
    group = zarr.open_group(path, mode="r+")
    values = group["scale0/image"][:]
    zarr.create_array(
        path / "scale0" / "image",
        data=values,
        chunks=(8, 8),
        shards=(32, 32),
        overwrite=True,
    )
    opened = xdreg.open_ome_zarr(path, level=0)
    assert opened.chunks[0][0] == 32
    np.testing.assert_array_equal(opened, values)


def test_the_stored_array_is_found_until_something_is_done(tmp_path):
    xdreg.save(sample(2), tmp_path / "image.zarr")
    opened = xdreg.open_ome_zarr(tmp_path / "image.zarr", level=0)
    assert isinstance(zarr_array_of(opened), zarr.Array)
    assert isinstance(zarr_array_of(opened.rename("other")), zarr.Array)
    assert zarr_array_of(opened.isel(x=slice(3, None))) is None
    assert zarr_array_of(opened + 1) is None
    assert zarr_array_of(opened.compute()) is None


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_over_http(tmp_path, version):
    pytest.importorskip("aiohttp")
    image = sample(2)
    xdreg.save(image, tmp_path / "image.zarr", version=version)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/image.zarr"
        opened = xdreg.open_ome_zarr(url)["scale0/image"]
        np.testing.assert_array_equal(opened, image)
        assert grid_of(opened) == grid_of(image)
        with pytest.raises(xdreg.StoreError, match="nothing"):
            xdreg.open_ome_zarr(url.replace("image", "nothing"))
        server.shutdown()


def test_over_s3(tmp_path, monkeypatch):
    moto = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    image = sample(2)
    xdreg.save(image, tmp_path / "image.zarr")
    server = moto.ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        options = {"endpoint_url": endpoint, "key": "test", "secret": "test"}
        s3 = s3fs.S3FileSystem(**options)
        s3.mkdir("bucket")
        s3.put(str(tmp_path / "image.zarr"), "bucket/image.zarr", recursive=True)
        opened = xdreg.open_ome_zarr("s3://bucket/image.zarr", storage_options=options)
        np.testing.assert_array_equal(opened["scale0/image"], image)
    finally:
        server.stop()


def test_what_is_no_image_is_refused(tmp_path):
    with pytest.raises(xdreg.StoreError, match="does not exist"):
        xdreg.open_ome_zarr(tmp_path / "missing.zarr")
    (tmp_path / "folder").mkdir()
    with pytest.raises(xdreg.StoreError, match="not a Zarr store"):
        xdreg.open_ome_zarr(tmp_path / "folder")
    zarr.open_group(tmp_path / "plain.zarr", mode="w")
    with pytest.raises(xdreg.StoreError, match="multiscales"):
        xdreg.open_ome_zarr(tmp_path / "plain.zarr")
    zarr.create_array(tmp_path / "bare.zarr", shape=(3, 3), dtype="u1")
    with pytest.raises(xdreg.StoreError, match="bare Zarr array"):
        xdreg.open_ome_zarr(tmp_path / "bare.zarr")
    xdreg.save(sample(2), tmp_path / "image.zarr")
    with pytest.raises(xdreg.InputError, match="levels 0 to"):
        xdreg.open_ome_zarr(tmp_path / "image.zarr", level=7)
    with pytest.raises(xdreg.StoreError, match="no displacement field"):
        xdreg.open_field(tmp_path / "image.zarr")


def test_a_dataset_path_may_not_leave_the_store(tmp_path):
    path = tmp_path / "image.zarr"
    xdreg.save(sample(2), path)
    document = json.loads((path / "zarr.json").read_text())
    datasets = document["attributes"]["ome"]["multiscales"][0]["datasets"]
    datasets[0]["path"] = "../elsewhere"
    (path / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(xdreg.StoreError):
        xdreg.open_ome_zarr(path)


@needs_data
@pytest.mark.parametrize("name", ["fixed", "moving"])
def test_real_stores_have_exact_coordinates(name):
    tree = xdreg.open_ome_zarr(ROOT / "lung_ct" / f"{name}.ome.zarr")
    grid = grid_of(tree["scale0/image"])
    assert grid.spacing == (2.5, 1.366, 1.366)
    assert grid.origin[0] == {"fixed": -1434.5, "moving": -1399.5}[name]
    assert grid.units == "millimeter"
    assert grid_of(tree["scale1/image"]).spacing == (5.0, 2.732, 2.732)
