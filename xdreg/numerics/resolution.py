"""Blur that gives two images the same resolution along every axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Lengths = Sequence[float] | NDArray[np.float64]

#: Ratio of voxel sizes from which the finer image is blurred.
MUCH_COARSER = 1.6


def blurs(
    fixed: Lengths, moving: Lengths, jacobian: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sigmas per axis, in own voxels, that blur each image like the other.

    ``fixed`` and ``moving`` are their spacings, ``jacobian`` (ndim, ndim) that of the
    map between them. An image whose voxels are a little finer is not blurred.
    """
    seen_by_fixed = np.hypot.reduce(np.linalg.inv(jacobian) * moving, axis=1)
    seen_by_moving = np.hypot.reduce(jacobian * fixed, axis=1)
    return _sigma(fixed, seen_by_fixed), _sigma(moving, seen_by_moving)


def _sigma(own: Lengths, other: Lengths) -> NDArray[np.float64]:
    """Return the sigma that makes voxels as wide as others.

    A voxel of length ``s`` is a mean, of variance ``s² / 12``.
    """
    ratio = np.divide(other, own)
    added = np.maximum(ratio**2 - 1, 0) / 12
    return np.where(ratio >= MUCH_COARSER, np.sqrt(added), 0.0)


def blurred(
    values: NDArray[np.float32], sigma: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return a blurred image; NaN has no weight, and remains."""
    if not sigma.any():
        return values
    known = np.isfinite(values)
    if known.all():
        return np.asarray(ndimage.gaussian_filter(values, sigma, mode="nearest"))
    total = ndimage.gaussian_filter(np.where(known, values, np.float32(0)), sigma)
    weight = ndimage.gaussian_filter(known.astype(np.float32), sigma)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, total / weight, np.float32(np.nan))
