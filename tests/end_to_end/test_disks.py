"""Disks that fill up, are read-only or go away: one clear error, nothing lost."""

import pytest

from tests.helpers.disks import can_mount, on_any_disk, on_small_disk

needs_mounts = pytest.mark.skipif(
    not can_mount(), reason="this system gives processes no mounts of their own"
)

BEGINNING = """
import os, resource, subprocess, sys, warnings
import numpy as np
import xarray as xr
import xdreg

folder = {folder!r}
pair = xdreg.datasets.phantom_pair((288, 288), amplitude=1.0)
fixed, moving = pair.fixed.compute(), pair.moving.compute()
ran = []
during = lambda: None

def method(fixed, moving):
    ran.append(float(fixed.y[0]) * 1000 + float(fixed.x[0]))
    during()
    shape = (2, *fixed.shape)
    return xr.DataArray(np.full(shape, 0.01 * len(shape)), dims=("component", "y", "x"))

def register(workdir):
    ran.clear()
    return xdreg.register(
        fixed, moving,
        stages=[xdreg.Custom(method=method, field_step=1, isolated=False)],
        metric="msd", block_shape=72, overlap=4, workdir=workdir, progress=False,
    )

def refused(call, *texts):
    try:
        call()
    except xdreg.StoreError as error:
        for text in texts:
            assert text in str(error), str(error)
        return
    raise AssertionError("nothing was raised")

def mount(options):
    subprocess.run(["mount", "-o", "remount," + options, folder], check=True)

import dask
dask.config.set(scheduler="synchronous")
whole = register(None).displacement.values
everything = len(ran)
assert everything == 16
"""

FULL = """
run = folder + "/run"
{fill}
refused(lambda: register(run), run, {error!r}, "has room", "the same call again")
assert 0 < len(ran) < everything, len(ran)
done = set(ran)
refused(lambda: register(run), run, {error!r})
{room}
again = register(run)
# The block in which it happened is the only one that runs again.
assert len(done & set(ran)) <= 1, (done, ran)
assert len(ran) < everything
np.testing.assert_array_equal(again.displacement.values, whole)
print("reached the end")
"""


def ended(result):
    assert "reached the end" in result.stdout, result.stdout + result.stderr


@needs_mounts
def test_a_full_disk_keeps_what_is_done(tmp_path):
    script = BEGINNING.format(folder=str(tmp_path)) + FULL.format(
        fill="", room='mount("size=50m")', error="No space left"
    )
    ended(on_small_disk(script, tmp_path, "300k"))


def test_a_limit_on_files_keeps_what_is_done(tmp_path):
    # A fault that any process can give itself: files smaller than a patch.
    fill = """
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

count = []
def during():
    count.append(1)
    if len(count) == 5:
        limit(20_000)
"""
    room = "during = lambda: None\nlimit(resource.RLIM_INFINITY)"
    script = BEGINNING.format(folder=str(tmp_path))
    script += FULL.format(fill=fill, room=room, error="File too large")
    ended(on_any_disk(script))


@needs_mounts
def test_a_full_disk_leaves_no_output(tmp_path):
    script = (
        BEGINNING.format(folder=str(tmp_path))
        + """
field = register(None)
moved = field.dreg.warp(moving)
for name, data in (("image", fixed), ("field", field), ("moved", moved)):
    target = f"{folder}/{name}.zarr"
    refused(lambda: xdreg.save(data, target), target, "cannot be written")
    assert os.listdir(folder) == [], os.listdir(folder)
mount("size=50m")
xdreg.save(fixed, f"{folder}/image.zarr")
old = xdreg.open_ome_zarr(f"{folder}/image.zarr", level=0).values
used = os.statvfs(folder)
mount(f"size={(used.f_blocks - used.f_bfree) * used.f_bsize + 100_000}")
refused(
    lambda: xdreg.save(moving, f"{folder}/image.zarr", overwrite=True), "No space left"
)
kept = xdreg.open_ome_zarr(f"{folder}/image.zarr", level=0).values
np.testing.assert_array_equal(kept, old)
print("reached the end")
"""
    )
    ended(on_small_disk(script, tmp_path, "150k"))


@needs_mounts
def test_a_disk_that_becomes_read_only(tmp_path):
    script = (
        BEGINNING.format(folder=str(tmp_path))
        + """
run = folder + "/run"
count = []
def during():
    count.append(1)
    if len(count) == 6:
        # Mounted over itself: a plain remount is refused while a file is open.
        subprocess.run(["mount", "--bind", folder, folder], check=True)
        mount("bind,ro")
refused(lambda: register(run), run, "Read-only file system")
during = lambda: None
refused(lambda: register(run), run, "Read-only file system")
refused(lambda: register(folder + "/other"), "other", "Read-only file system")
field = register(None)
for data in (fixed, field):
    refused(lambda: xdreg.save(data, f"{folder}/a.zarr"), "a.zarr cannot be written")
subprocess.run(["umount", folder], check=True)
again = register(run)
assert len(ran) == everything - 5, ran
np.testing.assert_array_equal(again.displacement.values, whole)
print("reached the end")
"""
    )
    ended(on_small_disk(script, tmp_path, "50m"))


@needs_mounts
@pytest.mark.parametrize("path", ["/run", ""])
def test_a_mount_that_is_lost(tmp_path, path):
    script = (
        BEGINNING.format(folder=str(tmp_path))
        + f"""
run = folder + {path!r}
beside = {str(tmp_path.parent / (tmp_path.name + "-beside"))!r}
os.mkdir(beside)
subprocess.run(["mount", "--bind", folder, beside], check=True)
count = []
def during():
    count.append(1)
    if len(count) == 6:
        subprocess.run(["umount", "-l", folder], check=True)
refused(lambda: register(run), run)
# Noticed at once, not when all blocks have run for nothing.
assert len(ran) <= 7, ran
during = lambda: None
subprocess.run(["mount", "--bind", beside, folder], check=True)
again = register(run)
assert len(ran) <= everything - 5, ran
np.testing.assert_array_equal(again.displacement.values, whole)
print("reached the end")
"""
    )
    ended(on_small_disk(script, tmp_path, "50m"))
