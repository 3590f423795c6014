"""Linear registration of the frames of a time series, one on a worker at a time.

A frame is read at a coarse level. The shift to start from is the best of the images'
own positions and two circular correlations, plain and whitened.

Source of the whitened one: Kuglin and Hines, The phase correlation image alignment
method, 1975.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import fft

from xdreg.engines.linear import Volume, fit, levels
from xdreg.errors import UnavailableError, UnreadableError
from xdreg.partition import BlockStatus
from xdreg.stores.readers import ImageReader, Lost, check_lost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from xdreg.engines.linear import Matrix
    from xdreg.grid import Grid
    from xdreg.stages import Linear

#: Most voxels of a frame that are read at once to make its coarse level.
SLAB = 2**24

#: Most voxels of the level on which shifts are correlated.
SHIFT_VOXELS = 2**16


@dataclass(frozen=True)
class TimedReader:
    """A reader of any frame: that of the first, and the axis of its source for time.

    Without an axis all frames have one image.
    """

    first: ImageReader
    axis: int | None

    def at(self, number: int) -> ImageReader:
        """Return the reader of a frame."""
        first, axis = self.first, self.axis
        if axis is None:
            return first
        axes = (*first.axes[:axis], number, *first.axes[axis + 1 :])
        return ImageReader(first.source, first.grid, axes)


@dataclass(frozen=True)
class Frames:
    """The frames of a series at a coarse level, and the stages to register them by.

    Parameters
    ----------
    images
        Reads frames at a level that is stored.
    count
        Number of frames.
    grid
        The coarse level, which is made of the stored one.
    stages
        The linear stages.
    unlike
        A frame whose score is below this share of the usual one does not count.
    masks
        Reads the masks of frames, if there are any.
    """

    images: TimedReader
    count: int
    grid: Grid
    stages: tuple[Linear, ...]
    unlike: float
    masks: TimedReader | None = None

    def read(self, number: int) -> NDArray[np.float32] | BlockStatus:
        """Return a frame, NaN where it has no value, or why it has no content."""
        reader, lost = self.images.at(number), list[Lost]()
        mask = None if self.masks is None else self.masks.at(number)
        shape, factors = reader.grid.shape, self._factors
        whole = shape[0] - shape[0] % factors[0]
        plane = math.prod(shape[1:]) * factors[0]
        step = factors[0] * max(SLAB // plane, 1)
        parts = []
        try:
            for start in range(0, whole, step):
                window = (
                    slice(start, min(start + step, whole)),
                    *(slice(0, n) for n in shape[1:]),
                )
                values = reader.read_known(window, lost)
                grid = reader.grid.window(window)
                if mask is not None:
                    values[~mask.read_mask(grid)] = np.nan
                slab = Volume(values, grid)
                parts.append(slab.with_spacing(self.grid.spacing).values)
            check_lost(lost, reader.grid.size)
        except UnavailableError:
            raise
        except UnreadableError:
            return BlockStatus.UNREADABLE
        values = np.concatenate(parts)
        known = values[np.isfinite(values)]
        if not known.size or known.min() == known.max():
            return BlockStatus.EMPTY
        return values

    @property
    def _factors(self) -> list[int]:
        pairs = zip(self.grid.spacing, self.images.first.grid.spacing, strict=True)
        return [max(round(own / stored), 1) for own, stored in pairs]


@dataclass(frozen=True)
class FrameResult:
    """The transform of a frame, reference → frame, its score and status."""

    matrix: Matrix
    score: float
    status: BlockStatus


def register_frame(
    frames: Frames,
    reference: NDArray[np.float32] | int,
    number: int,
    start: Matrix | None = None,
) -> FrameResult:
    """Register a frame to an image on the same grid, or to another frame.

    Where that one has no content, the status is pending.
    """
    fixed = frames.read(reference) if isinstance(reference, int) else reference
    moving = frames.read(number)
    unknown = np.full((frames.grid.ndim + 1,) * 2, np.nan)
    if isinstance(moving, BlockStatus):
        return FrameResult(unknown, math.nan, moving)
    if isinstance(fixed, BlockStatus):
        return FrameResult(unknown, math.nan, BlockStatus.PENDING)
    one, other = (Volume(np.asarray(v), frames.grid) for v in (fixed, moving))
    matrix, score = _best_shift(one, other) if start is None else start, 0.0
    for stage in frames.stages:
        # A shift is found so well that no coarser level is needed.
        alone = stage.name == "translation"
        for spacing in levels(one)[-1:] if alone else levels(one):
            matrix, score = fit(
                one.with_spacing(spacing),
                other.with_spacing(spacing),
                matrix,
                kind=stage.name,  # type: ignore[arg-type]
                metric=stage.metric or "lncc",  # type: ignore[arg-type]
                iterations=stage.iterations or 50,
            )
    if not np.linalg.det(matrix) > 0:
        return FrameResult(unknown, math.nan, BlockStatus.FOLDED)
    return FrameResult(matrix, score, BlockStatus.SUCCESS)


def summed_frames(
    frames: Frames, numbers: Sequence[int], matrices: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the sum of aligned frames, and the number of those that have values."""
    sums = np.zeros((2, *frames.grid.shape))
    for number in numbers:
        values = frames.read(number)
        if isinstance(values, BlockStatus):
            continue
        pulled = Volume(values, frames.grid).pulled(matrices[number], frames.grid)
        known = np.isfinite(pulled)
        sums[0] += np.where(known, pulled, 0)
        sums[1] += known
    return sums


