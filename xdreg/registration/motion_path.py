"""The path of a time series: which frames to believe, and transforms for all of them.

A transform is handled by where it maps the corners of the image. Along time these are
blocks in a row: frames that contradict their neighbours are found as blocks are.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from xdreg.numerics.consensus import fit_linear
from xdreg.partition import BlockStatus
from xdreg.registration.agreement import outliers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xdreg.grid import Grid
    from xdreg.stages import Kind

    Array = NDArray[np.float64]

#: Frames on either side of one whose usual score it is compared with.
NEAR = 5

#: A frame whose score is below this share of the usual one is blurred, or shows
#: something else. Less is asked before deformable stages: the frame may be deformed.
UNLIKE, UNLIKE_BEFORE = 0.6, 0.3

#: A frame that contradicts its neighbours is believed nevertheless, as after a jump, if
#: its score is above this share of the usual one.
ALIKE = 0.9

#: Weights of a Gaussian end beyond this many standard deviations.
REACH = 4.0


def corners_of(grid: Grid) -> Array:
    """Return the corners of an image (n, ndim), in physical units."""
    first, last = (
        grid.index_to_physical([0] * grid.ndim),
        grid.index_to_physical([n - 1 for n in grid.shape]),
    )
    # A flat axis still has two ends, for fits to have a volume.
    last = np.where(last == first, first + grid.spacing, last)
    return np.array(list(itertools.product(*zip(first, last, strict=True))))


def moved(matrices: Array, corners: Array) -> Array:
    """Return where transforms (t, ndim + 1, ndim + 1) map points, (t, n, ndim)."""
    return corners @ matrices[:, :-1, :-1].swapaxes(1, 2) + matrices[:, None, :-1, -1]


@dataclass(frozen=True)
class Judged:
    """Frames with their status, and those to be tried again from their neighbours."""

    status: NDArray[np.int64]
    doubtful: NDArray[np.bool_]


def judge_frames(
    matrices: Array,
    scores: Array,
    status: NDArray[np.int64],
    grid: Grid,
    unlike: float = UNLIKE,
) -> Judged:
    """Return the status of every frame by the others.

    ``scores`` and ``matrices`` are NaN for frames without a result.
    """
    usual = usual_scores(scores, status)
    status = without_unlike(scores, status, unlike)
    places = moved(matrices, corners_of(grid)) / grid.spacing
    gaps = np.full((len(status), 3), np.nan, np.float32)
    good = np.flatnonzero(status == BlockStatus.SUCCESS)
    # Frames without a result are skipped: those around them are neighbours.
    steps = np.sqrt(((places[good[1:]] - places[good[:-1]]) ** 2).sum(-1).mean(-1))
    gaps = gaps[: len(good)]
    # A steady motion contradicts nothing.
    gaps[:-1, 2] = np.maximum(steps - np.median(steps), 0) if len(steps) else 0
    rejected, _ = outliers(status[good], gaps, scores[good], np.inf)
    doubtful = np.zeros(len(status), bool)
    doubtful[good[rejected]] = True
    # A doubtful frame of a usual score stays, as after a jump.
    return Judged(status, doubtful & ~(scores > ALIKE * usual))


def without_unlike(
    scores: Array, status: NDArray[np.int64], unlike: float = UNLIKE
) -> NDArray[np.int64]:
    """Return the status of frames with those rejected that are unlike the others."""
    good = status == BlockStatus.SUCCESS
    low = good & (scores < unlike * usual_scores(scores, status))
    return np.where(low, BlockStatus.REJECTED, status)


def usual_scores(scores: Array, status: NDArray[np.int64]) -> Array:
    """Return the median score of the frames around each."""
    known = np.where(status == BlockStatus.SUCCESS, scores, np.nan)
    padded = np.pad(known, NEAR, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * NEAR + 1).copy()
    windows[:, NEAR] = np.nan
    result = np.full(len(scores), np.nan)
    some = np.isfinite(windows).any(axis=1)
    result[some] = np.nanmedian(windows[some], axis=1)
    return result


def time_weights(times: Array, good: NDArray[np.bool_], smooth: float | None) -> Array:
    """Return weights (t, t) by which the frames' displacements make those of all.

    Frames that are not good have no weight. Without smoothing each good frame is its
    own, and the others are interpolated linearly. With a standard deviation, straight
    lines are fitted with weights of a Gaussian, so that the ends are not drawn inwards.
    """
    own = np.flatnonzero(good)
    if smooth is None:
        weights = np.zeros((len(times), len(times)))
        for place in own:
            impulse = np.zeros(len(own))
            impulse[own == place] = 1
            weights[:, place] = np.interp(times, times[own], impulse)
        return weights
    return np.stack([_line_weights(times, own, at, smooth) for at in times])


def _line_weights(
    times: Array, own: NDArray[np.intp], at: float, smooth: float
) -> Array:
    """Return the weights of a line fitted around a time, evaluated there."""
    gap = times[own] - at
    # In a gap of frames that do not count the nearest do.
    width = max(smooth, np.abs(gap).min() / 2)
    share = np.exp(-0.5 * (gap / width) ** 2) * (np.abs(gap) <= REACH * width)
    total, first, second = (float((share * gap**k).sum()) for k in range(3))
    spread = total * second - first**2
    straight = spread > 1e-9 * total**2 * width**2
    values = share * (second - first * gap) / spread if straight else share / total
    weights = np.zeros(len(times))
    weights[own] = values
    return weights


def followed(matrices: Array, weights: Array, grid: Grid, kind: Kind) -> Array:
    """Return transforms of a kind for all frames, by weights of `time_weights`."""
    corners = corners_of(grid)
    own = np.flatnonzero(weights.any(axis=0))
    targets = moved(matrices[own], corners)
    result = []
    for row in weights[:, own]:
        only = np.flatnonzero(row)
        if len(only) == 1 and row[only[0]] == 1:
            result.append(matrices[own[only[0]]])
            continue
        place = np.tensordot(row, targets, 1)
        result.append(fit_linear(corners, place, np.ones(len(corners)), kind))
    return np.stack(result)
