"""The foreground of an image: what is not a uniform background around it.

Background is what reaches the image's border and is of one value there but for noise.
Thresholds between two classes, as of Otsu or of the triangle, always split an image,
also one that is filled; here an image without such a border is foreground all over.
Padding, of exactly one value, may lie around it, as around the cone of a scanner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: The background is looked for at the shortest interval of values that holds this share
#: of the border's voxels.
BORDER_SHARE = 0.3

#: Half the width of that interval, in standard deviations of a normal distribution.
BORDER_QUANTILE = 0.385

#: It is one if its standard deviation is below this share of the image's range, which
#: is 0.15 in an image of pure noise and 0.01 or less in real backgrounds, ...
NARROW = 0.02

#: ... and if it lies this near to the dark or to the bright end of the range. Uniform
#: tissue that fills an image up to its border lies between.
NEAR_DARK = 0.2
NEAR_BRIGHT = 0.1

#: Values within so many standard deviations, and within this share of the range, are
#: background where they are connected to the border.
DEVIATIONS = 4.0
LEAST_WIDTH = 0.01

#: Share of voxels that the range of an image leaves out at either end.
TAIL = 5e-4

#: Backgrounds of less than this share of the image are not worth a mask.
LEAST_BACKGROUND = 0.01

#: Pieces smaller than this share of the largest are specks.
SPECK = 0.01

#: Voxels by which the foreground is closed, and then widened, so that the edge of the
#: tissue is inside together with the box that local correlation compares there.
MARGIN = {2: 5, 3: 3}


def foreground(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Separate the foreground of a small image from its background.

    Parameters
    ----------
    values : ([z], y, x)
        An image at a coarse level; NaN does not count.

    Returns
    -------
    bool, of the same shape
        All true where there is no background.

    Examples
    --------
    >>> image = np.zeros((40, 40), np.float32)
    >>> image[15:25, 15:25] = 1
    >>> mask = foreground(image)
    >>> bool(mask[12, 20]), bool(mask[2, 2])
    (True, False)
    """
    whole = np.isfinite(values)
    inside = _without_padding(values, whole)
    background = _background(values, inside)
    if background is not None:
        inside = inside & ~background
    dropped = whole & ~inside
    if dropped.sum() < LEAST_BACKGROUND * values.size or not inside.any():
        return np.ones(values.shape, bool)
    return _tidied(inside)


def _without_padding(
    values: NDArray[np.float32], inside: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return what is inside but for pieces of an extreme value that reach the border.

    Noise has no value that many voxels share.
    """
    for extreme in (np.min, np.max):
        known = values[inside]
        if not known.size or known.min() == known.max():
            break
        same = inside & (values == extreme(known))
        if same.sum() >= LEAST_BACKGROUND * values.size:
            inside = inside & ~_reaching(same, _shell(inside))
    return inside


def _background(
    values: NDArray[np.float32], inside: NDArray[np.bool_]
) -> NDArray[np.bool_] | None:
    """Return the uniform part of what is inside that reaches its border, if any."""
    border = _shell(inside)
    if not border.any():
        return None
    smooth = _smoothed(values, inside)
    low, high = np.quantile(smooth[inside], [TAIL, 1 - TAIL])
    centre, deviation = _densest(smooth[border])
    span = high - low
    between = low + NEAR_DARK * span < centre < high - NEAR_BRIGHT * span
    if span == 0 or deviation > NARROW * span or between:
        return None
    width = max(DEVIATIONS * deviation, LEAST_WIDTH * span)
    return _reaching(inside & (np.abs(smooth - centre) <= width), border)


def _shell(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the outermost voxels of what is inside."""
    return np.asarray(inside & ~ndimage.binary_erosion(inside, _box(inside.ndim)))


def _reaching(part: NDArray[np.bool_], border: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pieces of a part that reach the border."""
    labels, _ = ndimage.label(part)
    touching = np.unique(labels[border])
    return np.asarray(np.isin(labels, touching[touching > 0]))


def _smoothed(
    values: NDArray[np.float32], inside: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return means over three voxels per axis of what is inside."""
    known = np.where(inside, values, 0).astype(np.float64)
    total = ndimage.uniform_filter(known, 3, mode="constant")
    share = ndimage.uniform_filter(inside.astype(np.float64), 3, mode="constant")
    return np.asarray(total / np.maximum(share, 1e-9))


def _densest(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return where values lie closest, and the standard deviation around there."""
    ordered = np.sort(values)
    count = max(2, round(BORDER_SHARE * ordered.size))
    if count > ordered.size:
        return float(ordered[0]), 0.0
    widths = ordered[count - 1 :] - ordered[: ordered.size - count + 1]
    first = int(np.argmin(widths))
    centre = float(np.median(ordered[first : first + count]))
    return centre, float(widths[first]) / (2 * BORDER_QUANTILE)


def _tidied(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Drop specks, close gaps, fill holes and add a margin."""
    labels, count = ndimage.label(mask, _box(mask.ndim))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    mask = (sizes >= SPECK * sizes.max())[labels]
    margin = MARGIN[mask.ndim]
    # With room around, or what touches the image's border would be taken off there.
    mask = np.pad(mask, margin)
    mask = _filled(ndimage.binary_closing(mask, _box(mask.ndim), margin))
    mask = ndimage.binary_dilation(mask, _box(mask.ndim), margin)
    return np.asarray(mask[tuple(slice(margin, -margin) for _ in mask.shape)])


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill what is enclosed in any plane: a hollow organ may be cut by the border."""
    mask = ndimage.binary_fill_holes(mask)
    if mask.ndim == 3:
        for axis in range(3):
            planes = np.moveaxis(mask, axis, 0)
            filled = np.stack([ndimage.binary_fill_holes(plane) for plane in planes])
            mask = np.moveaxis(filled, 0, axis)
    return np.asarray(mask)


def _box(ndim: int) -> NDArray[np.bool_]:
    """Return a voxel with all of its neighbours."""
    return np.ones((3,) * ndim, bool)
