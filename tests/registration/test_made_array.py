"""Levels and masks that a run makes: what is lost or damaged is made again."""

import itertools
import json
import os
import re
import shutil
import warnings

import dask
import numpy as np
import pytest
import xarray as xr

import xdreg
from tests.helpers.images import image, texture
from tests.helpers.runs import bits
from xdreg.coordinates import grid_of
from xdreg.registration.made_array import MadeArray
from xdreg.registration.source import _Means
from xdreg.stores.pyramid import downsample
from xdreg.stores.readers import UnreadableError, image_reader

LEVEL, MASK = "fixed_levels/1.zarr", "fixed_foreground.zarr"
SHAPE = (150, 170)


def bend(fixed, moving):
    """Return a displacement that depends on every voxel of both images."""
    grid = grid_of(fixed)
    values = np.zeros((2, *grid.shape), np.float32)
    values[0] = 1e-2 * float(fixed.mean()) + 1e-2 * float(moving.mean())
    values[1] = 1e-2 * float((fixed * moving.mask).std())
    return xr.DataArray(values, dims=("component", "y", "x"))


def run(where, fixed, moving, **more):
    stages = [xdreg.Custom(method=bend, level=1, isolated=False)]
    options = {"stages": stages, "block_shape": 40, "overlap": 8, "metric": "ncc"}
    options |= {"fixed_mask": "auto", "progress": False, **more}
    with warnings.catch_warnings(), dask.config.set(scheduler="synchronous"):
        warnings.simplefilter("ignore")
        return bits(xdreg.register(fixed, moving, workdir=where, **options))


@pytest.fixture(scope="module")
def pair():
    """Return two images of an object on a flat background."""
    values = [texture(SHAPE, seed=seed) + 5 for seed in range(2)]
    for one in values:
        one[:20], one[:, :30] = 0, 0
    return [image(one) for one in values]


@pytest.fixture(scope="module")
def undisturbed(pair, tmp_path_factory):
    """Return the directory and the result of a whole run."""
    where = tmp_path_factory.mktemp("made") / "run"
    found = run(where, *pair)
    shutil.rmtree(where / "stage_00")
    return where, found


def harm(folder, how, other):
    """Damage an array or its record; ``other`` is a sound chunk of another."""
    chunks = sorted(folder.glob("[0-9]*"))
    one, record = chunks[0], folder.with_suffix(".json")
    content = one.read_bytes()
    if how == "gone":
        one.unlink()
    elif how == "bit":
        one.write_bytes(content[:50] + bytes([content[50] ^ 4]) + content[51:])
    elif how == "cut":
        one.write_bytes(content[:-7])
    elif how == "zeros":
        one.write_bytes(bytes(len(content)))
    elif how == "another":
        shutil.copy(chunks[-1] if len(chunks) > 1 else other, one)
    elif how == "all":
        shutil.rmtree(folder)
    elif how == "no record":
        record.unlink()
        one.write_bytes(content[:10])
    elif how == "record altered":
        record.write_bytes(record.read_bytes().replace(b"-", b"0", 1))
    elif how == "metadata":
        (folder / "zarr.json").write_text("[7]")
        (folder / "0.0.0").write_bytes(b"?")


@pytest.mark.parametrize("folder", [LEVEL, MASK])
@pytest.mark.parametrize(
    "how",
    [
        *("gone", "bit", "cut", "zeros", "another", "all", "no record"),
        *("record altered", "metadata"),
    ],
)
def test_what_is_damaged_is_made_again(folder, how, pair, undisturbed, tmp_path):
    where = tmp_path / "run"
    shutil.copytree(undisturbed[0], where)
    array = where / folder
    before = {p.name: p.read_bytes() for p in array.iterdir()}
    kept = {p.name: p.stat().st_mtime_ns for p in array.iterdir()}
    harm(array, how, where / LEVEL / "1.1")
    assert run(where, *pair) == undisturbed[1]
    assert {n: (array / n).read_bytes() for n in before} == before
    if how in ("gone", "bit", "cut", "zeros", "another"):
        changed = {n for n in kept if (array / n).stat().st_mtime_ns != kept[n]}
        assert changed == {"0.0"}


def test_a_run_that_is_cut_off_while_it_makes_a_level(pair, undisturbed, tmp_path):
    where = tmp_path / "run"
    made = MadeArray.store

    class Cut(BaseException):
        pass

    def cut_off(self, name, make, lost):
        if name == "1.0" and "levels" in str(self.path):
            raise Cut
        return made(self, name, make, lost)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MadeArray, "store", cut_off)
        with pytest.raises(Cut):
            run(where, *pair)
    (where / LEVEL / "0.0").write_bytes(b"")
    assert run(where, *pair) == undisturbed[1]


