"""Blocks that fail or lie: good ones do not suffer, whatever the garbage."""

import numpy as np
import pytest
import scipy.ndimage
import xarray as xr
import zarr

import xdreg
from tests.helpers.faulty import chosen, faulty, wave
from xdreg.coordinates import coordinates, grid_of
from xdreg.engines.local_correlation import local_correlation
from xdreg.fields.diagnostics import status_counts
from xdreg.grid import Grid
from xdreg.partition import BlockStatus
from xdreg.registration.agreement import offsets, outliers

SHAPES = pytest.mark.parametrize(
    ("shape", "block"), [((128, 144), 32), ((48, 56, 64), 20)], ids=["2-D", "3-D"]
)


def gaps_of(updates):
    """Return what comparing constant updates along one axis would, for all blocks."""
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
    # About a fifth; along a line none beside another, or nobody could tell.
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


@SHAPES
@pytest.mark.parametrize("kind", ["noise", "nan", "raise", "shift", "wave"])
def test_garbage_costs_no_more_than_a_zero_update(shape, block, kind):
    pair = xdreg.datasets.phantom_pair(shape, amplitude=3.0)
    fixed, moving = pair.fixed.compute(), pair.moving.compute()
    errors = {}
    for which in ("zero", kind):
        options = {"kind": which, "seed": 2, "iterations": 15}
        field = fixed.dreg.register(
            moving,
            stages=[xdreg.Custom(method=faulty, level=0, options=options)],
            block_shape=block,
            progress=False,
        )
        mapped = field.dreg.transform_points(pair.fixed_points)
        error = np.linalg.norm(mapped - pair.moving_points, axis=1)
        errors[which] = float(error.mean())
    assert status_counts(field)["success"] < field.block_status.size
    assert errors[kind] < 1.1 * errors["zero"]
    assert float(field.dreg.jacobian_determinant().min()) > 0


def half_right(fixed, moving, *, kind):
    """Return the truth, eight voxels along x, but in some blocks a smooth error more.

    Both bring the images nearer to each other, so the similarity sees no harm.
    """
    grid = grid_of(fixed)
    update = np.zeros((grid.ndim, *grid.shape), np.float32)
    update[-1] = 8.0
    if chosen(grid, 0.2, seed=1):
        update[-1] += -3.0 if kind == "shift" else wave(grid, 6.0)[-1]
    return xr.DataArray(
        update, dims=("component", *grid.dims), coords=coordinates(grid)
    )


def shifted_pair(shape):
    """Return smooth images, one eight voxels along x from the other."""
    wide = (*shape[:-1], shape[-1] + 8)
    values = scipy.ndimage.gaussian_filter(
        np.random.default_rng(0).standard_normal(wide), 12.0
    ).astype(np.float32)
    grid = Grid(
        ("z", "y", "x")[-len(shape) :], shape, (1.0,) * len(shape), (0.0,) * len(shape)
    )
    return [
        xr.DataArray(part, dims=grid.dims, coords=coordinates(grid))
        for part in (values[..., 8:], values[..., :-8])
    ]


@SHAPES
@pytest.mark.parametrize("kind", ["shift", "wave"])
def test_what_only_the_neighbours_can_tell(shape, block, kind):
    fixed, moving = shifted_pair(shape)
    field = fixed.dreg.register(
        moving,
        stages=[xdreg.Custom(method=half_right, level=0, options={"kind": kind})],
        metric="ncc",
        block_shape=block,
        progress=False,
    )
    plan = fixed.dreg.plan(moving, stages=[half_right], block_shape=block)
    partition = plan.stages[0].partition
    for index in partition:
        bad = chosen(partition.grid.window(partition.window(index)), 0.2, seed=1)
        status = field.block_status.values[index]
        assert (status != BlockStatus.SUCCESS) == bad
    improved = field.block_similarity_after > field.block_similarity_before
    assert ((field.block_status == BlockStatus.REJECTED) & improved).sum() > 1


def test_a_verdict_survives_an_interruption(tmp_path):
    fixed, moving = shifted_pair((128, 144))
    options = {
        "stages": [xdreg.Custom(method=half_right, level=0, options={"kind": "shift"})],
        "metric": "ncc",
        "block_shape": 32,
        "workdir": tmp_path / "run",
        "progress": False,
    }
    first = fixed.dreg.register(moving, **options)
    status = first.block_status.values
    values = first.displacement.values.copy()
    assert (status == BlockStatus.REJECTED).sum() > 1
    # As if it had ended after the verdict, and before it stood in all records.
    stage = tmp_path / "run" / "stage_00"
    records = zarr.open_array(stage / "records", mode="r+")
    index = tuple(np.argwhere(status == BlockStatus.REJECTED)[0])
    records[(*index, 0)] = BlockStatus.SUCCESS
    for name in ("field", "disagreement"):
        for chunk in (stage / name).glob("[0-9]*"):
            chunk.unlink()
    for _ in range(2):
        field = fixed.dreg.register(moving, **options)
        np.testing.assert_array_equal(field.block_status, status)
        np.testing.assert_array_equal(field.displacement, values)
        np.testing.assert_array_equal(
            field.block_neighbour_difference, first.block_neighbour_difference
        )
    assert records[(*index, 0)] == BlockStatus.REJECTED


def test_a_failed_block_is_tried_once_more_with_safer_options(monkeypatch):
    calls = []

    def fails_at_full_step(fixed, moving, *, step=1.0, **options):
        calls.append((step, options.get("field_sigma"), options.get("update_sigma")))
        if step == 1.0 and grid_of(fixed).origin[0] > 10:
            msg = "deliberate"
            raise RuntimeError(msg)
        return local_correlation(fixed, moving, step=step, **options)

    monkeypatch.setattr(
        "xdreg.registration.planning.local_correlation", fails_at_full_step
    )
    pair = xdreg.datasets.phantom_pair((96, 64), amplitude=2.0, spacing=(1.0, 2.0))
    field = pair.fixed.dreg.register(
        pair.moving,
        stages=[xdreg.LocalCorrelation(level=0, iterations=5, field_sigma=3.0)],
        block_shape=48,
        progress=False,
    )
    assert (field.block_status == BlockStatus.SUCCESS).all()
    np.testing.assert_array_equal(field.block_attempts, [[1, 1], [2, 2]])
    assert len(calls) == 6
    # Three units, and eight voxels of the mean spacing, both twice.
    for _, field_sigma, update_sigma in (call for call in calls if call[0] == 0.5):
        np.testing.assert_allclose(field_sigma, 6.0)
        np.testing.assert_allclose(update_sigma, 16.0 * np.sqrt(2.0))


@pytest.mark.filterwarnings("ignore:no block of stage")
def test_an_update_that_leaves_the_window_is_rejected():
    def far(fixed, moving, *, voxels):
        grid = grid_of(fixed)
        update = np.zeros((grid.ndim, *grid.shape), np.float32)
        update[0] = voxels
        return xr.DataArray(
            update, dims=("component", *grid.dims), coords=coordinates(grid)
        )

    image = xdreg.datasets.phantom_pair((40, 200), noise=0.0).fixed.compute()
    for voxels, expected in ((26.0, BlockStatus.REJECTED), (3.0, None)):
        field = image.dreg.register(
            image.shift(y=3, fill_value=0),
            stages=[xdreg.Custom(method=far, level=0, options={"voxels": voxels})],
            progress=False,
        )
        assert (field.block_status == (expected or BlockStatus.SUCCESS)).all()
