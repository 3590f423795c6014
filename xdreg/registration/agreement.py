"""Blocks against their neighbours: results that are wrong but look right by themselves.

A field point near a border lies in the patches of several blocks. Each of them saw the
same voxels around it, so their updates should agree there. `compare` measures that for
one block, on a worker; `outliers` decides for all blocks of a stage at once.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from xdreg.partition import BlockStatus, Partition, shared_part

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

#: Differences up to so many voxels are no reason to reject.
FLOOR_VOXELS = 1.0

#: Nor are those within so many standard deviations of what is usual in the stage; the
#: deviation is estimated from the median's. What is usual is measured between a block
#: and the neighbours nearest to it, of which good ones have some even along a line.
DEVIATIONS = 12.0
NEAREST = 0.25
MAD_TO_SIGMA = 1.4826

#: Differences beyond this share of the overlap are one, however usual they are: blended
#: across it they would bend the field by more than a third.
SHARE_OF_OVERLAP = 0.5

#: Blocks that had an image to register and came to nothing.
_FAILED = (
    BlockStatus.NOT_IMPROVED,
    BlockStatus.FOLDED,
    BlockStatus.REJECTED,
    BlockStatus.CRASHED,
    BlockStatus.TIMEOUT,
    BlockStatus.UNREADABLE,
)


def offsets(ndim: int) -> list[tuple[int, ...]]:
    """Return the steps to a block's neighbours; the one in the middle is to itself."""
    return list(itertools.product((-1, 0, 1), repeat=ndim))


def tolerance(partition: Partition) -> float:
    """Return the difference beyond which blending bends the field, in voxels.

    Zero where no two blocks share a field point.
    """
    margins = [
        margin
        for margin, count in zip(partition.overlap, partition.counts, strict=True)
        if count > 1
    ]
    return SHARE_OF_OVERLAP * min(margins, default=0)


def compare(
    index: tuple[int, ...],
    partition: Partition,
    status_of: Callable[[tuple[int, ...]], float],
    patch_of: Callable[[tuple[int, ...]], NDArray[np.float32]],
) -> NDArray[np.float32]:
    """Compare a block's patch with those of the neighbours that come after it.

    Parameters
    ----------
    index
        The block.
    partition
        The blocks of the stage.
    status_of, patch_of
        Functions of a block's index: its status, and the patch that it stored.

    Returns
    -------
    (3 ** ndim,) float32, voxels
        By `offsets`, the median over the shared field points of the length of the
        difference; in the middle the median length of the block's own update. NaN where
        either block has no update, where nothing is shared, and for neighbours that
        come before: they hold the same number.
    """
    grid = partition.grid
    result = np.full(3**grid.ndim, np.nan, np.float32)
    if status_of(index) != BlockStatus.SUCCESS:
        return result
    spacing = np.reshape(grid.spacing, (-1,) + (1,) * grid.ndim).astype(np.float32)
    points = partition.patch(index)
    own = patch_of(index)
    for slot, offset in enumerate(offsets(grid.ndim)):
        other = tuple(i + step for i, step in zip(index, offset, strict=True))
        inside = all(0 <= i < n for i, n in zip(other, partition.counts, strict=True))
        if other < index or not inside:
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
    """Find the blocks that their neighbours contradict.

    A block's difference is the median over its neighbours. Of the blocks that differ
    too much the one with the largest sum of such differences goes first, and is then
    nobody's neighbour any more, so that a bad block does not condemn good ones. Of two
    equal ones, as where there are only two, the one that improved the similarity less.

    A block all of whose neighbours failed has nobody to agree with but the zero update
    beside it, and is held against that.

    Parameters
    ----------
    status : (*counts)
        What became of the blocks.
    gaps : (*counts, 3 ** ndim), voxels
        What `compare` returned for each.
    gain : (*counts)
        By how much each block improved the similarity.
    most
        Difference that is too large in any stage, see `tolerance`.

    Returns
    -------
    rejected : (*counts) bool
    difference : (*counts) float32, voxels
        The median difference of each block from its neighbours; NaN without any.
    """
    steps = offsets(status.ndim)
    middle = len(steps) // 2
    size = gaps[..., middle]
    between = np.array(gaps, np.float32)
    between[..., middle] = np.nan
    for slot in range(middle):
        here, there = _with_neighbour(status.shape, steps[slot])
        between[..., slot][here] = gaps[..., len(steps) - 1 - slot][there]
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
            other = tuple(i - s for i, s in zip(index, step, strict=True))
            if all(0 <= i < n for i, n in zip(other, status.shape, strict=True)):
                between[(*other, slot)] = np.nan
                current[other] = _medians(between[other][None])[0]
    failed = rejected | np.isin(status, _FAILED)
    beside = np.zeros(status.shape, bool)
    for step in steps:
        here, there = _with_neighbour(status.shape, step)
        beside[here] |= failed[there]
    alone = (status == BlockStatus.SUCCESS) & ~np.isfinite(between).any(axis=-1)
    rejected |= alone & beside & (size > most)
    return rejected, difference


def _with_neighbour(
    counts: Sequence[int], step: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the blocks that have a neighbour at a step, and those neighbours."""
    axes = list(zip(counts, step, strict=True))
    here = tuple(slice(max(-s, 0), n - max(s, 0)) for n, s in axes)
    there = tuple(slice(max(s, 0), n - max(-s, 0)) for n, s in axes)
    return here, there


def _medians(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return medians over the last axis of what is not NaN; NaN where nothing is."""
    result = np.full(values.shape[:-1], np.nan, np.float32)
    some = np.isfinite(values).any(axis=-1)
    result[some] = np.nanmedian(values[some], axis=-1)
    return result


def _usual(between: NDArray[np.float32]) -> float:
    """Return the largest difference that is usual in a stage, in voxels."""
    known = between[np.isfinite(between).any(axis=-1)]
    if not known.size:
        return FLOOR_VOXELS
    nearest = np.nanquantile(known, NEAREST, axis=-1, method="lower")
    middle = float(np.median(nearest))
    deviation = MAD_TO_SIGMA * float(np.median(np.abs(nearest - middle)))
    return max(FLOOR_VOXELS, middle + DEVIATIONS * deviation)
