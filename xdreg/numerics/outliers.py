"""Pairs of points that do not fit the others, by a linear or a smooth map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.distance import cdist

from xdreg.numerics.consensus import find_consensus, fit_linear

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xdreg.stages import Kind

    Array = NDArray[np.float64]

#: A pair is an outlier of a smooth map if what the others predict of it is off by more
#: than this many times the usual. Of 300 exact pairs of a real deformation the farthest
#: is off by 4.7 times, the one wrong landmark of a lung by 7.8 times.
SMOOTH_LIMIT = 5.0

#: Noise of a point as a share of the usual distance between neighbours.
NOISE = 0.5

#: Of few pairs, one is an outlier if the fit to the others is off there by more than
#: this many standard deviations.
FEW_LIMIT = 6.0

#: Deviations below this share of the extent are rounding.
ROUNDING = 1e-6

#: Largest difference of the displacements of two points relative to their distance.
#: A smooth map that has both does not fold between them.
STEEPEST = 0.8


def fewest(kind: str, ndim: int) -> int:
    """Return how many pairs of points a kind of transform needs."""
    return {"translation": 1, "rigid": ndim, "similarity": ndim}.get(kind, ndim + 1)


def agree_linearly(fixed: Array, moving: Array, kind: Kind) -> NDArray[np.bool_]:
    """Return which pairs ``(n, ndim)`` one linear transform of a kind fits.

    Of twice as many pairs as a transform needs, and two more, up to half may be wrong.
    Of fewer, single ones are found by the fit without them.
    """
    count, ndim = fixed.shape
    least = ROUNDING * float(np.ptp(moving, axis=0).max(initial=0))
    if count >= 2 * (fewest(kind, ndim) + 1):
        each = fixed[:, None], moving[:, None]
        return find_consensus(*each, kind=kind, tolerance=least).agrees
    agrees = np.ones(count, bool)
    while agrees.sum() >= fewest(kind, ndim) + 2:
        numbers = np.flatnonzero(agrees)
        groups = (np.delete(numbers, i) for i in range(len(numbers)))
        tried = [_without(fixed, moving, group, kind) for group in groups]
        spread = [rest for rest, _ in tried]
        which = int(np.argmin(spread))
        away = tried[which][1][numbers[which]]
        if away <= max(FEW_LIMIT * spread[which], least):
            break
        agrees[numbers[which]] = False
    return agrees


def _without(
    fixed: Array, moving: Array, used: NDArray[np.intp], kind: Kind
) -> tuple[float, Array]:
    """Return the standard deviation of a fit to some pairs, and all distances."""
    matrix = fit_linear(fixed[used], moving[used], np.ones(len(used)), kind)
    gap = np.linalg.norm(fixed @ matrix[:-1, :-1].T + matrix[:-1, -1] - moving, axis=1)
    ndim = fixed.shape[1]
    free = ndim * (len(used) - fewest(kind, ndim))
    return float(np.sqrt((gap[used] ** 2).sum() / free)), gap


def agree_smoothly(fixed: Array, moving: Array) -> NDArray[np.bool_]:
    """Return which pairs ``(n, ndim)`` one smooth map fits.

    Every pair is predicted from all others by kriging with a linear variogram, and
    compared with what is usual at its distance from them. The worst is left out, again
    and again.

    References
    ----------
    Dubrule, *Cross validation of kriging in a unique neighborhood*, Mathematical
    Geology 1983.
    """
    count, ndim = fixed.shape
    kept = np.arange(count)
    if count < 2 * (ndim + 2):
        return np.ones(count, bool)
    inverse = _kriging_inverse(fixed)
    moved = np.concatenate([moving - fixed, np.zeros((ndim + 1, ndim))])
    extent = float(np.ptp(fixed, axis=0).max())
    while len(kept) >= 2 * (ndim + 2):
        own = np.diag(inverse)[: len(kept)]
        error = np.linalg.norm(inverse[: len(kept)] @ moved, axis=1) / np.abs(own)
        unusual = error * np.sqrt(np.abs(own))
        worst = int(unusual.argmax())
        if (
            unusual[worst] <= SMOOTH_LIMIT * np.median(unusual)
            or error[worst] <= ROUNDING * extent
        ):
            break
        # The inverse without a row and column, from that with them.
        column = inverse[:, worst]
        inverse = inverse - np.outer(column, column) / column[worst]
        rest = np.delete(np.arange(len(inverse)), worst)
        inverse, moved = inverse[np.ix_(rest, rest)], moved[rest]
        kept = np.delete(kept, worst)
    agrees = np.zeros(count, bool)
    agrees[kept] = True
    return agrees


def _kriging_inverse(points: Array) -> Array:
    """Return the inverse of the matrix of kriging with a linear trend."""
    count, ndim = points.shape
    apart = cdist(points, points)
    nearest = np.where(apart > 0, apart, np.inf).min(axis=1)
    centred = points - points.mean(axis=0)
    trend = np.concatenate([np.ones((count, 1)), centred / centred.std()], axis=1)
    matrix = np.zeros((count + ndim + 1,) * 2)
    matrix[:count, :count] = NOISE * np.median(nearest) * np.eye(count) - apart
    matrix[:count, count:], matrix[count:, :count] = trend, trend.T
    return np.asarray(np.linalg.inv(matrix), np.float64)


def joinable(fixed: Array, moving: Array) -> NDArray[np.bool_]:
    """Return which pairs ``(n, ndim)`` one map without folds can have together.

    Of two that exclude each other, the one that excludes more others is left out, else
    the later. Both are compared after the linear part that those left have in common,
    if it is known.
    """
    joined = np.ones(len(fixed), bool)
    while joined.any():
        numbers = np.flatnonzero(joined)
        conflicts = _excluded(fixed[joined], moving[joined]).sum(axis=1)
        if not conflicts.any():
            break
        joined[numbers[len(numbers) - 1 - conflicts[::-1].argmax()]] = False
    return joined


def _excluded(fixed: Array, moving: Array) -> NDArray[np.bool_]:
    """Return which pairs exclude each other, (n, n)."""
    count, ndim = fixed.shape
    place = fixed
    if count > ndim + 1 and np.linalg.matrix_rank(fixed - fixed.mean(axis=0)) == ndim:
        matrix = fit_linear(fixed, moving, np.ones(count), "affine")
        place = fixed @ matrix[:-1, :-1].T + matrix[:-1, -1]
    moved = moving - place
    apart, change = cdist(place, place), cdist(moved, moved)
    excluded = (change > STEEPEST * apart) | ((apart == 0) & (change > 0))
    np.fill_diagonal(excluded, val=False)
    return np.asarray(excluded)
