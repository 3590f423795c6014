"""Outliers among blocks, from their differences alone."""

import numpy as np
import pytest

from xdreg.grid import Grid
from xdreg.partition import BlockStatus, Partition
from xdreg.registration.agreement import compare, offsets, outliers, tolerance


def gaps_of(updates):
    """Return the differences of blocks whose updates are constant, as `compare`."""
    ndim = updates.ndim
    steps = offsets(ndim)
    gaps = np.full((*updates.shape, len(steps)), np.nan, np.float32)
    for index in np.ndindex(updates.shape):
        for slot, step in enumerate(steps):
            other = tuple(i + s for i, s in zip(index, step, strict=True))
            inside = all(0 <= i < n for i, n in zip(other, updates.shape, strict=True))
            if inside and other >= index:
                gap = updates[index] - (updates[other] if any(step) else 0)
                gaps[(*index, slot)] = abs(gap)
    return gaps


def judged(updates, status=None, gain=None, most=4.0):
    updates = np.asarray(updates, float)
    status = np.zeros(updates.shape) if status is None else np.asarray(status)
    gain = np.ones(updates.shape) if gain is None else np.asarray(gain)
    gaps = gaps_of(np.where(status == 0, updates, np.nan))
    return outliers(status, gaps, gain, most)


@pytest.mark.parametrize("shape", [(9,), (5, 6), (4, 4, 4)])
@pytest.mark.parametrize("seed", range(3))
def test_the_bad_are_found_and_no_good_ones(shape, seed):
    rng = np.random.default_rng(seed)
    updates = rng.normal(2.0, 0.1, shape)
    bad = np.zeros(shape, bool)
    # About a fifth; in a row no two are adjacent, which could not be decided.
    if len(shape) == 1:
        bad[[2 + seed, 6]] = True
    else:
        bad.ravel()[rng.choice(bad.size, bad.size // 5, replace=False)] = True
    updates[bad] += rng.choice([-3.0, 3.0], bad.sum()) + rng.normal(0, 0.5, bad.sum())
    rejected, difference = judged(updates)
    np.testing.assert_array_equal(rejected, bad)
    assert np.isfinite(difference).all()


def test_ordinary_differences_are_no_reason():
    updates = np.random.default_rng(0).normal(0.0, 0.4, (6, 7))
    assert not judged(updates)[0].any()
    # Where all differ widely, wide differences are usual ...
    assert not judged(3 * updates)[0].any()
    # ... unless blending them would bend the field.
    assert judged(3 * updates, most=1.0)[0].any()


def test_between_two_blocks_the_similarity_decides():
    assert not judged([1.0, 4.0])[0].any()
    rejected, _ = judged([1.0, 9.0], gain=[0.3, 0.1])
    assert rejected.tolist() == [False, True]
    rejected, _ = judged([1.0, 9.0], gain=[0.1, 0.3])
    # What is left has nobody to agree with, and is far from the zero update beside it.
    assert rejected.tolist() == [True, True]
    assert not judged([9.0])[0].any()


def test_a_block_whose_neighbours_all_failed_is_held_against_zero():
    crashed, empty = BlockStatus.CRASHED, BlockStatus.EMPTY
    status = np.full((3, 3), crashed)
    status[1, 1] = BlockStatus.SUCCESS
    updates = np.zeros((3, 3))
    updates[1, 1] = 6.0
    assert judged(updates, status)[0][1, 1]
    updates[1, 1] = 3.0
    assert not judged(updates, status)[0].any()
    updates[1, 1] = 6.0
    assert not judged(updates, np.where(status == crashed, empty, status))[0].any()


def test_patches_are_compared_where_they_overlap_in_voxels():
    grid = Grid(("y", "x"), (8, 24), (2.0, 0.5), (0.0, 0.0))
    partition = Partition.balanced(grid, block_shape=8, overlap=2, field_step=1)
    assert partition.counts == (1, 3)
    assert tolerance(partition) == 1.0
    updates = {(0, 0): 1.0, (0, 1): 4.0, (0, 2): -2.0}
    status = dict.fromkeys(updates, BlockStatus.SUCCESS)

    def patch(index):
        values = np.zeros((2, *partition.patch_shape), np.float32)
        values[1] = updates[index]
        return values

    def compared(index):
        found = compare(index, partition, status.get, patch)
        known = np.flatnonzero(np.isfinite(found))
        return {offsets(2)[i]: float(found[i]) for i in known}

    # Half a micrometer along x is a voxel.
    assert compared((0, 0)) == {(0, 0): 2.0, (0, 1): 6.0}
    assert compared((0, 1)) == {(0, 0): 8.0, (0, 1): 12.0}
    assert compared((0, 2)) == {(0, 0): 4.0}
    status[0, 1] = BlockStatus.CRASHED
    assert compared((0, 0)) == {(0, 0): 2.0}
    assert compared((0, 1)) == {}


def test_one_block_has_no_tolerance():
    grid = Grid(("y", "x"), (8, 8), (1.0, 1.0), (0.0, 0.0))
    partition = Partition.balanced(grid, block_shape=8, overlap=2, field_step=1)
    assert tolerance(partition) == 0
