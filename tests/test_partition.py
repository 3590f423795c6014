"""Properties of the partition: cores tile, weights sum to one, patches fit windows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xdreg.errors import InputError
from xdreg.grid import Grid, whole_per_axis
from xdreg.partition import Partition


@st.composite
def partitions(draw):
    ndim = draw(st.sampled_from([2, 3]))
    dims = ("z", "y", "x")[-ndim:]
    shape = tuple(draw(st.integers(1, 40)) for _ in dims)
    block = tuple(draw(st.integers(5, 24)) for _ in dims)
    step = draw(st.integers(1, 3))
    grid = Grid(dims, shape, (1.0,) * ndim, (0.0,) * ndim)
    bare = Partition.balanced(grid, block_shape=block, overlap=0, field_step=step)
    overlap = tuple(draw(st.integers(0, b // 2)) for b in bare.block_shape)
    return Partition.balanced(grid, block_shape=block, overlap=overlap, field_step=step)


@given(partitions())
def test_cores_tile_the_image_and_the_field_exactly_once(partition):
    voxels = np.zeros(partition.grid.shape, int)
    points = np.zeros(partition.field_grid.shape, int)
    for block in partition:
        voxels[partition.core(block)] += 1
        points[partition.field_core(block)] += 1
    assert (voxels == 1).all()
    assert (points == 1).all()


@given(partitions())
def test_weights_sum_to_one_over_the_patches(partition):
    total = np.zeros(partition.field_grid.shape)
    for block in partition:
        patch = partition.patch(block)
        total[patch] += partition.weights(block, patch)
    np.testing.assert_allclose(total, 1.0, atol=1e-6)


def test_the_field_point_beyond_a_short_last_block_is_covered():
    grid = Grid(("y", "x"), (14, 14), (1.0, 1.0), (0.0, 0.0))
    partition = Partition.balanced(grid, block_shape=6, overlap=3, field_step=2)
    total = np.zeros(partition.field_grid.shape)
    for block in partition:
        patch = partition.patch(block)
        total[patch] += partition.weights(block, patch)
    np.testing.assert_allclose(total, 1.0, atol=1e-6)


@given(partitions())
def test_patches_fit_their_windows_and_neighbours_suffice(partition):
    for block in partition:
        window, patch = partition.window(block), partition.patch(block)
        for part, points, step, n, largest in zip(
            window,
            patch,
            partition.field_step,
            partition.grid.shape,
            partition.patch_shape,
            strict=True,
        ):
            assert part.start <= points.start * step
            assert (points.stop - 1) * step <= max(part.stop - 1, n - 1 + step - 1)
            assert points.stop - points.start <= largest
        covered = np.zeros(partition.field_grid.shape)
        for other in partition.neighbours(block):
            part = partition.patch(other)
            covered[part] += partition.weights(other, part)
        core = partition.field_core(block)
        np.testing.assert_allclose(covered[core], 1.0, atol=1e-6)


def test_an_overlap_past_the_middle_of_a_block_is_refused():
    grid = Grid(("y", "x"), (64, 64), (1.0, 1.0), (0.0, 0.0))
    with pytest.raises(InputError, match="overlap 20 along 'y'"):
        Partition.balanced(grid, block_shape=32, overlap=20, field_step=2)


@pytest.mark.parametrize("value", [0, -3, 1.5, (4, 4, 4), "8", True])
def test_per_axis_names_what_it_refuses(value):
    with pytest.raises(InputError, match="block_shape must be"):
        whole_per_axis(value, 2, "block_shape", minimum=1)


@pytest.mark.parametrize("shape", [(10**9, 10**9), (1, 10**12), (10**5, 10**6, 10**6)])
def test_absurdly_many_blocks_are_refused_at_once(shape):
    grid = Grid(
        ("z", "y", "x")[-len(shape) :], shape, (1.0,) * len(shape), (0.0,) * len(shape)
    )
    with pytest.raises(InputError, match="is its shape right"):
        Partition.balanced(grid, block_shape=64, overlap=8, field_step=2)


def test_the_largest_patch_is_found_without_a_look_at_all():
    rng = np.random.default_rng(0)
    for _ in range(300):
        step = int(rng.integers(1, 4))
        block, length = step * int(rng.integers(1, 40)), int(rng.integers(1, 400))
        overlap = min(int(rng.integers(0, block // 2 + 1)), length)
        grid = Grid(("y", "x"), (length, 3), (1.0, 1.0), (0.0, 0.0))
        parts = Partition(grid, (block, 3), (overlap, 0), (step, 1))
        patches = (parts.patch((i, 0))[0] for i in range(parts.counts[0]))
        assert parts.patch_shape[0] == max(p.stop - p.start for p in patches)
