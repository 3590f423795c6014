"""OME-Zarr in and out: exact geometry, versions, remote stores, what is refused."""

import functools
import http.server
import json
import os
import pickle
import subprocess
import sys
import threading

import dask.array
import numpy as np
import pytest
import xarray as xr
import zarr

import xdreg
from tests.helpers.data import ROOT, needs_data
from tests.helpers.stores import axes, dataset, edited, multiscale, sample
from xdreg.coordinates import grid_of
from xdreg.stores.ome_writer import write_ome_zarr
from xdreg.stores.ome_zarr import zarr_array_of
from xdreg.stores.pyramid import downsample


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


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_transformations_of_the_multiscale_come_after_the_levels(tmp_path, version):
    steps = [
        {"type": "scale", "scale": [10.0, 2.0]},
        {"type": "translation", "translation": [0.0, 5.0]},
    ]
    change = multiscale(coordinateTransformations=steps)
    tree = xdreg.open_ome_zarr(edited(tmp_path / "image.zarr", change, version))
    grid = grid_of(tree["scale0/image"])
    assert grid.spacing == (1.366 * 10.0, 1.366 * 2.0)
    assert grid.origin == (3.3 * 10.0, 0.1 * 2.0 + 5.0)


def test_further_coordinate_systems_change_nothing(tmp_path):
    world = [{"name": d, "type": "space", "unit": "meter"} for d in "yx"]

    def change(ome):
        image = ome["multiscales"][0]
        image["coordinateSystems"].insert(0, {"name": "world", "axes": world})
        image["coordinateTransformations"] = [
            {
                "type": "scale",
                "scale": [100.0, 100.0],
                "input": {"name": "intrinsic"},
                "output": {"name": "world"},
                "name": "to the world",
            }
        ]

    path = edited(tmp_path / "image.zarr", change, "0.6")
    assert grid_of(xdreg.open_ome_zarr(path, level=0)) == grid_of(sample(2))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(
    "steps",
    [
        [{"type": "affine", "affine": [[1, 0.5, 0], [0, 1, 0]]}],
        [{"type": "rotation", "rotation": [[0, 1], [1, 0]]}],
        [{"type": "scale", "path": "elsewhere"}],
        [{"type": "scale", "scale": [1.0]}],
        [{"type": "scale", "scale": [0.0, 1.0]}],
        [],
    ],
)
def test_other_transformations_are_no_identity(tmp_path, version, steps):
    change = dataset(coordinateTransformations=steps)
    with pytest.raises(xdreg.StoreError, match="the level 'scale0/image' has"):
        xdreg.open_ome_zarr(edited(tmp_path / "image.zarr", change, version))


