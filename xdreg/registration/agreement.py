"""Outlier blocks: results that contradict those of their neighbours.

A field point near a border is in the patches of several blocks. All of them saw the
voxels around it, so their updates should agree there. `compare` measures that for one
block, on a worker. `outliers` decides for all blocks of a stage at once.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.ndimage

from xdreg.partition import BlockStatus, Partition, shared_part

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

#: Blocks are not rejected for differences up to this many voxels ...
FLOOR_VOXELS = 1.0

#: ... or within this many standard deviations of the usual difference in the stage. The
#: usual difference is measured between each block and its nearest neighbours, because
#: a good block has some that agree with it even in a row of blocks.
DEVIATIONS = 12.0
NEAREST = 0.25
MAD_TO_SIGMA = 1.4826

#: Differences above this share of the overlap always reject a block: blended across the
#: overlap, they would bend the field by more than a third.
SHARE_OF_OVERLAP = 0.5

#: Statuses of blocks that had content to register and failed.
_FAILED = (
    BlockStatus.NOT_IMPROVED,
    BlockStatus.FOLDED,
    BlockStatus.REJECTED,
    BlockStatus.CRASHED,
    BlockStatus.TIMEOUT,
    BlockStatus.UNREADABLE,
)


def offsets(ndim: int) -> list[tuple[int, ...]]:
    """Return the index steps to a block's neighbours; the middle one is zero."""
    return list(itertools.product((-1, 0, 1), repeat=ndim))


def tolerance(partition: Partition) -> float:
    """Return the largest difference that may be blended, in voxels.

    Zero where no two blocks share a field point.
    """
    overlaps = zip(partition.overlap, partition.counts, strict=True)
    return SHARE_OF_OVERLAP * min((o for o, count in overlaps if count > 1), default=0)


def compare(
    index: tuple[int, ...],
    partition: Partition,
    status_of: Callable[[tuple[int, ...]], float],
    patch_of: Callable[[tuple[int, ...]], NDArray[np.float32]],
) -> NDArray[np.float32]:
    """Compare a block's patch with those of the neighbours that come after it.

    ``status_of`` and ``patch_of`` are functions of a block's index.

    Returns
    -------
    (3 ** ndim,) float32, voxels
        By `offsets`, the median length of the difference over the shared field points;
        in the middle the median length of the block's own update. NaN without a
        difference, and for neighbours that come before: they hold the same number.
    """
    grid = partition.grid
    result = np.full(3**grid.ndim, np.nan, np.float32)
    if status_of(index) != BlockStatus.SUCCESS:
        return result
    spacing = np.reshape(grid.spacing, (-1,) + (1,) * grid.ndim).astype(np.float32)
    points = partition.patch(index)
    own = patch_of(index)
    for slot, step in enumerate(offsets(grid.ndim)):
        other = _neighbour(index, step, partition.counts)
        if other is None or other < index:
            continue
        part = shared_part(points, partition.patch(other))
        if part is None or status_of(other) != BlockStatus.SUCCESS:
            continue
        gap = own[(slice(None), *part[1])]
        if other != index:
            gap = gap - patch_of(other)[(slice(None), *part[2])]
        result[slot] = np.median(np.sqrt(((gap / spacing) ** 2).sum(axis=0)))
    return result


def outliers(
    status: NDArray[Any], gaps: NDArray[Any], gain: NDArray[Any], most: float
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Find the blocks that contradict their neighbours.

    A block's difference is the median over its neighbours. Of the blocks that differ
    too much, the one with the largest sum of such differences is rejected first and
    then ignored, so that a bad block does not condemn good ones. Of two equal ones the
    one that improved the similarity less is rejected. A block whose neighbours all
    failed is compared with the zero update next to it.

    Parameters
    ----------
    status, gain : (*counts)
        Status of each block, and by how much it improved the similarity.
    gaps : (*counts, 3 ** ndim), voxels
        What `compare` returned for each.
    most : voxels
        Difference that is too large in any stage.

    Returns
    -------
    rejected : (*counts) bool
    difference : (*counts) float32, voxels
        Median difference of each block from its neighbours; NaN without any.
    """
    steps = offsets(status.ndim)
    between = _between(gaps, steps)
    difference = _medians(between)
    limit = min(_usual(between), most)
    rejected = np.zeros(status.shape, bool)
    current = difference.copy()
    while (current > limit).any():
        excess = np.where(between > limit, between, 0).sum(axis=-1)
        excess[~(current > limit)] = -1
        worst = np.flatnonzero(excess == excess.max())
        chosen = worst[np.argmin(gain.ravel()[worst])]
        index = tuple(int(i) for i in np.unravel_index(chosen, status.shape))
        rejected[index] = True
        between[index] = np.nan
        for slot, step in enumerate(steps):
            other = _neighbour(index, [-s for s in step], status.shape)
            if other is not None:
                between[(*other, slot)] = np.nan
                current[other] = _medians(between[other][None])[0]
    failed = rejected | np.isin(status, _FAILED)
    near_failed = scipy.ndimage.binary_dilation(failed, np.ones((3,) * status.ndim))
    alone = (status == BlockStatus.SUCCESS) & ~np.isfinite(between).any(axis=-1)
    rejected |= alone & near_failed & (gaps[..., len(steps) // 2] > most)
    return rejected, difference


def _between(
    gaps: NDArray[Any], steps: Sequence[tuple[int, ...]]
) -> NDArray[np.float32]:
    """Return the differences of all blocks from all neighbours, NaN for themselves."""
    middle = len(steps) // 2
    between = np.array(gaps, np.float32)
    between[..., middle] = np.nan
    for slot in range(middle):
        # The earlier neighbour holds the difference.
        stored = np.pad(gaps[..., -1 - slot], 1, constant_values=np.nan)
        shifts = zip(steps[slot], gaps.shape[:-1], strict=True)
        between[..., slot] = stored[tuple(slice(1 + s, 1 + s + n) for s, n in shifts)]
    return between


def _neighbour(
    index: Sequence[int], step: Sequence[int], counts: Sequence[int]
) -> tuple[int, ...] | None:
    """Return the block at a step from another one; None outside the partition."""
    other = tuple(i + s for i, s in zip(index, step, strict=True))
    inside = all(0 <= i < n for i, n in zip(other, counts, strict=True))
    return other if inside else None


def _medians(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return medians over the last axis, ignoring NaN; NaN where all are."""
    result = np.full(values.shape[:-1], np.nan, np.float32)
    some = np.isfinite(values).any(axis=-1)
    result[some] = np.nanmedian(values[some], axis=-1)
    return result


def _usual(between: NDArray[np.float32]) -> float:
    """Return the upper limit of usual differences in a stage, in voxels."""
    known = between[np.isfinite(between).any(axis=-1)]
    if not known.size:
        return FLOOR_VOXELS
    nearest = np.nanquantile(known, NEAREST, axis=-1, method="lower")
    middle = float(np.median(nearest))
    deviation = MAD_TO_SIGMA * float(np.median(np.abs(nearest - middle)))
    return max(FLOOR_VOXELS, middle + DEVIATIONS * deviation)
