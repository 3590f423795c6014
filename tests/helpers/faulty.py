"""A method that fails in some blocks."""

import zlib

import numpy as np
import xarray as xr

from tests.helpers.hostile import chosen
from xdreg.coordinates import coordinates, grid_of
from xdreg.engines.local_correlation import local_correlation


def wave(grid, voxels):
    """Return a smooth field of one period per window and a given amplitude."""
    place = np.indices(grid.shape) / np.reshape(grid.shape, (-1,) + (1,) * grid.ndim)
    field = np.stack(
        [np.sin(2 * np.pi * place[(i + 1) % grid.ndim]) for i in range(grid.ndim)]
    )
    return voxels * np.reshape(grid.spacing, (-1,) + (1,) * grid.ndim) * field


def garbage(kind, grid):
    """Return the displacement of a block that found nothing, or raise."""
    shape = (grid.ndim, *grid.shape)
    spacing = np.reshape(grid.spacing, (-1,) + (1,) * grid.ndim)
    if kind == "raise":
        msg = "deliberate"
        raise RuntimeError(msg)
    if kind == "noise":
        seed = zlib.crc32(np.round(grid.centre, 3).tobytes())
        return 30 * spacing * np.random.default_rng(seed).standard_normal(shape)
    amount = {"zero": 0.0, "nan": np.nan}[kind]
    return np.full(shape, amount)


def faulty(fixed, moving, *, kind, share=0.2, seed=0, **options):
    """Register by local correlation, with garbage in some blocks."""
    grid = grid_of(fixed)
    bad = chosen(grid, share, seed)
    if bad and kind not in ("shift", "wave"):
        return xr.DataArray(
            garbage(kind, grid).astype(np.float32),
            dims=("component", *grid.dims),
            coords=coordinates(grid),
        )
    found = local_correlation(fixed, moving, **options).displacement
    # Plausible: the right displacement plus a smooth error.
    if bad and kind == "shift":
        return found + np.float32(3.0 * grid.spacing[-1])
    if bad and kind == "wave":
        return found + wave(grid, 6.0).astype(np.float32)
    return found
