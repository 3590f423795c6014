"""What is overwritten is one image or field; whatever else lies there stays."""

import json
import os

import fsspec
import numpy as np
import pytest
import xarray as xr
import zarr

import xdreg
from tests.helpers.pairs import zero_field
from tests.helpers.stores import sample


def everything(folder):
    """Return all files in a folder, with their content."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): path.read_bytes() for path in files}


def write(path, text="years of work"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def settings(name, text):
    def make(folder):
        write(folder / "thesis" / "chapter.tex")
        write(folder / name, text)

    return make


def container(folder):
    """Make a group that holds the images of a project."""
    zarr.create_group(folder)
    xdreg.save(sample(2), folder / "moving")


def with_labels(folder):
    """Make an image below which somebody has drawn labels."""
    xdreg.save(sample(2), folder, levels=1)
    labels = zarr.create_group(folder / "labels", attributes={"labels": ["drawn"]})
    zarr.create_array(labels.store, name="labels/drawn/0", data=np.ones((4, 4), "u1"))


def among_chunks(folder):
    xdreg.save(sample(2), folder, levels=1)
    write(folder / "0" / "c" / "0" / "notes.txt")


def empty_folder_in_an_image(folder):
    xdreg.save(sample(2), folder, levels=1)
    (folder / ".git" / "refs").mkdir(parents=True)


def table_of_xarray(folder):
    xr.Dataset({"a": ("x", np.arange(3))}).to_zarr(folder, consolidated=False)


def bare_array(folder):
    zarr.create_array(folder, data=np.ones((4, 4)))


def second_image_in_a_field(folder):
    xdreg.save(zero_field((20, 30)), folder)
    (folder / "xdreg" / "images").mkdir()
    xdreg.save(sample(2), folder / "xdreg" / "images" / "scan", levels=1)


def names_of_another_image(folder):
    """Make a group whose metadata name the arrays of an image in it."""
    folder.mkdir()
    xdreg.save(sample(2), folder / "raw", levels=1)
    document = json.loads((folder / "raw" / "zarr.json").read_text("utf-8"))
    for dataset in document["attributes"]["ome"]["multiscales"][0]["datasets"]:
        dataset["path"] = f"raw/{dataset['path']}"
    write(folder / "zarr.json", json.dumps(document))


def arrays_in(attributes):
    """Return a maker of a group that names an array below a node of its own."""

    def make(folder):
        names_of_another_image(folder)
        raw = zarr.open_group(folder / "raw", mode="r+")
        raw.attrs.put(attributes)

    return make


def array_next_to_diagnostics(folder):
    xdreg.save(zero_field((20, 30)), folder)
    group = zarr.open_group(folder / "xdreg", mode="r+")
    group.create_array("traced", data=np.ones((4, 4)))


def dataset_next_to_a_field(folder):
    """Make an N5 container that holds BigWarp's field and a volume."""
    xdreg.write_transform(zero_field((20, 30)), folder)
    write(folder / "volume" / "attributes.json", json.dumps({"dimensions": [4, 4]}))


def numbered(make, name):
    """Make a store, with a file whose name looks like a chunk's."""

    def both(folder):
        make(folder)
        write(folder / name)

    return both


def image(folder):
    xdreg.save(sample(2), folder, levels=1)


def image_of_version_2(folder):
    xdreg.save(sample(2), folder, levels=1, version="0.4")


def field(folder):
    xdreg.save(zero_field((20, 30)), folder)


def bigwarp(folder):
    xdreg.write_transform(zero_field((20, 30)), folder)


FOREIGN = [
    (settings("attributes.json", '{"theme": "dark"}'), ""),
    (settings("zarr.json", '{"zarr_format": 3, "node_type": "group"}'), ""),
    (settings("zarr.json", "no JSON"), ""),
    (settings(".zgroup", '{"zarr_format": 2}'), ""),
    (container, ""),
    (with_labels, "labels/zarr.json"),
    (among_chunks, "0/c/0/notes.txt"),
    (empty_folder_in_an_image, ".git/refs"),
    (table_of_xarray, ""),
    (bare_array, ""),
    (names_of_another_image, ""),
    (arrays_in({"ome": {"version": "0.5", "plate": {}}}), ""),
    (arrays_in({"ome": {"version": "0.5", "well": {"images": []}}}), ""),
    (arrays_in({"labels": ["cells"]}), ""),
    (arrays_in({"bioformats2raw.layout": 3}), ""),
    (array_next_to_diagnostics, "xdreg/traced/"),
    (second_image_in_a_field, "xdreg/images/scan"),
    (dataset_next_to_a_field, "volume/attributes.json"),
    (numbered(image, "0/c/2024/15"), "0/c/2024/15"),
    (numbered(image, "0/c/0/0.1"), "0/c/0/0.1"),
    (numbered(image, "0/c/0/9"), "0/c/0/9"),
    (numbered(image, "0/c/0/00"), "0/c/0/00"),
    (numbered(image, "0/c/0.0"), "0/c/0.0"),
    (numbered(image, "0/2024"), "0/2024"),
    (numbered(image_of_version_2, "0/20/2"), "0/20/2"),
    (numbered(field, "xdreg/block_status/c/20/2"), "xdreg/block_status/c/20/2"),
    (numbered(bigwarp, "dfield/2024/5/1"), "dfield/2024/5/1"),
]
N5 = dataset_next_to_a_field, FOREIGN[-1][0]


