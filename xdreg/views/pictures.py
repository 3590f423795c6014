"""Pictures of two images as arrays: overlays, checkerboards, differences (numpy only).

A pixel is NaN where an image has nothing, outside it or where it could not be read.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from xdreg.errors import InputError
from xdreg.views.lazy_readers import Reader

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Picture = NDArray[np.float32]
    from numpy.typing import NDArray


#: Ways to lay two images on each other.
Style = Literal["overlay", "red-green", "checkerboard", "difference"]

#: Intensities are shown between these percentiles, so that a few bright voxels do not
#: leave the rest in the dark.
SHOWN = (1.0, 99.5)

#: Squares of a checkerboard along the longer side.
SQUARES = 10

#: Pixels that are looked at for the range of intensities.
LOOKED_AT = 200_000


def checked_style(style: object) -> Style:
    """Return a style, or say which there are."""
    for known in get_args(Style):
        if isinstance(style, str) and style == known:
            return known  # type: ignore[no-any-return]
    names = ", ".join(map(repr, get_args(Style)))
    msg = f"style must be one of {names}; got {style!r}"
    raise InputError(msg)


def intensity_range(values: Picture) -> tuple[float, float]:
    """Return the intensities to show as black and white.

    The most frequent value, padding or an empty background, does not count: it would
    decide the range of an image that is mostly empty.

    Examples
    --------
    >>> intensity_range(np.array([0, 0, 0, 0, 0, 0, 4.0, 5.0, 6.0]))
    (4.02, 5.99)
    """
    known = values[np.isfinite(values)]
    known = known[:: max(1, known.size // LOOKED_AT)]
    if not known.size:
        return 0.0, 1.0
    levels, counts = np.unique(known, return_counts=True)
    common = counts.argmax()
    if counts[common] > 0.05 * known.size and levels.size > 2:
        rest = known[known != levels[common]]
    else:
        rest = known
    low, high = (float(v) for v in np.percentile(rest, SHOWN))
    if high <= low:
        low, high = float(known.min()), float(known.max())
    return low, high if high > low else low + 1.0


def stretched(values: Picture, limits: tuple[float, float] | None = None) -> Picture:
    """Return intensities from 0 to 1, NaN kept."""
    low, high = intensity_range(values) if limits is None else limits
    share = (values - np.float32(low)) / np.float32(high - low)
    return np.asarray(np.clip(share, 0, 1), np.float32)


def overlay(fixed: Picture, moved: Picture, *, red_green: bool = False) -> Picture:
    """Return fixed in magenta and moved in green: where they agree it is grey.

    Parameters
    ----------
    fixed, moved : (rows, columns), 0 to 1
    red_green
        Fixed in red instead; people who cannot tell the two apart see less.

    Returns
    -------
    (rows, columns, 3)
    """
    a, b = np.nan_to_num(fixed), np.nan_to_num(moved)
    blue = np.zeros_like(a) if red_green else a
    return np.stack([a, b, blue], axis=-1)


def checkerboard(fixed: Picture, moved: Picture, square: tuple[int, int]) -> Picture:
    """Return squares of the two images in turn, fixed in the first corner.

    Parameters
    ----------
    fixed, moved : (rows, columns) or (rows, columns, 3), 0 to 1
    square
        Pixels of a square, per axis.
    """
    rows, columns = np.indices(fixed.shape[:2])
    odd = (rows // square[0] + columns // square[1]) % 2 == 1
    if fixed.ndim == 3:
        odd = odd[..., None]
    return np.nan_to_num(np.where(odd, moved, fixed))


def difference(fixed: Picture, moved: Picture) -> tuple[Picture, float]:
    """Return moved less fixed, in the intensities of fixed, and the range to show.

    The intensities of ``moved`` are brought to those of ``fixed`` by the line that
    fits best, so that another gain or offset is no difference.

    Returns
    -------
    difference : (rows, columns)
        NaN where either has nothing.
    limit : float
        Half of the range of ``fixed``: the same before and after.
    """
    both = np.isfinite(fixed) & np.isfinite(moved)
    low, high = intensity_range(fixed)
    limit = 0.5 * (high - low)
    a, b = fixed[both].astype(np.float64), moved[both].astype(np.float64)
    gain = np.cov(a, b)[0, 1] / b.var(ddof=1) if b.size > 1 and b.var() > 0 else 0.0
    result = np.full(fixed.shape, np.nan, np.float32)
    if a.size:
        result[both] = a.mean() + gain * (b - b.mean()) - a
    return result, limit


def enlargement(lengths: NDArray[Any], pitch: float) -> int:
    """Return by how much to enlarge arrows, so that the long ones reach the next.

    Parameters
    ----------
    lengths
        Of the arrows; NaN do not count.
    pitch
        From one arrow to the next.

    Returns
    -------
    int
        1, 2 or 5, or one of them followed by zeros; 1 where half way is reached anyhow.
    """
    known = lengths[np.isfinite(lengths)]
    longest = float(np.percentile(known, 98)) if known.size else 0.0
    if longest <= 0 or longest >= 0.5 * pitch:
        return 1
    factor = pitch / longest
    step: int = 10 ** math.floor(math.log10(factor))
    return step * max(v for v in (1, 2, 5) if v * step <= factor or v == 1)


#: A look at the intensities is a look at so many voxels per axis, at most.
LOOK = {2: 1024, 3: 96}


def display_range(reader: Reader) -> tuple[float, float]:
    """Return the intensities between which an image is shown: its 1st and 99.5th %.

    Of an image that is large the middle is looked at.

    Examples
    --------
    >>> import xdreg
    >>> from xdreg.stores.readers import image_reader
    >>> low, high = display_range(image_reader(xdreg.datasets.phantom_pair().fixed))
    >>> low < high
    True
    """
    most = LOOK[reader.grid.ndim]
    window = [
        slice(max((n - most) // 2, 0), min((n + most) // 2, n))
        for n in reader.grid.shape
    ]
    values = np.asarray(reader.read(window), np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(values, (1, 99.5)))
    if low == high:
        low, high = float(values.min()), float(values.max())
    return low, high if high > low else low + 1.0