def test_a_chunk_that_is_lost_during_the_run_costs_blocks(pair, tmp_path):
    """It is not read as zeros or NaN, and the same call repairs it."""
    where, purged = tmp_path / "run", tmp_path / "purged"

    def lose(fixed, moving):
        if not purged.exists():
            purged.touch()
            (where / LEVEL / "0.0").unlink()
        return bend(fixed, moving)

    stages = [xdreg.Custom(method=lose, level=1, isolated=False)]
    with pytest.raises(xdreg.StoreError, match="lost; run the same again"):
        run(where, *pair, stages=stages)
    assert run(where, *pair, stages=stages) == run(tmp_path / "other", *pair)


@pytest.fixture
def stored(pair, tmp_path):
    """Return a stored fixed image of one level, and the moving image."""
    path = tmp_path / "fixed.zarr"
    xdreg.save(pair[0], path, chunks=64, levels=1)
    return path, pair[1]


def test_what_was_made_without_a_part_of_the_image_is_made_again(stored, tmp_path):
    path, moving = stored
    expected = run(tmp_path / "whole", xdreg.open_ome_zarr(path), moving)
    chunk, where = path / "0/c/1/1", tmp_path / "run"
    content, stamp = chunk.read_bytes(), chunk.stat()
    spoilt = bytes(len(content))

    def write(values):
        # As if the disk itself had returned them: nobody wrote the file.
        chunk.write_bytes(values)
        os.utime(chunk, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))

    write(spoilt)
    fixed = xdreg.open_ome_zarr(path)
    options = {"stages": [xdreg.Custom(method=bend, level=1, isolated=False)]}
    options |= {"metric": "ncc", "block_shape": 40, "overlap": 8, "progress": False}
    with pytest.warns(UserWarning, match="fixed, level 1, cannot be read"):
        xdreg.register(fixed, moving, fixed_mask="auto", workdir=where, **options)
    records = [where / f"{name[:-5]}.json" for name in (LEVEL, MASK)]
    assert all("null" in record.read_text("utf-8") for record in records)
    write(content)
    # Blocks that are done stay; here none was.
    shutil.rmtree(where / "stage_00")
    assert run(where, xdreg.open_ome_zarr(path), moving) == expected
    assert not any("null" in record.read_text("utf-8") for record in records)
    for record in records:
        assert json.loads(record.read_text("utf-8"))["content"]


def test_an_image_that_is_gone_at_the_start_leaves_nothing_behind(stored, tmp_path):
    path, moving = stored
    expected = run(tmp_path / "whole", xdreg.open_ome_zarr(path), moving)
    fixed, where = xdreg.open_ome_zarr(path), tmp_path / "run"
    # The plan is made while the image is there.
    later = xdreg.register(
        fixed,
        moving,
        fixed_mask="auto",
        workdir=where,
        compute=False,
        stages=[xdreg.Custom(method=bend, level=1, isolated=False)],
        metric="ncc",
        block_shape=40,
        overlap=8,
        progress=False,
    )
    away = path.rename(tmp_path / "away")
    with pytest.raises(xdreg.StoreError, match=re.escape(str(path))):
        later.compute(scheduler="synchronous")
    away.rename(path)
    assert run(where, fixed, moving) == expected


@pytest.mark.parametrize(
    ("shape", "factors"),
    [
        ((150, 171), (2, 2)),
        ((131, 300), (1, 2)),
        ((2, 129), (2, 2)),
        ((70, 65, 40), (2, 2, 2)),
        ((5, 131, 130), (1, 2, 2)),
        ((130, 7, 1), (2, 2, 1)),
    ],
)
def test_chunks_are_means_of_the_whole_to_the_bit(shape, factors, tmp_path):
    values = (texture(shape) * 1000).astype(np.float32)
    reader = image_reader(image(values))
    coarse = reader.grid.coarsen(factors)
    array = MadeArray(
        tmp_path / "1.zarr",
        coarse.shape,
        (64,) * len(shape),
        "a level",
        _Means(reader, factors),
    )
    whole = tuple(slice(0, n) for n in coarse.shape)
    lazy = dask.array.from_array(values, chunks=128)
    np.testing.assert_array_equal(array[whole], downsample(lazy, factors).compute())
    part = tuple(slice(n // 3, n, 2) for n in coarse.shape)
    np.testing.assert_array_equal(array[part], array[whole][part])
    for file in itertools.islice((tmp_path / "1.zarr").glob("[0-9]*"), 1):
        file.unlink()
        with pytest.raises(UnreadableError, match="run the same again"):
            array[whole]
