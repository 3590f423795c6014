"""Pyramids warped into stores: every level, every grid, in one go or in several."""

import signal

import dask
import numpy as np
import pytest
import xarray as xr

import xdreg
from tests.helpers.fields import Known, field_and_moving
from tests.helpers.forks import Script
from tests.helpers.stores import levels_of
from xdreg.coordinates import grid_of
from xdreg.fields import warp as resampling
from xdreg.fields import warp_to as pyramid_warp
from xdreg.stores.outputs import MARK
from xdreg.stores.pyramid import image_levels
from xdreg.stores.unfinished import partial_path


@pytest.fixture
def small(monkeypatch):
    """Regions of two by two chunks, so that a small image has many."""
    monkeypatch.setitem(resampling.CHUNK, 3, 32)
    monkeypatch.setitem(resampling.CHUNK, 2, 32)


@pytest.mark.parametrize(("version", "ndim"), [("0.4", 2), ("0.5", 3)])
def test_the_finest_level_is_that_of_warp_and_the_rest_those_of_save(
    tmp_path, small, version, ndim
):
    field, moving = field_and_moving(ndim, channels=2)
    options = {"chunks": 16, "levels": 3, "version": version}
    field.dreg.warp_to(moving, tmp_path / "a.zarr", levels_from="finest", **options)
    expected = field.dreg.warp(moving)
    xdreg.save(expected, tmp_path / "b.zarr", **options)
    ours, theirs = levels_of(tmp_path / "a.zarr"), levels_of(tmp_path / "b.zarr")
    assert len(ours) == len(theirs) == 3
    for one, other in zip(ours, theirs, strict=True):
        drop = {"source": None, "name": None}
        xr.testing.assert_identical(one.assign_attrs(drop), other.assign_attrs(drop))
    assert ours[0].dtype == np.uint16
    assert ours[0].c.values.tolist() == ["dye 0", "dye 1"]
    assert not list(tmp_path.glob(".*"))


def test_levels_come_from_the_matching_levels_of_the_moving_image(tmp_path, small):
    field, moving = field_and_moving()
    xdreg.save(moving, tmp_path / "moving.zarr", levels=2)
    tree = xdreg.open_ome_zarr(tmp_path / "moving.zarr")
    like = moving.isel(z=slice(2, 50), y=slice(1, 49), x=slice(0, 48))
    field.dreg.warp_to(tree, tmp_path / "a.zarr", like=like, levels=3, chunks=16)
    ours = levels_of(tmp_path / "a.zarr")
    fine, coarse = image_levels(tree, "moving")
    np.testing.assert_array_equal(ours[0], field.dreg.warp(fine, like=like))
    np.testing.assert_array_equal(ours[1], field.dreg.warp(coarse, like=ours[1]))
    means = ours[1].coarsen(z=2, y=2, x=2).mean()
    np.testing.assert_array_equal(ours[2], np.rint(means))
    # A coarse target is made of the level that is nowhere coarser, not of the finest.
    spacing = 2 * np.array(grid_of(moving).spacing)
    field.dreg.warp_to(tree, tmp_path / "b.zarr", spacing=spacing, levels=1)
    found = levels_of(tmp_path / "b.zarr")[0]
    np.testing.assert_array_equal(found, field.dreg.warp(coarse, spacing=spacing))


def within(image, region):
    """Return the part of an image whose coordinates lie in slices."""
    for dim, part in region.items():
        low = -np.inf if part.start is None else part.start
        high = np.inf if part.stop is None else part.stop
        inside = (image[dim].values >= low) & (image[dim].values <= high)
        image = image.isel({dim: np.flatnonzero(inside)})
    return image


