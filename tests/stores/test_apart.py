"""An output that is, holds or lies in what is read for it is refused."""

import os

import dask.array
import pytest
import xarray as xr

import xdreg
from tests.helpers.pairs import zero_field
from xdreg.cli.main import app

REFUSED = "which is read; choose another place"


@pytest.fixture
def stored(tmp_path):
    """Return the places of a pair and of a field."""
    pair = xdreg.datasets.write_phantom_pair(tmp_path, (48, 56))
    xdreg.save(zero_field((48, 56)), tmp_path / "field.zarr")
    return *pair, tmp_path / "field.zarr"


def unchanged(paths):
    return {
        str(file): file.stat().st_mtime_ns
        for path in paths
        for file in path.rglob("*")
        if file.is_file()
    }


def of_xarray(path, chunks):
    """Open an image with xarray alone, as a user of it would."""
    opened = xr.open_zarr(path, consolidated=False, chunks=chunks)
    return opened["0"].variable._data


WRITES = {
    "changed": lambda f, m, u: xdreg.save(image(f) + 1, f, overwrite=True),
    "mean": lambda f, m, u: xdreg.save((image(f) + image(m)) / 2, m, overwrite=True),
    "coarser": lambda f, m, u: xdreg.save(
        image(m).coarsen(y=2, x=2).mean(), m, overwrite=True
    ),
    "warped": lambda f, m, u: xdreg.save(
        field(u).dreg.warp(image(m)), m, overwrite=True
    ),
    "warp_to moving": lambda f, m, u: xdreg.warp_to(
        field(u), xdreg.open_ome_zarr(m), m, overwrite=True
    ),
    "warp_to field": lambda f, m, u: xdreg.warp_to(
        field(u), image(m), u, overwrite=True
    ),
    "warp_to like": lambda f, m, u: xdreg.warp_to(
        field(u), image(m), f, like=image(f), overwrite=True
    ),
    "below": lambda f, m, u: xdreg.save(image(m), m / "labels"),
    "above": lambda f, m, u: xdreg.save(image(m), m.parent, overwrite=True),
    "composed": lambda f, m, u: xdreg.save(
        xdreg.compose(field(u), field(u)), u, overwrite=True
    ),
    "inverted": lambda f, m, u: xdreg.save(
        xdreg.inverse(field(u), image(m)), u, overwrite=True
    ),
    "file": lambda f, m, u: xdreg.write_transform(field(u), u / "a.h5"),
    "report": lambda f, m, u: xdreg.report(field(u), f / "a.html", image(f), image(m)),
    "workdir in": lambda f, m, u: xdreg.register(image(f), image(m), workdir=m / "run"),
    "workdir over": lambda f, m, u: xdreg.register(
        image(f), image(m), workdir=m.parent
    ),
}


def image(path):
    return xdreg.open_ome_zarr(path, level=0)


def field(path):
    return xdreg.open_field(path)


@pytest.mark.parametrize("name", WRITES)
def test_nothing_replaces_what_it_reads(stored, name):
    before = unchanged(stored)
    with pytest.raises(xdreg.StoreError, match=REFUSED):
        WRITES[name](*stored)
    assert unchanged(stored) == before


def test_through_links_and_other_ways_to_open(stored, tmp_path):
    fixed, moving, _ = stored
    (tmp_path / "alias").symlink_to(moving)
    (tmp_path / "around").symlink_to(tmp_path)
    lazy = image(moving)
    (tmp_path / "x").mkdir()
    for place in ("alias", "around/moving.ome.zarr", "x/../moving.ome.zarr"):
        with pytest.raises(xdreg.StoreError, match=REFUSED):
            xdreg.save(lazy, tmp_path / place, overwrite=True)
    for own in (
        dask.array.from_zarr(str(moving / "0")),
        of_xarray(moving, chunks={}),
        of_xarray(moving, chunks=None),
    ):
        with pytest.raises(xdreg.StoreError, match=REFUSED):
            xdreg.save(lazy.copy(data=own), moving, overwrite=True)
    # Voxels in memory, and other images, may be written anywhere.
    xdreg.save(lazy.compute(), moving, overwrite=True)
    xdreg.save(image(fixed), moving, overwrite=True)


def test_at_urls():
    pair = xdreg.datasets.phantom_pair((48, 56))
    url = "memory://apart/moving.zarr"
    xdreg.save(pair.moving, url)
    for place in (url, f"{url}/", "memory:///apart/moving.zarr", f"{url}/0"):
        with pytest.raises(xdreg.StoreError, match=REFUSED):
            xdreg.save(image(url) + 1, place, overwrite=True)
    xdreg.save(image(url), "memory://apart/moving.zarr.copy")


def test_commands_say_so_before_they_start(stored, tmp_path):
    fixed, moving, made = stored
    table = tmp_path / "points.csv"
    table.write_text("y,x\n1,2\n")
    os.link(table, tmp_path / "twin.csv")
    (tmp_path / "field.ome.zarr").symlink_to(made)
    for command in (
        ("register", fixed, moving, "-o", moving / "out"),
        ("register", fixed, moving, "-o", tmp_path, "--initial", made),
        ("register", fixed, moving, "-o", tmp_path, "--save-options", fixed / "a.toml"),
        ("warp", made, moving, "-o", moving),
        ("warp", made, moving, "--like", fixed, "-o", fixed),
        ("invert", made, "--like", moving, "-o", made),
        ("convert", made, tmp_path / "field.ome.zarr"),
        ("points", made, table, "-o", table),
        ("points", made, table, "-o", tmp_path / "twin.csv"),
        ("report", made, fixed, moving, "-o", fixed / "qc.html"),
    ):
        words = [str(word) for word in command]
        with pytest.raises(xdreg.StoreError, match=REFUSED):
            app([*words, "--overwrite"], standalone_mode=False)
    assert not (moving / "out").exists()
    assert table.read_text("utf-8") == "y,x\n1,2\n"


def test_the_numbers_are_those_of_the_image_that_was_registered(stored, tmp_path):
    """A run whose moving image would become its output does not start."""
    fixed, moving, _ = stored
    out = tmp_path / "out"
    out.mkdir()
    moving = moving.rename(out / "moved.ome.zarr")
    before = unchanged([moving])
    words = ["register", str(fixed), str(moving), "-o", str(out), "--overwrite"]
    with pytest.raises(xdreg.StoreError, match=REFUSED):
        app(words, standalone_mode=False)
    assert unchanged([moving]) == before
