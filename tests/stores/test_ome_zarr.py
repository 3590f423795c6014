"""OME-Zarr images that are opened: exact geometry, versions, laziness, web servers."""

import functools
import http.server
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading

import dask
import numpy as np
import pytest
import zarr

import xdreg
from tests.helpers.data import ROOT, needs_data
from tests.helpers.forks import CLUSTER, context
from tests.helpers.stores import sample
from xdreg.coordinates import grid_of
from xdreg.stores.ome_zarr import zarr_array_of


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


def test_time_and_channel_axes_come_back(tmp_path):
    image = sample(2, 2).expand_dims(t=3).transpose("y", "t", "x", "c")
    xdreg.save(image, tmp_path / "image.zarr")
    opened = xdreg.open_ome_zarr(tmp_path / "image.zarr", level=0)
    assert opened.dims == ("t", "c", "y", "x")
    np.testing.assert_array_equal(opened, image.transpose("t", "c", "y", "x"))


def test_a_sharded_store_is_chunked_by_shards(tmp_path):
    path = tmp_path / "sharded.zarr"
    xdreg.save(sample(2), path, levels=1)
    group = zarr.open_group(path, mode="r+")
    values = group["0"][:]
    zarr.create_array(
        path / "0",
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


def test_arrays_pickle_small_and_have_the_same_name_in_every_process(tmp_path):
    xdreg.save(sample(2), tmp_path / "image.zarr")
    opened = xdreg.open_ome_zarr(tmp_path / "image.zarr", level=0)
    pickled = pickle.dumps(opened)
    assert len(pickled) < 5000
    np.testing.assert_array_equal(pickle.loads(pickled), sample(2))
    code = (
        "import sys, xdreg;print(xdreg.open_ome_zarr(sys.argv[1], level=0).data.name)"
    )
    arguments = [sys.executable, "-c", code, tmp_path / "image.zarr"]
    answer = subprocess.run(
        arguments, capture_output=True, encoding="utf-8", check=True
    )
    assert answer.stdout.strip() == opened.data.name


def test_a_relative_path_reads_the_same_from_another_directory(tmp_path, monkeypatch):
    xdreg.save(sample(2), tmp_path / "image.zarr")
    monkeypatch.chdir(tmp_path)
    opened = xdreg.open_ome_zarr("image.zarr", level=0)
    monkeypatch.chdir(os.sep)
    np.testing.assert_array_equal(opened, sample(2))


def test_a_cluster_reads_and_writes(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.chdir(tmp_path)
    xdreg.save(sample(2), "image.zarr")
    context()
    with (
        dask.config.set(CLUSTER),
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.run(os.chdir, os.sep)
        opened = xdreg.open_ome_zarr("image.zarr", level=0)
        xdreg.save(opened + 1, "copy.zarr", chunks=16)
    copy = xdreg.open_ome_zarr("copy.zarr", level=0)
    np.testing.assert_array_equal(copy, sample(2) + 1)


@pytest.mark.parametrize("version", ["0.4", "0.5", "0.6"])
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
        tree = xdreg.open_ome_zarr(url)
        assert tree.attrs["source"] == url
        opened = pickle.loads(pickle.dumps(tree["scale0/image"]))
        np.testing.assert_array_equal(opened, image)
        assert grid_of(opened) == grid_of(image)
        with pytest.raises(xdreg.StoreError, match="nothing"):
            xdreg.open_ome_zarr(url.replace("image", "nothing"))
        server.shutdown()


@pytest.mark.parametrize("level", [3, -1, True, 1.0])
def test_a_level_is_one_of_those_there(tmp_path, level):
    xdreg.save(sample(2), tmp_path / "image.zarr", levels=3)
    with pytest.raises(xdreg.InputError, match="levels 0 to 2"):
        xdreg.open_ome_zarr(tmp_path / "image.zarr", level=level)


@needs_data
@pytest.mark.parametrize("path", sorted(ROOT.glob("*/*.ome.zarr")), ids=str)
def test_real_stores_have_the_numbers_of_their_metadata(path):
    version_2 = path / ".zattrs"
    document = version_2 if version_2.exists() else path / "zarr.json"
    content = json.loads(document.read_text("utf-8"))
    ome = content if version_2.exists() else content["attributes"]["ome"]
    tree = xdreg.open_ome_zarr(path)
    for i, level in enumerate(ome["multiscales"][0]["datasets"]):
        image = tree[f"scale{i}/image"]
        grid = grid_of(image)
        steps = {s["type"]: s[s["type"]] for s in level["coordinateTransformations"]}
        assert grid.spacing == tuple(steps["scale"][-grid.ndim :])
        assert grid.origin == tuple(steps["translation"][-grid.ndim :])
        stored = zarr.open_array(path / level["path"], mode="r")
        assert image.shape == stored.shape
        assert image.data.chunksize == tuple(
            np.minimum(stored.shards or stored.chunks, stored.shape)
        )


@needs_data
@pytest.mark.parametrize("name", ["fixed", "moving"])
def test_real_stores_have_exact_coordinates(name):
    tree = xdreg.open_ome_zarr(ROOT / "lung_ct" / f"{name}.ome.zarr")
    grid = grid_of(tree["scale0/image"])
    assert grid.spacing == (2.5, 1.366, 1.366)
    assert grid.origin[0] == {"fixed": -1434.5, "moving": -1399.5}[name]
    assert grid.units == "millimeter"
    assert grid_of(tree["scale1/image"]).spacing == (5.0, 2.732, 2.732)


def test_an_archive_is_no_store(tmp_path):
    image = xdreg.datasets.phantom_pair((20, 24)).fixed.compute()
    xdreg.save(image, tmp_path / "a.ome.zarr")
    for kind in ("tar", "gztar"):
        path = shutil.make_archive(tmp_path / "a", kind, tmp_path / "a.ome.zarr")
        for place in (path, f"{path}/0"):
            with pytest.raises(xdreg.StoreError):
                xdreg.open_ome_zarr(place)
