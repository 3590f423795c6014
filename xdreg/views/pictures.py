"""Pictures of two images as arrays: overlay, checkerboard, difference (numpy only).

Pixels are NaN outside an image and where it could not be read.
"""

from __future__ import annotations

import math
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from xdreg.errors import InputError

Picture = NDArray[np.float32]

#: Ways to show two images in one picture.
Style = Literal["overlay", "red-green", "checkerboard", "difference"]

#: Intensities are shown between these percentiles, so that a few bright voxels do not
#: darken the rest.
SHOWN = (1.0, 99.5)

#: Most values of which the percentiles are taken.
RANGE_VALUES = 200_000


def checked_style(style: object) -> Style:
    """Return a style; raise if there is no such style."""
    if isinstance(style, str) and style in get_args(Style):
        return cast("Style", style)
    names = ", ".join(map(repr, get_args(Style)))
    msg = f"style must be one of {names}; got {style!r}"
    raise InputError(msg)


def intensity_range(values: NDArray[Any]) -> tuple[float, float]:
    """Return the intensities to show as black and as white.

    The most frequent value is left out where it is padding or an empty background,
    which would otherwise set the range of a mostly empty image.
    """
    known = values[np.isfinite(values)]
    known = known[:: max(1, known.size // RANGE_VALUES)]
    if not known.size:
        return 0.0, 1.0
    levels, counts = np.unique(known, return_counts=True)
    common = counts.argmax()
    background = counts[common] > 0.05 * known.size and levels.size > 2
    rest = known[known != levels[common]] if background else known
    low, high = (float(v) for v in np.percentile(rest, SHOWN))
    if high <= low:
        low, high = float(known.min()), float(known.max())
    return low, high if high > low else low + 1.0


def stretched(values: Picture, limits: tuple[float, float]) -> Picture:
    """Return intensities between two limits as 0 to 1; NaN stays."""
    low, high = limits
    share = (values - np.float32(low)) / np.float32(high - low)
    return np.asarray(np.clip(share, 0, 1), np.float32)


def overlay(fixed: Picture, moved: Picture, *, red_green: bool = False) -> Picture:
    """Return fixed in magenta and moved in green: grey where they agree.

    Intensities ``(rows, columns)`` are 0 to 1. With ``red_green`` fixed is red, which
    is harder to see for colour-blind readers.
    """
    a, b = np.nan_to_num(fixed), np.nan_to_num(moved)
    return np.stack([a, b, np.zeros_like(a) if red_green else a], axis=-1)


def checkerboard(fixed: Picture, moved: Picture, square: tuple[int, int]) -> Picture:
    """Return alternating squares of two images, of some pixels per axis."""
    rows, columns = np.indices(fixed.shape[:2])
    odd = (rows // square[0] + columns // square[1]) % 2 == 1
    if fixed.ndim == 3:
        odd = odd[..., None]
    return np.nan_to_num(np.where(odd, moved, fixed))


def difference(fixed: Picture, moved: Picture) -> tuple[Picture, float]:
    """Return moved minus fixed, in the intensities of fixed, and the limit to show.

    ``moved`` is first fitted to ``fixed`` by a least-squares line, so that a different
    gain or offset does not count. The limit is half of the range of ``fixed``: the same
    before and after registration.
    """
    both = np.isfinite(fixed) & np.isfinite(moved)
    low, high = intensity_range(fixed)
    a, b = fixed[both].astype(np.float64), moved[both].astype(np.float64)
    gain = np.cov(a, b)[0, 1] / b.var(ddof=1) if b.size > 1 and b.var() > 0 else 0.0
    result = np.full(fixed.shape, np.nan, np.float32)
    if a.size:
        result[both] = a.mean() + gain * (b - b.mean()) - a
    return result, 0.5 * (high - low)


def enlargement(lengths: NDArray[Any], pitch: float) -> int:
    """Return a factor for arrows by which the long ones reach the next arrow.

    It is 1, 2 or 5 times a power of ten, and 1 where arrows reach half way already.
    """
    known = lengths[np.isfinite(lengths)]
    longest = float(np.percentile(known, 98)) if known.size else 0.0
    if longest <= 0 or longest >= 0.5 * pitch:
        return 1
    factor = pitch / longest
    step: int = 10 ** math.floor(math.log10(factor))
    return step * max(v for v in (1, 2, 5) if v * step <= factor or v == 1)