def _best_shift(fixed: Volume, moving: Volume) -> Matrix:
    """Return the shift to start from, as a matrix."""
    spacing = next(s for s in levels(fixed)[::-1] if _size(fixed, s) <= SHIFT_VOXELS)
    one, other = fixed.with_spacing(spacing), moving.with_spacing(spacing)
    product = np.conj(_spectrum(one)) * _spectrum(other)
    starts = [np.zeros(one.grid.ndim)]
    for weights in (1.0, np.maximum(np.abs(product), np.finfo(np.float32).tiny)):
        found = fft.irfftn(product / weights, one.grid.shape)
        starts.append(_peak(found) * one.grid.spacing)
    # Mostly they agree.
    apart = [
        shift
        for n, shift in enumerate(starts)
        if all((np.abs(shift - s) > one.grid.spacing).any() for s in starts[n + 1 :])
    ]
    matrices = []
    for shift in apart:
        matrices.append(np.eye(one.grid.ndim + 1))
        matrices[-1][:-1, -1] = shift
    if len(matrices) == 1:
        return matrices[0]
    coarse = levels(fixed)[0]
    pair = fixed.with_spacing(coarse), moving.with_spacing(coarse)
    scores = [fit(*pair, m, kind="translation", iterations=0)[1] for m in matrices]
    return matrices[int(np.argmax(scores))]


def _peak(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the shift of the largest value of a circular correlation, in voxels.

    Between voxels it is that of a parabola along each axis.
    """
    place = np.unravel_index(int(np.argmax(values)), values.shape)
    shift = np.zeros(values.ndim)
    for axis, (at, size) in enumerate(zip(place, values.shape, strict=True)):
        line = np.moveaxis(values, axis, -1)[(*place[:axis], *place[axis + 1 :])]
        below, top, above = line[at - 1], line[at], line[(at + 1) % size]
        bend = 2 * top - below - above
        # Shifts beyond the middle are negative.
        shift[axis] = at - size if at > size // 2 else at
        if size > 2 and bend > 0:
            shift[axis] += (above - below) / (2 * bend)
    return shift


def _size(image: Volume, spacing: Sequence[float]) -> float:
    """Return the number of voxels of an image at a spacing."""
    return image.grid.size / math.prod(np.divide(spacing, image.grid.spacing))


def _spectrum(image: Volume) -> NDArray[np.complex64]:
    values = image.values - np.nanmean(image.values)
    return np.asarray(fft.rfftn(np.nan_to_num(values)))