@pytest.mark.parametrize(("make", "name"), FOREIGN)
def test_a_folder_that_holds_anything_else_is_refused(tmp_path, make, name):
    target = tmp_path / ("out.n5" if make in N5 else "out.zarr")
    make(target)
    before, folders = everything(target), sorted(target.rglob("*"))
    with pytest.raises(xdreg.StoreError, match="not overwritten: it holds") as caught:
        xdreg.write_transform(zero_field((20, 30)), target, overwrite=True)
    assert f"holds '{name}" in str(caught.value)
    assert (everything(target), sorted(target.rglob("*"))) == (before, folders)
    assert list(tmp_path.iterdir()) == [target]


def flat(folder, version):
    """Write an image with another writer, whose names of arrays differ."""
    import ngff_zarr as nz

    image = nz.to_ngff_image(np.ones((32, 32), "u1"), dims=("y", "x"))
    levels = nz.to_multiscales(image, scale_factors=[])
    nz.to_ome_zarr(str(folder), levels, version=version)


def littered(folder):
    xdreg.save(sample(2), folder, levels=1)
    for name in (".DS_Store", "0/Thumbs.db", "0/._zarr.json"):
        write(folder / name)
    write(folder / f"0/c/0/0.{'0f' * 16}.partial")


def with_a_variable(folder):
    """Write a field with a variable of the user's own."""
    field = zero_field((20, 30))
    field["my notes"] = ("about", np.arange(3.0))
    xdreg.save(field, folder)
    assert xdreg.open_field(folder).attrs.keys().isdisjoint({"arrays"})


WHOLE = [
    with_a_variable,
    lambda path: flat(path, "0.4"),
    lambda path: flat(path, "0.5"),
    littered,
    lambda path: xdreg.save(sample(2), path, version="0.4"),
    lambda path: xdreg.save(zero_field((20, 30)), path),
    lambda path: xdreg.save(
        zero_field((20, 30)), path, inverse=zero_field((20, 30)), affine=True
    ),
]


@pytest.mark.parametrize("make", WHOLE)
def test_an_image_or_a_field_is_replaced_whole(tmp_path, make):
    target = tmp_path / "out.zarr"
    make(target)
    xdreg.save(sample(2), target, overwrite=True, levels=1)
    np.testing.assert_array_equal(xdreg.open_ome_zarr(target, level=0), sample(2))
    names = {"zarr.json", "0"}
    assert {path.name for path in target.iterdir()} == names
    assert list(tmp_path.iterdir()) == [target]


def test_what_links_lead_to_is_not_removed(tmp_path):
    target, elsewhere = tmp_path / "out.zarr", tmp_path / "elsewhere"
    xdreg.save(sample(2), target, levels=1)
    (target / "0").rename(elsewhere)
    (target / "0").symlink_to(elsewhere)
    before = everything(elsewhere)
    xdreg.save(sample(2) + 1, target, levels=1, overwrite=True)
    assert everything(elsewhere) == before
    (target / "data").symlink_to(elsewhere)
    with pytest.raises(xdreg.StoreError, match="holds 'data/'"):
        xdreg.save(sample(2), target, overwrite=True)


def test_a_pipe_among_the_documents_does_not_wait(tmp_path):
    target = tmp_path / "out.zarr"
    target.mkdir()
    os.mkfifo(target / "zarr.json")
    with pytest.raises(xdreg.StoreError, match=r"holds 'zarr\.json'"):
        xdreg.save(sample(2), target, overwrite=True)


@pytest.mark.parametrize("place", ["thesis.tex", "0/notes.txt", "moving/a"])
def test_at_a_url_too(place):
    url, files = f"memory://owned/{place[:3]}.zarr", fsspec.filesystem("memory")
    xdreg.save(sample(2), url, levels=1)
    with pytest.raises(xdreg.StoreError, match="exists"):
        xdreg.save(sample(2), url)
    xdreg.save(sample(2) + 1, url, levels=1, overwrite=True)
    files.pipe_file(f"{url}/{place}", b"years of work")
    before = {name: files.cat_file(name) for name in files.find(url)}
    with pytest.raises(xdreg.StoreError, match=f"holds '{place}'"):
        xdreg.save(sample(2), url, overwrite=True)
    assert before == {name: files.cat_file(name) for name in files.find(url)}


def test_a_name_with_an_asterisk_at_a_url_is_one_name():
    files = fsspec.filesystem("memory")
    xdreg.save(sample(2), "memory://starred/ab.zarr", levels=1)
    files.pipe_file("memory://starred/thesis", b"years of work")
    before = files.find("memory://starred")
    for _ in range(2):
        xdreg.save(sample(2), "memory://starred/*", levels=1, overwrite=True)
    assert set(before) < set(files.find("memory://starred"))


def test_a_marked_place_at_a_url_keeps_what_is_not_of_a_store():
    files = fsspec.filesystem("memory")
    files.pipe_file("memory://marked/a.zarr/.xdreg-unfinished", b"")
    files.pipe_file("memory://marked/a.zarr/0/c/0/0", b"half")
    xdreg.save(sample(2), "memory://marked/a.zarr", levels=1)
    files.pipe_file("memory://marked/b.zarr/.xdreg-unfinished", b"")
    files.pipe_file("memory://marked/b.zarr/thesis.tex", b"years of work")
    with pytest.raises(xdreg.StoreError, match=r"holds 'thesis\.tex'"):
        xdreg.save(sample(2), "memory://marked/b.zarr", overwrite=True)
    assert files.exists("memory://marked/b.zarr/thesis.tex")
