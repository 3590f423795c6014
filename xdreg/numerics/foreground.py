"""Separation of the foreground of an image from a uniform background around it.

Background reaches the image's border and has one value but for noise. Thresholds
between two classes, such as Otsu's or the triangle method, split any image. Here an
image without such a border is all foreground. Padding of exactly one value may surround
the background, as around the cone of a scanner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.float32]
    Mask = NDArray[np.bool_]

#: The background's value is in the shortest interval that contains this share of the
#: border's voxels.
BORDER_SHARE = 0.3

#: Half the width of that interval, in standard deviations of a normal distribution.
BORDER_QUANTILE = 0.385

#: Largest standard deviation of a background, as a share of the image's range. It is
#: 0.15 in pure noise and 0.01 or less in real backgrounds.
NARROW = 0.02

#: Largest distance of a background from the dark and from the bright end of the range.
#: Uniform tissue that fills an image up to its border is in between.
NEAR_DARK = 0.2
NEAR_BRIGHT = 0.1

#: Values within these numbers of standard deviations or shares of the range are
#: background if they are connected to the border.
DEVIATIONS = 4.0
LEAST_WIDTH = 0.01

#: Share of voxels excluded from the range of an image at either end.
TAIL = 5e-4

#: Least share of the image for a background.
LEAST_BACKGROUND = 0.01

#: Share of the border from which padding is the background of a whole object.
SURROUNDED = 0.9

#: Share of voxels below the low end of an image's values, and how far noise may go
#: below it, as a multiple of its distance from the median.
LOW = 0.05
NOISE = 2.0

#: Least size of a piece of foreground, as a share of the largest.
SPECK = 0.01

#: Voxels by which the foreground is closed and then dilated, so that it contains the
#: box that local correlation compares at the edge of the tissue.
MARGIN = {2: 5, 3: 3}


def foreground(values: Image) -> Mask:
    """Separate the foreground of a coarse image ``([z], y, x)`` from its background.

    NaN is background. The mask is all true if there is no background.
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


def padding(values: Image) -> Mask | None:
    """Find what was not measured in a coarse image ``([z], y, x)``, if anything.

    Padding is pieces of exactly one value that reach the border, and the voxels next to
    them, which mix both. Where it is nearly all of the border, the image shows a whole
    object without its background. Its outline says where it is, and counts. Of several
    values, those furthest from the rest of the image are padding first. Nothing is
    padding if hardly a voxel would be left.
    """
    edge = _shell(np.ones(values.shape, bool))
    levels, counts = np.unique(values[edge & np.isfinite(values)], return_counts=True)
    levels = levels[counts >= LEAST_BACKGROUND * edge.sum()]
    rest = values[np.isfinite(values) & ~np.isin(values, levels)]
    found = np.zeros(values.shape, bool)
    if not rest.size:
        return None
    middle = float(np.median(rest))
    for level in sorted(levels, key=lambda level: -abs(float(level) - middle)):
        wider = found | _padding_of(values, float(level), edge)
        if wider[edge].mean() <= SURROUNDED:
            found = wider
    left = values[~found & np.isfinite(values)]
    if found.mean() < LEAST_BACKGROUND or left.size < LEAST_BACKGROUND * values.size:
        return None
    return None if left.min() == left.max() else np.asarray(found)


def _padding_of(values: Image, level: float, edge: Mask) -> Mask:
    """Return the padding of one value, with the voxels that mix it and the rest."""
    solid, box = values == level, _box(values.ndim)
    rest = values[np.isfinite(values) & ~solid]
    sign = 1.0 if level < np.median(rest) else -1.0
    low, middle = np.quantile(sign * rest, [LOW, 0.5])
    beyond = low - NOISE * (middle - low)
    if sign * level < beyond:
        # Noise does not come near that value: what does is a mixture.
        pieces = _reaching(sign * values < beyond, solid & edge)
        return np.asarray(ndimage.binary_dilation(pieces, box))
    solid = ndimage.binary_erosion(solid, box, border_value=1)
    return np.asarray(ndimage.binary_dilation(_reaching(solid, edge), box, 2))


def _without_padding(values: Image, inside: Mask) -> Mask:
    """Remove pieces of an extreme value that reach the border.

    In noise few voxels have exactly the same value.
    """
    for extreme in (np.min, np.max):
        known = values[inside]
        if not known.size or known.min() == known.max():
            break
        same = inside & (values == extreme(known))
        if same.sum() >= LEAST_BACKGROUND * values.size:
            inside = inside & ~_reaching(same, _shell(inside))
    return inside


def _background(values: Image, inside: Mask) -> Mask | None:
    """Return the uniform part of the inside that reaches its border, if any."""
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


def _shell(inside: Mask) -> Mask:
    """Return the outermost voxels of the inside."""
    return np.asarray(inside & ~ndimage.binary_erosion(inside, _box(inside.ndim)))


def _reaching(part: Mask, border: Mask) -> Mask:
    """Return the connected pieces of a part that reach the border."""
    labels, _ = ndimage.label(part)
    touching = np.unique(labels[border])
    return np.asarray(np.isin(labels, touching[touching > 0]))


def _smoothed(values: Image, inside: Mask) -> NDArray[np.float64]:
    """Return means over three voxels per axis, of voxels inside only."""
    known = np.where(inside, values, 0).astype(np.float64)
    total = ndimage.uniform_filter(known, 3, mode="constant")
    share = ndimage.uniform_filter(inside.astype(np.float64), 3, mode="constant")
    return np.asarray(total / np.maximum(share, 1e-9))


def _densest(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the densest value, and the standard deviation around it."""
    ordered = np.sort(values)
    count = max(2, round(BORDER_SHARE * ordered.size))
    if count > ordered.size:
        return float(ordered[0]), 0.0
    widths = ordered[count - 1 :] - ordered[: ordered.size - count + 1]
    first = int(np.argmin(widths))
    centre = float(np.median(ordered[first : first + count]))
    return centre, float(widths[first]) / (2 * BORDER_QUANTILE)


def _tidied(mask: Mask) -> Mask:
    """Remove specks, close gaps, fill holes and add a margin."""
    labels, count = ndimage.label(mask, _box(mask.ndim))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    mask = (sizes >= SPECK * sizes.max())[labels]
    margin = MARGIN[mask.ndim]
    # Padded, as closing would erode the mask at the image's border.
    mask = np.pad(mask, margin)
    mask = _filled(ndimage.binary_closing(mask, _box(mask.ndim), margin))
    mask = ndimage.binary_dilation(mask, _box(mask.ndim), margin)
    return np.asarray(mask[tuple(slice(margin, -margin) for _ in mask.shape)])


def _filled(mask: Mask) -> Mask:
    """Fill holes, also those of single planes: the border may cut a hollow organ."""
    mask = ndimage.binary_fill_holes(mask)
    if mask.ndim == 3:
        for axis in range(3):
            planes = np.moveaxis(mask, axis, 0)
            filled = np.stack([ndimage.binary_fill_holes(plane) for plane in planes])
            mask = np.moveaxis(filled, 0, axis)
    return np.asarray(mask)


def _box(ndim: int) -> Mask:
    """Return the structuring element of a voxel and all its neighbours."""
    return np.ones((3,) * ndim, bool)
