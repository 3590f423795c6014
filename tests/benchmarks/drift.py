"""Drift of a time series with known shifts, next to phase correlation."""

import numpy as np
import scipy.ndimage
import xarray as xr

import xdreg
from tests.benchmarks.common import measured, row
from xdreg.coordinates import coordinates, grid_of

#: Voxels that the phantom exceeds the frames by, on every side.
MARGIN = 12

#: Noise as a share of the brightest value; smoothing, in frames.
NOISE = 0.05
SMOOTH = 2.0


def drift(shape=(48, 96, 96), frames=40):
    """Print errors in voxels and seconds, of xdreg and of its peers."""
    series, truth = drifting(shape, frames)
    motion, _ = measured(series.isel(t=slice(3)).dreg.stabilize, progress=False)
    for label, options in (
        ("first", {}),
        ("first, smooth", {"smooth": SMOOTH}),
        ("mean", {"reference": "mean"}),
        ("previous", {"reference": "previous"}),
    ):
        motion, spent = measured(series.dreg.stabilize, progress=False, **options)
        _row(f"drift xdreg {label}", motion.matrix.values[:, :-1, -1], truth, spent)
    for tool, function in (("skimage", _by_skimage), ("stitcher", _by_stitcher)):
        try:
            shifts, spent = measured(function, series)
        except ImportError as error:
            print(f"drift {tool}: {error}")
        else:
            _row(f"drift {tool}", shifts, truth, spent)


def drifting(shape, frames, noise=NOISE, seed=0):
    """Return a series that drifts smoothly, and its shifts in voxels (t, ndim)."""
    wide = tuple(n + 2 * MARGIN for n in shape)
    still = xdreg.datasets.phantom_pair(wide, amplitude=0.01, noise=0).fixed
    values, rng = still.values.astype(np.float32), np.random.default_rng(seed)
    times = np.linspace(0, 1, frames)
    turns, starts = rng.uniform(1, 3, len(shape)), rng.uniform(0, 6, len(shape))
    shifts = 5 * (np.sin(turns * times[:, None] * 3 + starts) - np.sin(starts))
    inner = (slice(MARGIN, -MARGIN),) * len(shape)
    images = [
        scipy.ndimage.shift(values, shift, order=3)[inner]
        + rng.standard_normal(shape) * noise * values.max()
        for shift in shifts
    ]
    grid = grid_of(still[inner])
    series = xr.DataArray(
        np.stack(images).astype(np.float32), coordinates(grid), ("t", *grid.dims)
    )
    return series, shifts


def _row(name, shifts, truth, spent):
    error = np.linalg.norm(shifts - (truth - truth[0]), axis=1)
    row(
        name,
        mean=float(error.mean()),
        largest=float(error.max()),
        seconds=spent[0],
        cpu=spent[1],
    )


def _by_skimage(series):
    from skimage.registration import phase_cross_correlation

    first = series[0].values
    return np.stack(
        [
            -phase_cross_correlation(first, frame.values, upsample_factor=20)[0]
            for frame in series
        ]
    )


def _by_stitcher(series):
    from multiview_stitcher.registration import phase_correlation_registration

    first, shifts = series[0], []
    for frame in series:
        found = phase_correlation_registration(first, frame)
        shifts.append(np.asarray(found["affine_matrix"])[:-1, -1])
    return np.stack(shifts)
