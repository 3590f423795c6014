"""Slow differences of brightness between two images that lie on one another.

Local correlation ignores a factor that is constant within a box. A factor that changes
there moves what is seen: a spot of width s by s² times the factor's relative slope.
Light that is absorbed on opposite ways through a sample, and the coils of a scanner,
have such factors.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float32]
    Values = NDArray[np.float64]

#: Cells per axis of a box in which two images are compared, and of a whole image.
CELLS = 3
LEAST_CELLS = 6

#: Least share of the variation of the ratio that a slow factor explains, and least
#: standard deviation of its logarithm. Factors put on phantoms and brains explain 0.57
#: to 0.97. Without them it is 0.5 or less in these pairs, in mice, and in lungs.
LEAST_EXPLAINED = 0.5
LEAST_SPREAD = 0.1

#: Least contrast of a box, as a share of the mean variance.
LEAST_VARIANCE = 1e-3

#: Least share of a box that is known.
LEAST_KNOWN = 0.5

#: Least number of boxes, their least mean squared correlation, and the least share by
#: which one sign of it prevails. Two stains have other reasons to differ in contrast.
LEAST_BOXES = 50
LEAST_CORRELATION = 0.5
LEAST_AGREED = 0.8


def matched_brightness(
    fixed: Array, moving: Array, radius: tuple[int, int, int]
) -> Array:
    """Return ``fixed`` without a slow factor that ``moving`` does not have.

    The logarithm of the factor is a polynomial of second order, fitted to the ratio of
    the images' local standard deviations and weighted by their squared correlation. A
    constant that is added to ``fixed`` is fitted as well.

    Parameters
    ----------
    fixed, moving : (z, y, x) float32
        Images on one grid, roughly registered, NaN where unknown.
    radius
        Half-width of the boxes in voxels (z, y, x), 0 along an axis of one voxel.

    Returns
    -------
    (z, y, x) float32
        ``fixed`` itself if there is no such factor.
    """
    factors = tuple(
        max(1, min((2 * r + 1) // CELLS, n // LEAST_CELLS))
        for r, n in zip(radius, fixed.shape, strict=True)
    )
    boxes = _compare(fixed, moving, factors)
    if boxes is None:
        return fixed
    terms, root = _polynomials(boxes.places, fixed.shape), np.sqrt(boxes.weights)
    fit, *_ = np.linalg.lstsq(terms * root[:, None], boxes.ratios * root)
    slow = terms @ fit
    spread, whole, rest = (
        boxes.spread(values) for values in (slow, boxes.ratios, boxes.ratios - slow)
    )
    if spread < LEAST_SPREAD or rest**2 > (1 - LEAST_EXPLAINED) * whole**2:
        return fixed
    # The mean brightness stays.
    fit[0] -= np.average(slow, weights=boxes.weights)
    added = boxes.added(np.exp(terms @ fit))
    axes = [np.arange(n, dtype=float) for n in fixed.shape]
    result = np.empty_like(fixed)
    for z, plane in enumerate(fixed):
        places = np.stack(np.meshgrid(z, *axes[1:], indexing="ij"), axis=-1)[0]
        factor = np.exp(_polynomials(places, fixed.shape) @ fit)
        result[z] = (plane - added) / factor + added
    return result


@dataclass(frozen=True)
class _Boxes:
    """Statistics of the boxes in which both images have contrast.

    ``places`` (n, 3) are their middles in voxels, ``ratios`` the logarithms of fixed's
    standard deviations relative to moving's, ``means`` (2, n) those of both images,
    ``weights`` their squared correlation, and ``sign`` that of their covariance.
    """

    places: Values
    ratios: Values
    means: Values
    weights: Values
    sign: float

    def spread(self, values: Values) -> float:
        """Return the standard deviation of values."""
        mean = np.average(values, weights=self.weights)
        return float(np.sqrt(np.average((values - mean) ** 2, weights=self.weights)))

    def added(self, factor: Values) -> float:
        """Return the constant that fixed has besides a factor per box.

        With a constant in moving, too, the mean of fixed is a linear function of the
        factor, next to the mean of moving times the factor.
        """
        slope = self.sign * np.exp(np.average(self.ratios, weights=self.weights))
        left = self.means[0] - slope * factor * self.means[1]
        terms = np.stack([np.ones_like(factor), factor], axis=1)
        root = np.sqrt(self.weights)
        fit, *_ = np.linalg.lstsq(terms * root[:, None], left * root)
        return float(fit[0])


def _compare(fixed: Array, moving: Array, factors: tuple[int, ...]) -> _Boxes | None:
    """Return the statistics of boxes of cells of ``factors`` voxels, if they serve."""
    known = np.isfinite(fixed) & np.isfinite(moving)
    if not known.any():
        return None
    # Far from zero, single precision would not hold the squares.
    middles = [np.mean(image[known], dtype=np.float64) for image in (fixed, moving)]
    first, second = (
        np.where(known, image - np.float32(middle), np.float32(0))
        for image, middle in zip((fixed, moving), middles, strict=True)
    )
    shares = _box_means(known.astype(np.float32), factors)
    products = first, second, first * first, second * second, first * second
    a, b, aa, bb, ab = (
        _box_means(values, factors) / np.maximum(shares, 1e-9) for values in products
    )
    aa, bb, ab = aa - a * a, bb - b * b, ab - a * b
    serves = shares > LEAST_KNOWN
    for variance in (aa, bb):
        typical = variance[serves].mean() if serves.any() else 0.0
        serves &= variance > max(LEAST_VARIANCE * typical, 0.0)
    if serves.sum() < LEAST_BOXES:
        return None
    weights = ab[serves] ** 2 / (aa[serves] * bb[serves])
    sign = float(np.average(np.sign(ab[serves]), weights=weights))
    if weights.mean() < LEAST_CORRELATION or abs(sign) < LEAST_AGREED:
        return None
    return _Boxes(
        np.asarray((np.argwhere(serves) + 0.5) * factors - 0.5, np.float64),
        0.5 * np.log(aa[serves] / bb[serves]),
        np.stack([a[serves] + middles[0], b[serves] + middles[1]]),
        weights,
        np.sign(sign),
    )


def _box_means(values: Array, factors: tuple[int, ...]) -> Values:
    """Return the means of boxes of `CELLS` cells around every cell, zero beyond."""
    pairs = [(n // k, k) for n, k in zip(values.shape, factors, strict=True)]
    whole = values[tuple(slice(n * k) for n, k in pairs)]
    cells = whole.reshape([size for pair in pairs for size in pair])
    means = cells.mean(axis=(1, 3, 5), dtype=np.float64)
    sizes = [CELLS if n > 1 else 1 for n in values.shape]
    return np.asarray(ndimage.uniform_filter(means, sizes, mode="constant"))


def _polynomials(places: Values, shape: tuple[int, ...]) -> Values:
    """Return the terms of a polynomial of second order at places (..., 3)."""
    along = 2 * places / np.maximum(np.array(shape) - 1, 1) - 1
    axes = [along[..., i] for i, n in enumerate(shape) if n > 1]
    pairs = combinations_with_replacement(axes, 2)
    return np.stack([np.ones(along.shape[:-1]), *axes, *(a * b for a, b in pairs)], -1)
