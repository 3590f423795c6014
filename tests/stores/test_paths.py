"""Paths mean what the operating system means by them, wherever they are given."""

from pathlib import Path

import numpy as np
import pytest

import xdreg
from tests.helpers.pairs import zero_field
from tests.helpers.stores import sample
from xdreg.stores.paths import as_address, is_remote, local_path

NAMES = [
    "~", "~x", "~root", "a:", "ab:c", "memory:x", "a#b", "a%20b", "100%", "[ab]",
    "{a}", "a::b", "a?b", "a*b", " a b ", "ü漢", "x.ozx", "x.zip", "$HOME", "a|b;c",
]  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Work in a folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Return another home folder. Numba finds none of its files in it, and compiles."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


def names_in(folder):
    return {path.name for path in folder.glob("[!.]*")}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_all_kinds_in_and_out(here, home, name):
    """An image in a folder of the name, a field of the name, through text and Path."""
    folder = here / name
    folder.mkdir()
    small = sample(2)[:20, :30]
    xdreg.save(small, f"{name}/{name}.zarr", levels=1)
    assert [path.name for path in folder.iterdir()] == [f"{name}.zarr"]
    place = folder / f"{name}.zarr"
    for given in (f"{name}/{name}.zarr/", Path(name, f"{name}.zarr"), place.as_uri()):
        np.testing.assert_array_equal(xdreg.open_ome_zarr(given, level=0), small)
    xdreg.save(zero_field((20, 30)), place.as_uri(), overwrite=True)
    assert xdreg.open_field(f"{name}/{name}.zarr").displacement.load().shape[0] == 2
    assert list(here.iterdir()) == [folder]
    assert not names_in(home)


@pytest.mark.parametrize("name", ["~root", "a#b", "a::b"])
def test_work_directories_and_pyramids_too(here, name):
    image = xdreg.datasets.phantom_pair((20, 30)).fixed
    field = xdreg.compose(np.eye(3), like=image)
    xdreg.warp_to(field, image, f"{name}.zarr")
    np.testing.assert_array_equal(xdreg.open_ome_zarr(f"{name}.zarr", level=0), image)
    xdreg.write_transform(field, f"{name}.n5")
    xdreg.open_transform(f"{name}.n5").load()
    stage = xdreg.LocalCorrelation(level=0, iterations=1, metric="lncc")
    options = {"stages": [stage], "progress": False}
    xdreg.register(image, image, workdir=name, **options)
    made = {path.name for path in here.iterdir()}
    assert made == {name, f"{name}.zarr", f"{name}.n5"}


def test_a_tilde_is_the_home_folder_unless_it_is_a_name(here, home):
    xdreg.save(sample(2), "~/a.zarr", levels=1)
    assert (home / "a.zarr" / "zarr.json").exists()
    np.testing.assert_array_equal(xdreg.open_ome_zarr("~/a.zarr", level=0), sample(2))
    assert list(here.iterdir()) == []
    (here / "~").mkdir()
    xdreg.save(sample(2), "~/b.zarr", levels=1)
    assert (here / "~" / "b.zarr" / "zarr.json").exists()
    assert local_path("~root") == here / "~root"


def test_what_a_url_is():
    for text in ("s3://bucket/a", "simplecache::https://host/a", "zip://a::s3://b/c"):
        assert is_remote(text)
    for text in ("a::b", "C://data", "s3:/bucket", "./a://b", "/a/b::c", "a#b://c"):
        assert not is_remote(text)
    assert as_address("file:///data/a%20b#c") == "/data/a b#c"
    assert as_address("FILE://localhost/data") == "/data"
    for text in ("file://data", "file://host/data", "file://"):
        with pytest.raises(xdreg.InputError, match="such as file:///"):
            as_address(text)


def test_the_command_takes_them_as_they_are(here, home, xdreg_command):
    fixed, moving = xdreg.datasets.write_phantom_pair("a#b", (48, 56))
    xdreg.save(zero_field((48, 56)), "~/field.ome.zarr")
    for command in (
        ("plan", fixed, moving, "--save-options", "[ab].toml", "--metric", "lncc"),
        ("plan", "--options", "[ab].toml"),
        ("convert", "~/field.ome.zarr", "~/a.n5"),
        ("convert", "~/a.n5", "s3:.ome.zarr"),
        ("register", fixed, moving, "-o", "~", "--initial", "s3:.ome.zarr"),
    ):
        code, _, err = xdreg_command(*command)
        assert code == (command[0] == "register"), err
    assert f"{home}/field.ome.zarr exists" in err
    assert names_in(here) == {"a#b", "[ab].toml", "s3:.ome.zarr"}
    assert names_in(home) == {"field.ome.zarr", "a.n5"}
    for command in (
        ("convert", "~/field.ome.zarr", "s3://bucket/a.h5"),
        ("register", fixed, moving, "-o", "s3://bucket/out"),
        ("register", fixed, moving, "-o", "out", "--workdir", "s3://bucket/run"),
    ):
        code, _, err = xdreg_command(*command)
        assert code == 1
        assert "s3://bucket" in err
    assert not Path("s3:").exists()


def test_empty_paths_are_refused(here):
    for call in (
        lambda: xdreg.save(sample(2), ""),
        lambda: xdreg.register(sample(2), sample(2), workdir=""),
        lambda: xdreg.open_ome_zarr(""),
    ):
        with pytest.raises(xdreg.XdregError, match="empty path"):
            call()