def test_an_affine_in_a_sequence_is_refused(tmp_path):
    def change(ome):
        step = ome["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]
        step["transformations"] = [{"type": "affine", "affine": [[1, 0, 0], [0, 1, 0]]}]

    with pytest.raises(xdreg.StoreError, match="affine"):
        xdreg.open_ome_zarr(edited(tmp_path / "image.zarr", change, "0.6"))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
def test_the_pyramid_holds_means_in_the_same_dtype(tmp_path, dtype):
    image = sample(2, dtype=dtype)
    xdreg.save(image, tmp_path / "image.zarr", levels=2)
    coarse = xdreg.open_ome_zarr(tmp_path / "image.zarr", level=1)
    assert coarse.dtype == np.dtype(dtype)
    expected = image.values[:70, :92].reshape(35, 2, 46, 2).mean(axis=(1, 3))
    tolerance = 0.5001 if np.dtype(dtype).kind in "iu" else 1e-4
    np.testing.assert_allclose(coarse, expected, atol=tolerance)


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64", "uint64", "float64"])
def test_means_of_large_numbers_neither_wrap_nor_lose_digits(dtype):
    kind = np.dtype(dtype).kind
    largest = np.iinfo(dtype).max if kind in "iu" else 1.0 + 2.0**-40
    values = np.full((4, 6), largest, dtype)
    coarse = downsample(dask.array.from_array(values), (2, 2)).compute()
    assert coarse.dtype == np.dtype(dtype)
    np.testing.assert_allclose(coarse.astype(float), float(largest), rtol=2.0**-52)


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


def test_outputs_are_not_overwritten_unless_asked(tmp_path):
    path = tmp_path / "image.zarr"
    xdreg.save(sample(2), path)
    with pytest.raises(xdreg.StoreError, match="exists"):
        xdreg.save(sample(2), path)
    xdreg.save(sample(2) * 0 + 5, path, overwrite=True)
    assert float(xdreg.open_ome_zarr(path, level=0).mean()) == 5
    assert not list(tmp_path.glob(".*"))


def test_only_stores_are_overwritten(tmp_path):
    folder, file = tmp_path / "folder", tmp_path / "file.txt"
    folder.mkdir()
    for precious in (folder / "precious.txt", file):
        precious.write_text("years of work")
    for path in (folder, file):
        with pytest.raises(xdreg.StoreError, match="not a Zarr store"):
            xdreg.save(sample(2), path, overwrite=True)
    assert (folder / "precious.txt").exists()
    assert file.exists()


def test_an_image_may_replace_the_store_it_is_read_from(tmp_path):
    path = tmp_path / "image.zarr"
    xdreg.save(sample(2), path)
    before = xdreg.open_ome_zarr(path, level=0)
    xdreg.save(before + 1, path, overwrite=True)
    after = xdreg.open_ome_zarr(path, level=0)
    np.testing.assert_array_equal(after, sample(2) + 1)
    assert after.data.name != before.data.name


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


def test_what_cannot_be_written_to_is_said(tmp_path):
    with pytest.raises(xdreg.StoreError, match="Protocol not known"):
        xdreg.save(sample(2), "unheard-of://image.zarr")
    with pytest.raises(xdreg.StoreError, match="folder"):
        xdreg.save(sample(2), tmp_path / "missing" / "image.zarr")


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
    answer = subprocess.run(arguments, capture_output=True, text=True, check=True)
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
    with (
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


@pytest.mark.parametrize(
    "path", ["../other.zarr/scale0/image", "/etc", "..", "a/../../b", "a\\..\\b", "", 5]
)
def test_a_dataset_path_may_not_leave_the_store(tmp_path, path):
    with pytest.raises(xdreg.StoreError, match="leaves the store"):
        xdreg.open_ome_zarr(edited(tmp_path / "image.zarr", dataset(path=path)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dataset(path="nothing"), "'nothing' that is missing"),
        (dataset(path="scale0"), "is a group"),
        (multiscale(datasets=[]), "without datasets"),
        (multiscale(axes=[]), "no axes"),
        (multiscale(axes=[{"name": "y"}, {"name": "x"}]), "of type 'space'"),
        (axes(("y", "channel"), ("x", "space")), "of type 'space'"),
        (axes(("c", "channel"), ("x", "space")), "of type 'space'"),
        (axes(("x", "space"), ("y", "space")), "in this order"),
        (axes(("z", "space"), ("y", "space"), ("x", "space")), "other ranks"),
        (lambda ome: ome.update(multiscales="text"), "without datasets"),
        (lambda ome: ome.update(version="9.9"), "9.9"),
    ],
)
def test_damaged_metadata_names_its_culprit(tmp_path, change, message):
    with pytest.raises(xdreg.StoreError, match=message):
        xdreg.open_ome_zarr(edited(tmp_path / "image.zarr", change))


@pytest.mark.parametrize(
    ("ome", "message"),
    [
        ({"plate": {"wells": [{"path": "B/2"}]}}, "plate.*'B/2/0'"),
        ({"well": {"images": [{"path": "3"}]}}, r"well.*\['3'\]"),
        ({"labels": ["cells"]}, r"labels.*\['cells'\]"),
        ({"bioformats2raw.layout": 3}, "series.*'0'"),
        (
            {"scene": {"coordinateTransformations": [{"input": {"path": "brain"}}]}},
            r"scene.*\['brain'\]",
        ),
    ],
)
def test_another_kind_of_store_says_what_to_open(tmp_path, ome, message):
    zarr.open_group(
        tmp_path / "other.zarr", mode="w", attributes={"ome": {"version": "0.5"} | ome}
    )
    with pytest.raises(xdreg.StoreError, match=message):
        xdreg.open_ome_zarr(tmp_path / "other.zarr")


@pytest.mark.parametrize("level", [3, -1, True, 1.0])
def test_a_level_is_one_of_those_there(tmp_path, level):
    xdreg.save(sample(2), tmp_path / "image.zarr", levels=3)
    with pytest.raises(xdreg.InputError, match="levels 0 to 2"):
        xdreg.open_ome_zarr(tmp_path / "image.zarr", level=level)


def test_what_cannot_be_read_is_a_store_error(tmp_path):
    (tmp_path / "broken.zarr").mkdir()
    (tmp_path / "broken.zarr" / "zarr.json").write_text("{not json")
    with pytest.raises(xdreg.StoreError, match="JSONDecodeError"):
        xdreg.open_ome_zarr(tmp_path / "broken.zarr")
    with pytest.raises(xdreg.StoreError, match="Protocol not known"):
        xdreg.open_ome_zarr("unheard-of://image.zarr")


@needs_data
@pytest.mark.parametrize("path", sorted(ROOT.glob("*/*.ome.zarr")), ids=str)
def test_real_stores_have_the_numbers_of_their_metadata(path):
    version_2 = path / ".zattrs"
    document = version_2 if version_2.exists() else path / "zarr.json"
    content = json.loads(document.read_text())
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
    chunk = tmp_path / "a.zarr" / "scale0" / "image" / "c" / "0" / "0"
    stored = bytearray(chunk.read_bytes())
    stored[len(stored) // 2] ^= 1
    chunk.write_bytes(stored)
    with pytest.raises(RuntimeError, match="checksum"):
        zarr.open_array(tmp_path / "a.zarr" / "scale0" / "image")[:]
