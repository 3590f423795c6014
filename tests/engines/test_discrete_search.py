"""The discrete search for large motion, and the descent from it."""

import math
import time

import numpy as np
import pytest
import xarray as xr

import xdreg
from tests.helpers.images import texture
from xdreg.coordinates import coordinates
from xdreg.engines.discrete_search import MOST_COSTS, _factors, _moves, large_motion
from xdreg.engines.local_correlation import local_correlation
from xdreg.grid import SPATIAL_DIMS, Grid
from xdreg.numerics import kernels
from xdreg.numerics.folding import jacobian_determinant


@pytest.mark.parametrize(
    ("shape", "shift"),
    [
        ((32, 40, 36), (6, -8, 5)),
        ((1, 96, 120), (0, 15, -24)),
        ((12, 64, 48), (2, 8, -9)),
    ],
)
@pytest.mark.parametrize("contrast", [1, -1])
def test_a_shift_of_a_fifth_of_the_image_is_found(shape, shift, contrast):
    moving = texture(shape, sigma=3)
    fixed = contrast * np.roll(moving, [-s for s in shift], axis=(0, 1, 2))
    found = large_motion(fixed, moving)
    # Where what went over one edge did not come in at the other.
    ends = np.array(shape) - np.maximum(shift, 0)
    inner = tuple(map(slice, np.maximum(np.negative(shift), 0), ends))
    off = np.abs(found - np.array(shift))[inner].reshape(-1, 3)
    assert np.all(np.median(off, axis=0) <= 0.5 * np.array(_factors(shape)))


def test_what_does_not_count_does_not_pull():
    moving = texture((1, 96, 96), sigma=3)
    fixed = np.roll(moving, -12, axis=2)
    fixed[:, 60:], moving[:, :, 88:] = np.nan, np.nan
    found = large_motion(fixed, moving)
    assert np.isfinite(found).all()
    off = np.abs(found[0, :60, :76] - (0, 0, 12)).reshape(-1, 3)
    assert np.all(np.median(off, axis=0) <= 1)


@pytest.mark.parametrize("shape", [(1, 1, 50), (1, 1, 1), (6, 7, 8)])
def test_without_shapes_nothing_moves(shape):
    image = np.full(shape, 3, np.float32)
    np.testing.assert_array_equal(large_motion(image, image), 0)


def test_what_is_found_in_noise_does_not_fold():
    shape = (24, 28, 20)
    found = large_motion(texture(shape, 0.5, seed=1), texture(shape, 0.5, seed=2))
    grid = Grid(SPATIAL_DIMS, shape, (1.0,) * 3, (0.0,) * 3, None)
    assert np.abs(found).max() > 1
    assert jacobian_determinant(np.moveaxis(found, -1, 0), grid).min() > 0


@pytest.mark.parametrize(
    "shape", [(40,) * 3, (1, 128, 128), (2, 300, 300), (1, 4, 4000), (500, 10, 10)]
)
def test_memory_is_bounded_whatever_the_shape(shape):
    factors = _factors(shape)
    coarse = [math.ceil(n / f) for n, f in zip(shape, factors, strict=True)]
    assert math.prod(coarse) * len(_moves(coarse)) <= MOST_COSTS


def test_a_second_attempt_that_is_no_better_is_dropped():
    pair = xdreg.datasets.phantom_pair((48, 56), amplitude=2.0)
    once, twice = (
        local_correlation(pair.fixed, pair.moving, search=search)
        for search in (False, True)
    )
    assert np.isnan(once.from_search)
    assert twice.from_search == 0
    np.testing.assert_array_equal(once.displacement, twice.displacement)


def test_a_second_attempt_that_takes_too_long_leaves_the_first(monkeypatch):
    def slow(*arguments):
        time.sleep(1.1)
        return large_motion(*arguments)

    pair = xdreg.datasets.phantom_pair((48, 56), amplitude=2.0)
    once = local_correlation(pair.fixed, pair.moving)
    monkeypatch.setattr("xdreg.engines.local_correlation.large_motion", slow)
    twice = local_correlation(pair.fixed, pair.moving, search=True, timeout=1.0)
    np.testing.assert_array_equal(once.displacement, twice.displacement)


def test_descent_goes_on_while_a_small_part_still_moves():
    grid = Grid(("y", "x"), (192, 192), (1.0, 1.0), (0.0, 0.0), None)
    values = texture(grid.shape, sigma=3)
    y, x = np.indices(grid.shape) - 96
    share = np.exp(-0.5 * (y**2 + x**2) / 14**2)
    truth = np.stack([0 * share, 10 * share]).astype(np.float32)
    pulled = kernels.warp_array(values, grid, truth, grid, grid, fill=0.0)
    images = [
        xr.DataArray(v.astype("f4"), coordinates(grid), grid.dims)
        for v in (pulled, values)
    ]
    worst = [
        np.linalg.norm(
            local_correlation(*images, **options).displacement.values - truth, axis=0
        )
        for options in ({}, {"convergence": 3e-4})
    ]
    early, late = (np.max(error[share > 0.1]) for error in worst)
    assert late < 0.5 < 1 < early
