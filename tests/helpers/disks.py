"""Trials of disks that fill up, become read-only or go away.

``python -m tests.helpers.disks FOLDER NAME …`` runs trials one after the other and
prints their outcomes as JSON. Imports and the undisturbed run are paid for once. All
trials but `limited_files` mount disks, so the process needs mounts of its own.
"""

import functools
import json
import os
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

import dask
import numpy as np
import xarray as xr

import xdreg

ROOT = Path(__file__).parents[2]
PASSED = "passed"
BLOCKS = 16

ran = []
during = None


def can_mount():
    """Return whether a process can have mounts of its own, as root or not."""
    if shutil.which("unshare") is None:
        return False
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(probe, capture_output=True).returncode == 0


def run_trials(names, folder, *, mounts):
    """Run trials in a process; return `PASSED` or a traceback by name."""
    command = [sys.executable, "-m", "tests.helpers.disks", str(folder), *names]
    done = subprocess.run(
        ["unshare", "-rm", *command] if mounts else command,
        encoding="utf-8",
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "NUMBA_NUM_THREADS": "1"},
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Method:
    """A method that is the same one whatever the trial has planned."""

    def __call__(self, fixed, moving):
        """Record the block, run what is planned, and return a small shift."""
        ran.append((float(fixed.y[0]), float(fixed.x[0])))
        if during is not None:
            during()
        return xr.DataArray(
            np.full((2, *fixed.shape), 0.03), dims=("component", *fixed.dims)
        )

    def __dask_tokenize__(self):
        return "a small shift"


def register(workdir):
    """Register in sixteen blocks, and record which of them ran."""
    ran.clear()
    stage = xdreg.Custom(method=Method(), field_step=1, isolated=False)
    fixed, moving = images()
    return xdreg.register(
        fixed, moving, stages=[stage], metric="msd", block_shape=72, overlap=4,
        workdir=workdir, progress=False,
    )  # fmt: skip


def images():
    """Return a pair of images in memory."""
    pair = xdreg.datasets.phantom_pair((288, 288), amplitude=1.0)
    return pair.fixed.compute(), pair.moving.compute()


def refused(call, *texts):
    """Check that a call ends in a StoreError that holds all texts."""
    try:
        call()
    except xdreg.StoreError as error:
        assert all(text in str(error) for text in texts), str(error)
    else:
        msg = "nothing was raised"
        raise AssertionError(msg)


def before_block(number, harm):
    """Call ``harm`` when the block of a number runs, counted from now."""
    global during
    count = []

    def watch():
        count.append(1)
        if len(count) == number:
            harm()

    during = watch


def calm():
    """Undo `before_block`."""
    global during
    during = None


def mount(*arguments):
    """Mount with these arguments."""
    subprocess.run(["mount", *map(str, arguments)], check=True)


def disk(folder, size):
    """Mount a disk of some size at a folder."""
    mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)


def resize(folder, size):
    """Change the size of such a disk."""
    mount("-o", f"remount,size={size}", folder)


def keeps_what_is_done(run, error, room, whole):
    """Check a run that ends for lack of room and is resumed once there is some."""
    refused(lambda: register(run), str(run), error, "has space", "run the same again")
    assert 0 < len(ran) < BLOCKS
    done = set(ran)
    refused(lambda: register(run), str(run), error)
    room()
    again = register(run)
    # At most the block that met the fault runs again.
    assert len(done & set(ran)) <= 1
    assert len(ran) < BLOCKS
    np.testing.assert_array_equal(again.displacement, whole.displacement)


def full_run(folder, whole):
    """Fill the disk by a run."""
    disk(folder, "300k")

    def room():
        resize(folder, "50m")

    keeps_what_is_done(folder / "run", "No space left", room, whole)


def limited_files(folder, whole):
    """Limit files to less than a patch, which needs no mount."""
    import resource

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def room():
        calm()
        limit(resource.RLIM_INFINITY)

    before_block(5, lambda: limit(20_000))
    keeps_what_is_done(folder / "run", "File too large", room, whole)


def full_output(folder, whole):
    """Fill the disk by outputs; an output that was to be replaced is kept."""
    disk(folder, "150k")
    fixed, moving = images()
    field = register(None)
    moved = field.dreg.warp(moving)
    for name, data in (("image", fixed), ("field", field), ("moved", moved)):
        target = folder / f"{name}.zarr"
        refused(
            lambda d=data, t=target: xdreg.save(d, t), str(target), "cannot be written"
        )
        assert list(folder.iterdir()) == []
    resize(folder, "50m")
    target = folder / "image.zarr"
    xdreg.save(fixed, target)
    used = os.statvfs(folder)
    resize(folder, (used.f_blocks - used.f_bfree) * used.f_bsize + 100_000)
    refused(lambda: xdreg.save(moving, target, overwrite=True), "No space left")
    np.testing.assert_array_equal(xdreg.open_ome_zarr(target, level=0), fixed)


def read_only(folder, whole):
    """Make the disk read-only during a run."""
    disk(folder, "50m")

    def harm():
        # Mounted over itself, because a remount is refused while a file is open.
        mount("--bind", folder, folder)
        mount("-o", "remount,bind,ro", folder)

    run = folder / "run"
    before_block(6, harm)
    refused(lambda: register(run), str(run), "Read-only file system")
    calm()
    refused(lambda: register(run), str(run), "Read-only file system")
    refused(lambda: register(folder / "other"), "other", "Read-only file system")
    for data in (images()[0], whole):
        target = folder / "a.zarr"
        save = functools.partial(xdreg.save, data, target)
        refused(save, f"{target} cannot be written")
    subprocess.run(["umount", folder], check=True)
    again = register(run)
    assert len(ran) == BLOCKS - 5
    np.testing.assert_array_equal(again.displacement, whole.displacement)


def _lost(folder, run, whole):
    disk(folder, "50m")
    elsewhere = folder.with_name(f"{folder.name}-elsewhere")
    elsewhere.mkdir()
    mount("--bind", folder, elsewhere)
    before_block(6, lambda: subprocess.run(["umount", "-l", folder], check=True))
    refused(lambda: register(run), str(run))
    # The fault is noticed before all blocks have run.
    assert len(ran) <= 7
    calm()
    mount("--bind", elsewhere, folder)
    again = register(run)
    assert len(ran) <= BLOCKS - 5
    np.testing.assert_array_equal(again.displacement, whole.displacement)


def lost_run(folder, whole):
    """Lose the disk that holds the work directory."""
    _lost(folder, folder / "run", whole)


def lost_folder(folder, whole):
    """Lose the disk that is the work directory."""
    _lost(folder, folder, whole)


TRIALS = {
    f.__name__: f
    for f in (full_run, limited_files, full_output, read_only, lost_run, lost_folder)
}


def main(folder, names):
    """Run trials, each in a folder of its own, and print their outcomes."""
    dask.config.set(scheduler="synchronous")
    whole = register(None).load()
    assert len(ran) == BLOCKS
    outcomes = {}
    for name in names:
        calm()
        place = Path(folder) / name
        place.mkdir()
        try:
            TRIALS[name](place, whole)
        except BaseException:
            outcomes[name] = traceback.format_exc()
        else:
            outcomes[name] = PASSED
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
