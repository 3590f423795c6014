"""Blocks that fail or are wrong do no harm to good ones."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage
import xarray as xr
import zarr

import xdreg
from tests.helpers.faulty import faulty, wave
from tests.helpers.hostile import chosen
from xdreg.coordinates import coordinates, grid_of
from xdreg.engines.local_correlation import local_correlation
from xdreg.fields.diagnostics import status_counts
from xdreg.grid import Grid
from xdreg.partition import BlockStatus

SHAPES = [((128, 144), 32), ((48, 56, 64), 20)]


def error_of(pair, block, kind):
    """Register with garbage in some blocks; return the field and its mean error."""
    stage = xdreg.Custom(
        method=faulty,
        level=0,
        options={"kind": kind, "seed": 2, "iterations": 15},
        isolated=kind == "raise",
    )
    field = pair.fixed.dreg.register(
        pair.moving, stages=[stage], block_shape=block, progress=False
    )
    mapped = field.dreg.transform_points(pair.fixed_points)
    return field, np.linalg.norm(mapped - pair.moving_points, axis=1).mean()


@pytest.fixture(scope="module", params=SHAPES, ids=["2-D", "3-D"])
def reference(request):
    """Return a pair, a block shape, and the error with zero in the bad blocks."""
    shape, block = request.param
    pair = xdreg.datasets.phantom_pair(shape, amplitude=3.0)
    pair = replace(pair, fixed=pair.fixed.compute(), moving=pair.moving.compute())
    return pair, block, error_of(pair, block, "zero")[1]


@pytest.mark.parametrize("kind", ["noise", "nan", "raise", "shift", "wave"])
def test_garbage_costs_no_more_than_a_zero_update(kind, reference):
    pair, block, zero = reference
    field, error = error_of(pair, block, kind)
    assert status_counts(field)["success"] < field.block_status.size
    assert error < 1.1 * zero
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


def half_right_stage(kind):
    return xdreg.Custom(
        method=half_right, level=0, options={"kind": kind}, isolated=False
    )


@pytest.mark.parametrize(("shape", "block"), SHAPES, ids=["2-D", "3-D"])
@pytest.mark.parametrize("kind", ["shift", "wave"])
def test_what_only_the_neighbours_can_tell(shape, block, kind):
    fixed, moving = shifted_pair(shape)
    field = fixed.dreg.register(
        moving,
        stages=[half_right_stage(kind)],
        metric="ncc",
        block_shape=block,
        progress=False,
    )
    plan = fixed.dreg.plan(moving, stages=[half_right_stage(kind)], block_shape=block)
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
        "stages": [half_right_stage("shift")],
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
        "xdreg.registration.planned_methods.local_correlation", fails_at_full_step
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
