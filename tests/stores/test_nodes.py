"""The way into stores: paths that documents name, codecs, and documents."""

import json
import os
import pickle

import ngff_zarr as nz
import numcodecs
import numpy as np
import pytest
import zarr

import xdreg
from tests.helpers.scenes import change_root, write_scene
from tests.helpers.stores import Trap, sample
from xdreg.errors import StoreError
from xdreg.stores.nodes import open_array, open_group, open_named

OUTSIDE = [
    *("/etc", "..", "../secret", "a/../../secret", "a/..", ".", "./a", "a//b", "", "/"),
    *("..\\secret", "a\\..\\..\\secret", "C:/secret", "c:secret", "\\\\host\\share"),
    *("http://127.0.0.1:1/x", "file:///etc", "reference::http://127.0.0.1:1/x"),
    *("%2e%2e/secret", "..%2fsecret", "a/%2E%2e/secret", "%5c..", ".. /secret"),
    *("... /secret", "a?b", "a#b", "a\0b", None, 3, ["a"], {"path": "a"}),
]


@pytest.fixture
def store(tmp_path):
    """Write a group with an array in it, next to an array that is none of it."""
    zarr.create_array(tmp_path / "secret", data=np.arange(4))
    group = zarr.create_group(tmp_path / "store.zarr")
    group.create_array("a/b", data=np.arange(4))
    return tmp_path / "store.zarr"


def test_what_lies_in_the_store_is_opened(store):
    group = open_group(str(store), None)
    assert open_array("s", group, "a/b")[:].tolist() == [0, 1, 2, 3]
    assert open_array("s", open_named("s", group, "a"), "b").path == "a/b"
    with pytest.raises(StoreError, match="'a' is a group; expected an array"):
        open_array("s", group, "a")
    with pytest.raises(StoreError, match="'a/c' that is missing or damaged"):
        open_array("s", group, "a/c")


@pytest.mark.parametrize("path", OUTSIDE, ids=repr)
def test_no_path_of_a_document_leaves_the_store(store, path):
    group = open_group(str(store), None)
    with pytest.raises(StoreError, match="leaves the store; it is not opened"):
        open_named("s", group, path)


def spring_document(folder, change):
    """Make a small array in Zarr 2 unpickle a trap where it is decoded."""
    document = {
        "zarr_format": 2,
        "shape": [2, 3],
        "chunks": [2, 3],
        "dtype": "<f8",
        "compressor": None,
        "filters": None,
        "order": "C",
        "fill_value": 0,
    }
    (folder / ".zarray").write_text(json.dumps(document | change))


@pytest.mark.parametrize("codec", ["pickle", "json2", "msgpack2", "vlen-bytes"])
@pytest.mark.parametrize("place", ["compressor", "filters"])
def test_matrices_run_no_code(tmp_path, monkeypatch, codec, place):
    """The parameters of an affine transformation are an array that anyone may name."""
    path = tmp_path / "field.zarr"
    write_scene(path, nz.v06.zarr_metadata.Displacements(path="fields/a"))
    kinds = ("displacements", "fields/a"), ("affine", "matrix")
    steps = [{"type": kind, "path": place} for kind, place in kinds]
    entry = {"type": "sequence", "transformations": steps}
    change_root(
        path, lambda ome: ome["scene"].update(coordinateTransformations=[entry])
    )
    # As numcodecs did for long, and does where it is asked to.
    registry = numcodecs.registry.codec_registry
    monkeypatch.setitem(registry, "pickle", numcodecs.pickles.Pickle)
    folder = path / "matrix"
    folder.mkdir()
    stored = {"id": codec}
    spring_document(folder, {place: stored if place == "compressor" else [stored]})
    (folder / "0.0").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(StoreError, match=f"codec '{codec}', which makes objects"):
        xdreg.open_field(path)
    assert not (tmp_path / "sprung").exists()


def test_diagnostics_run_no_code(tmp_path):
    image = sample(2).isel(y=slice(32), x=slice(32))
    stage = xdreg.LocalCorrelation(level=0, iterations=1, metric="lncc")
    field = xdreg.register(image, image, stages=[stage], progress=False)
    path = tmp_path / "field.zarr"
    xdreg.save(field, path)
    again = xdreg.open_field(path)
    assert again.identical(field)
    document = path / "xdreg/block_seconds/zarr.json"
    content = json.loads(document.read_text("utf-8"))
    content["codecs"].append({"name": "numcodecs.pickle", "configuration": {}})
    document.write_text(json.dumps(content))
    with pytest.raises(StoreError, match=r"codec 'numcodecs\.pickle'"):
        xdreg.open_field(path)
    # What is not named as a diagnostic is not looked at.
    document.parent.rename(document.parent.with_name("other"))
    assert "block_seconds" not in xdreg.open_field(path)


def test_names_in_attributes_are_no_codecs(tmp_path):
    path = tmp_path / "image.zarr"
    xdreg.save(sample(2), path, levels=1)
    document = path / "0/zarr.json"
    content = json.loads(document.read_text("utf-8"))
    content["attributes"] = {"name": "pickle", "filters": [{"id": "pickle"}]}
    document.write_text(json.dumps(content))
    assert xdreg.open_ome_zarr(path, level=0).shape == (70, 93)


def test_what_is_consolidated_does_not_count(tmp_path):
    path = tmp_path / "image.zarr"
    xdreg.save(sample(2), path, levels=1)
    zarr.consolidate_metadata(path)
    document = path / "zarr.json"
    text = document.read_text("utf-8")
    assert '"consolidated_metadata"' in text
    document.write_text(text.replace("zstd", "numcodecs.pickle"))
    image = xdreg.open_ome_zarr(path, level=0)
    np.testing.assert_array_equal(image, sample(2))


@pytest.mark.parametrize("content", ["[]", "1", "null", '"x"', "{", "", "{}"])
@pytest.mark.parametrize("place", ["zarr.json", "0/zarr.json"])
def test_documents_that_are_none_are_errors(tmp_path, content, place):
    xdreg.save(sample(2), tmp_path / "image.zarr", levels=1)
    (tmp_path / "image.zarr" / place).write_text(content)
    with pytest.raises(StoreError, match=r"image\.zarr"):
        xdreg.open_ome_zarr(tmp_path / "image.zarr")


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
@pytest.mark.parametrize("place", ["zarr.json", "0/zarr.json"])
def test_what_is_no_document_is_not_waited_for(tmp_path, kind, place):
    xdreg.save(sample(2), tmp_path / "image.zarr", levels=1)
    document = tmp_path / "image.zarr" / place
    document.unlink()
    if kind == "pipe":
        os.mkfifo(document)
    elif kind == "folder":
        document.mkdir()
    else:
        document.symlink_to("/dev/zero")
    with pytest.raises(StoreError, match=r"image\.zarr"):
        xdreg.open_ome_zarr(tmp_path / "image.zarr")


def test_arrays_with_absurd_chunks_are_refused(tmp_path):
    group = zarr.create_group(tmp_path / "store.zarr")
    group.create_array("wide", shape=3, chunks=2**30, dtype="f8")
    layout = {"chunks": (1, 1), "shards": (2**14, 2**14), "dtype": "u1"}
    group.create_array("shards", shape=(2**14, 2**14), **layout)
    opened = open_group(str(tmp_path / "store.zarr"), None)
    with pytest.raises(StoreError, match="bytes each; expected at most"):
        open_array("s", opened, "wide")
    with pytest.raises(StoreError, match=r"268435456|2\.68e\+08 chunks each"):
        open_array("s", opened, "shards")