def test_a_region_is_the_part_of_the_whole(tmp_path):
    field, moving = field_and_moving()
    whole = field.dreg.warp(moving, spacing=(1.5, 1.0, 2.0))
    region = {"z": slice(10.0, 40.0), "x": slice(None, 60)}
    part = field.dreg.warp(moving, spacing=(1.5, 1.0, 2.0), region=region)
    xr.testing.assert_allclose(part, within(whole, region), atol=1)
    lower, upper = Known(3).fixed.bounds
    found_lower, found_upper = grid_of(whole).bounds
    np.testing.assert_allclose(found_lower, lower)
    assert (found_upper >= upper - 1e-9).all()
    assert (found_upper - upper < grid_of(whole).spacing).all()
    region = {"y": slice(40, 50)}
    field.dreg.warp_to(moving, tmp_path / "a.zarr", region=region)
    found = levels_of(tmp_path / "a.zarr")[0]
    expected = within(field.dreg.warp(moving), region)
    assert found.y.values.tolist() == expected.y.values.tolist()
    np.testing.assert_allclose(found, expected, atol=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"order": 2}, "order must be"), ({"labels": "mean"}, "labels must be"),
     ({"labels": "majority", "order": 3}, "not interpolated"),
     ({"spacing": 0}, "spacing must be"), ({"spacing": (1, 2)}, "spacing must be"),
     ({"region": {"z": 3}}, "region of z"), ({"region": {"t": slice(1)}}, "map dims"),
     ({"region": {"x": slice(1e6, None)}}, "holds no voxel"),
     ({"levels_from": "both"}, "levels_from"), ({"fill_value": -1}, "fill_value"),
     ({"chunks": 0}, "chunks"), ({"levels": 0}, "levels")],
)  # fmt: skip
def test_mistakes_are_named_before_anything_is_written(tmp_path, options, message):
    field, moving = field_and_moving()
    with pytest.raises(xdreg.InputError, match=message):
        field.dreg.warp_to(moving, tmp_path / "a.zarr", **options)
    assert not list(tmp_path.iterdir())
    with pytest.raises(xdreg.InputError, match="moving has dimensions"):
        field.dreg.warp_to(moving.isel(z=0, drop=True), tmp_path / "a.zarr")


def test_regions_made_together_have_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setitem(resampling.CHUNK, 3, 16)
    field, moving = field_and_moving()
    made = counted(monkeypatch)
    counts, results = [], []
    for most in (1, 2**22):
        monkeypatch.setattr(pyramid_warp, "MOST_TOGETHER", most)
        made.clear()
        field.dreg.warp_to(moving, tmp_path / f"{most}.zarr", chunks=16, levels=1)
        counts.append(len(made))
        results += levels_of(tmp_path / f"{most}.zarr")
    assert pyramid_warp.FEWEST <= counts[1] < counts[0]
    np.testing.assert_array_equal(*results)


KILLED = """
import os, sys, time
import xdreg
from xdreg.fields import warp as resampling
from xdreg.fields import warp_to as pyramid_warp

resampling.CHUNK[3], pyramid_warp.MOST_TOGETHER = 16, 16**3
make = pyramid_warp._Level.make

def slowly(self, window):
    os.write(1, b"writing" + os.linesep.encode())
    time.sleep(0.05)
    return make(self, window)

pyramid_warp._Level.make = slowly
field, moving = xdreg.open_field(sys.argv[1]), xdreg.open_ome_zarr(sys.argv[2])
field.dreg.warp_to(moving, sys.argv[3], chunks=16)
print("written", flush=True)
"""


