"""Similarity of images, and errors of a registration against the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xdreg.errors import InputError
from xdreg.numerics.point_tables import paired_names, read_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray


def normalised_correlation(
    a: ArrayLike, b: ArrayLike, mask: ArrayLike | None = None
) -> float:
    """Return the normalised cross-correlation of two images, NaN if either is constant.

    Voxels that are not finite in both or outside ``mask`` are ignored.
    """
    x, y = _samples(a, b, mask)
    if x.size < 2:
        return float("nan")
    x = x - x.mean()
    y = y - y.mean()
    norm = np.sqrt(np.dot(x, x) * np.dot(y, y))
    return float(np.dot(x, y) / norm) if norm > 0 else float("nan")


def mutual_information(
    a: ArrayLike, b: ArrayLike, mask: ArrayLike | None = None
) -> float:
    """Return the mutual information of two images' intensities, in nats.

    From a joint histogram between the 0.5 and 99.5 % quantiles. Voxels that are not
    finite in both or outside ``mask`` are ignored. NaN if either image is constant.
    """
    x, y = _samples(a, b, mask)
    if x.size < 2:
        return float("nan")
    edges = [np.quantile(v, (0.005, 0.995)) for v in (x, y)]
    if any(high <= low for low, high in edges):
        return float("nan")
    clipped = [
        np.clip(v, low, high) for v, (low, high) in zip((x, y), edges, strict=True)
    ]
    joint, _, _ = np.histogram2d(clipped[0], clipped[1], bins=32)
    p = joint / joint.sum()
    outer = p.sum(axis=1, keepdims=True) * p.sum(axis=0, keepdims=True)
    filled = p > 0
    return float((p[filled] * np.log(p[filled] / outer[filled])).sum())


def target_registration_error(
    fixed: Any, moving: Any, spacing: Sequence[float] | None = None
) -> NDArray[np.float64]:
    """Return the distance of each pair of corresponding points.

    Parameters
    ----------
    fixed : (n, ndim)
        Fixed landmarks *after* mapping into the moving space: an array in dims order,
        or a table as `xdreg.transform_points` takes it.
    moving : (n, ndim)
        Their counterparts.
    spacing : (ndim,), optional
        Divide by the voxel size to get the error in voxels.

    Returns
    -------
    (n,)

    Examples
    --------
    >>> target_registration_error([[0, 0], [3, 4]], [[0, 0], [0, 0]])
    array([0., 5.])
    """
    first, second = (read_table(points, None) for points in (fixed, moving))
    a, b = first.values, second.values
    if a.shape != b.shape:
        msg = (
            "corresponding points must be two arrays of the same shape (n, ndim), got "
            f"{a.shape} and {b.shape}"
        )
        raise InputError(msg)
    paired_names(first.names, second.names)
    scale = np.ones(a.shape[1]) if spacing is None else np.asarray(spacing, float)
    return np.asarray(np.linalg.norm((a - b) / scale, axis=1))


def dice(a: ArrayLike, b: ArrayLike) -> dict[int, float]:
    """Return the Dice coefficient of every label that is in both label images.

    Parameters
    ----------
    a, b : integer arrays of one shape
        Label images on one grid; zero is background.

    Returns
    -------
    dict of label to Dice coefficient, 0 to 1

    Examples
    --------
    >>> dice([0, 1, 1, 2], [0, 1, 2, 2])
    {1: 0.6666666666666666, 2: 0.6666666666666666}
    """
    x, y = np.asarray(a).ravel(), np.asarray(b).ravel()
    labels = np.intersect1d(np.unique(x), np.unique(y))
    result = {}
    for label in labels[labels != 0]:
        in_a, in_b = x == label, y == label
        result[int(label)] = float(2 * (in_a & in_b).sum() / (in_a.sum() + in_b.sum()))
    return result


def _samples(
    a: ArrayLike, b: ArrayLike, mask: ArrayLike | None
) -> tuple[NDArray[Any], NDArray[Any]]:
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    keep = np.isfinite(x) & np.isfinite(y)
    if mask is not None:
        keep &= np.asarray(mask, bool)
    return x[keep], y[keep]
