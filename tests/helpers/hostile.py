"""Methods that crash, hang, exhaust memory or kill their worker in some blocks.

Engine processes load this module, so it imports little.
"""

import ctypes
import os
import signal
import time
import zlib
from pathlib import Path

import numpy as np
import xarray as xr

from xdreg.coordinates import grid_of


def chosen(grid, share, seed=0):
    """Return whether a block is to fail, by a hash of its position."""
    place = np.round(grid.centre, 3).tobytes()
    return zlib.crc32(place, seed) % 1000 < 1000 * share


def shift(fixed, moving, *, voxels=2.0):
    """Return a shift along x: a method that works."""
    grid = grid_of(fixed)
    values = np.zeros((grid.ndim, *grid.shape), np.float32)
    values[-1] = voxels
    return xr.DataArray(values, dims=("component", *grid.dims))


def harm(kind):
    """Crash, hang or fail in the way that is named."""
    if kind in ("segfault", "always"):
        ctypes.string_at(0)
    if kind == "abort":
        os.abort()
    if kind == "hang":
        # PyDLL keeps the GIL, as native code does.
        ctypes.PyDLL(None).sleep(600)
    if kind == "sleep":
        time.sleep(600)
    if kind == "memory":
        held = []
        while sum(map(len, held)) < 8e9:
            held.append(np.ones(4_000_000, np.uint8))
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "raise":
        msg = "deliberate"
        raise RuntimeError(msg)


def hostile(
    fixed,
    moving,
    *,
    kind,
    share=0.25,
    seed=0,
    once=None,
    log=None,
    gate=None,
    voxels=2.0,
):
    """Fail in a share of the blocks, and shift the others.

    Parameters
    ----------
    once
        A directory. A block leaves its name there and fails only the first time,
        except for kind ``always``. Once a file ``calm`` is there, no block fails.
    log
        A directory where every call leaves a file named after the block's position.
    gate
        A directory. The call of a number waits until a file there has a name as large.
    """
    grid = grid_of(fixed)
    name = "_".join(f"{v:g}" for v in grid.origin)
    if log is not None:
        (Path(log) / f"{name}-{time.monotonic_ns()}").touch()
    if gate is not None:
        number = len(list(Path(log).iterdir()))
        while number > max(int(file.name) for file in Path(gate).iterdir()):
            time.sleep(0.05)
    if chosen(grid, share, seed):
        seen = None if once is None else Path(once) / name
        calm = seen is not None and seen.with_name("calm").exists()
        before = seen is not None and seen.exists()
        if seen is not None:
            seen.touch()
        if not calm and (kind == "always" or not before):
            harm(kind)
    return shift(fixed, moving, voxels=voxels)