def counted(monkeypatch):
    made = []
    make = pyramid_warp._Level.make

    def watched(self, window):
        made.append((self.name, window))
        return make(self, window)

    monkeypatch.setattr(pyramid_warp._Level, "make", watched)
    return made


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setitem(resampling.CHUNK, 3, 16)
    monkeypatch.setattr(pyramid_warp, "MOST_TOGETHER", 16**3)
    field, moving = field_and_moving()
    paths = [tmp_path / f"{name}.zarr" for name in ("field", "moving", "moved")]
    field.dreg.to_ome_zarr(paths[0])
    xdreg.save(moving, paths[1])
    field, moving = xdreg.open_field(paths[0]), xdreg.open_ome_zarr(paths[1])
    script = Script(KILLED, *paths)
    for _ in range(12):
        assert script.stdout.readline() == "writing\n"
    script.end(signal.SIGKILL)
    assert not paths[2].exists()
    (journal,) = partial_path(paths[2]).glob("journal-*")
    entries = [p for p in journal.iterdir() if "-" in p.name]
    assert entries
    # One region is lost, as by a power cut: it is made again.
    lost = min(entries)
    lost.rename(lost.with_name(lost.name.rpartition("-")[0] + "-00000000"))
    made = counted(monkeypatch)
    field.dreg.warp_to(moving, paths[2], chunks=16)
    again = len(made)
    assert not partial_path(paths[2]).exists()
    assert not (paths[2] / MARK).exists()
    made.clear()
    field.dreg.warp_to(moving, tmp_path / "whole.zarr", chunks=16)
    assert again == len(made) - len(entries) + 1
    for one, other in zip(
        levels_of(paths[2]), levels_of(tmp_path / "whole.zarr"), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    # Another call begins anew where something else was left.
    made.clear()
    monkeypatch.setattr(pyramid_warp, "_write_level", _stopped)
    with pytest.raises(KeyboardInterrupt):
        field.dreg.warp_to(moving, tmp_path / "other.zarr", order=0)
    assert list(partial_path(tmp_path / "other.zarr").glob("journal-*"))
    monkeypatch.undo()
    field.dreg.warp_to(moving, tmp_path / "other.zarr")
    np.testing.assert_array_equal(
        levels_of(tmp_path / "other.zarr")[0], levels_of(paths[2])[0]
    )


def _stopped(*_):
    raise KeyboardInterrupt


def test_a_store_at_a_url_goes_on_as_well(monkeypatch, small):
    field, moving = field_and_moving(2)
    url = "memory://warped/moved.ome.zarr"
    write = pyramid_warp._write_level
    calls = []

    def interrupted(task, done):
        calls.append(len(done))
        if task.name == "1" and len(calls) == 2:
            raise KeyboardInterrupt
        write(task, done)

    monkeypatch.setattr(pyramid_warp, "_write_level", interrupted)
    options = {"levels": 2, "chunks": 16}
    with pytest.raises(KeyboardInterrupt):
        field.dreg.warp_to(moving, url, **options)
    with pytest.raises(xdreg.StoreError):
        xdreg.open_ome_zarr(url)
    made = counted(monkeypatch)
    field.dreg.warp_to(moving, url, **options)
    assert made
    assert {name for name, _ in made} == {"1"}
    assert calls[-1] > 0
    found = xdreg.open_ome_zarr(url, level=0)
    np.testing.assert_array_equal(found, field.dreg.warp(moving))
    with pytest.raises(xdreg.StoreError, match="overwrite"):
        field.dreg.warp_to(moving, url, **options)
    field.dreg.warp_to(moving, url, overwrite=True, **options)


def test_no_more_than_a_window_is_read(tmp_path, small):
    field, moving = field_and_moving()
    seen = []

    def watch(block):
        seen.append(block.size)
        return block

    lazy = moving.chunk(8)
    lazy = lazy.copy(data=lazy.data.map_blocks(watch, dtype=lazy.dtype))
    with dask.config.set(scheduler="synchronous"):
        field.dreg.warp_to(lazy, tmp_path / "a.zarr", chunks=16, levels=1)
    assert max(seen) <= 8**3
    np.testing.assert_allclose(
        levels_of(tmp_path / "a.zarr")[0], field.dreg.warp(moving), atol=1
    )


def test_time_points_keep_their_axis(tmp_path):
    field, moving = field_and_moving(2)
    movie = xr.concat([moving, moving + 1, moving + 2], "t").assign_coords(t=[0, 2, 4])
    field.dreg.warp_to(movie, tmp_path / "a.zarr")
    found = levels_of(tmp_path / "a.zarr")[0]
    assert found.dims == ("t", "y", "x")
    assert found.t.values.tolist() == [0, 2, 4]
    np.testing.assert_array_equal(found, field.dreg.warp(movie))
    # Channels before time, as some arrays have them, are stored after it.
    both = xr.concat([movie, movie + 100], "c")
    field.dreg.warp_to(both, tmp_path / "b.zarr")
    found = levels_of(tmp_path / "b.zarr")[0]
    assert found.dims == ("t", "c", "y", "x")
    np.testing.assert_array_equal(found, field.dreg.warp(both).transpose("t", ...))


def test_the_description_knows_every_option(tmp_path, monkeypatch):
    field, moving = field_and_moving(2)
    seen = set()

    def stop(path, description, **_):
        seen.add(description)
        raise KeyboardInterrupt

    monkeypatch.setattr(pyramid_warp, "resumable_store", stop)
    shifted = field.assign(displacement=field.displacement + 1)
    calls = [(field, moving, {}), (shifted, moving, {}), (field, moving + 1, {})]
    calls += [
        (field, moving, options)
        for options in (
            {"order": 0}, {"order": 3}, {"labels": "majority"}, {"spacing": 2.0},
            {"region": {"x": slice(20, 60)}}, {"fill_value": 7}, {"levels": 2},
            {"chunks": 16}, {"version": "0.4"}, {"name": "else"},
            {"like": moving.isel(y=slice(0, 20))},
        )
    ]  # fmt: skip
    for one, image, options in calls:
        with pytest.raises(KeyboardInterrupt):
            one.dreg.warp_to(image, tmp_path / "a.zarr", **options)
    assert len(seen) == len(calls)
