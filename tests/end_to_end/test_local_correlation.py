"""Registrations by stages of local correlation, their options and their search."""

import numpy as np
import pytest
import xarray as xr

import xdreg
from tests.helpers.images import texture
from xdreg.coordinates import coordinates
from xdreg.engines.local_correlation import local_correlation
from xdreg.errors import InputError
from xdreg.grid import Grid
from xdreg.numerics import kernels


def test_stage_registers_in_blocks_like_whole():
    pair = xdreg.datasets.phantom_pair((64, 72, 48), amplitude=2.0)
    fields = [
        pair.fixed.dreg.register(
            pair.moving,
            initial=np.eye(4),
            stages=[
                xdreg.LocalCorrelation(level=1, block_shape=1024),
                xdreg.LocalCorrelation(level=0, block_shape=block),
            ],
            metric="lncc",
            progress=False,
        )
        for block in (32, 1024)
    ]
    assert fields[0].block_status.size == 12
    inside = pair.foreground.values[::2, ::2, ::2]
    difference = (fields[0].displacement - fields[1].displacement).values
    length = np.linalg.norm(difference, axis=0)[
        tuple(slice(0, n) for n in inside.shape)
    ]
    assert np.median(length[inside]) < 0.05


def test_light_from_opposite_sides_moves_nothing():
    pair = xdreg.datasets.phantom_pair((48, 56, 52), amplitude=2.0)
    fall = np.exp(-2 * np.linspace(0, 1, 48, dtype=np.float32))[:, None, None]
    points = np.argwhere(pair.foreground.values)[::37]
    truth = np.moveaxis(pair.displacement.values, 0, -1)[tuple(points.T)]
    errors = []
    for near, far in ((np.ones_like(fall), np.ones_like(fall)), (fall, fall[::-1])):
        field = (pair.fixed * near).dreg.register(
            pair.moving * far, metric="lncc", progress=False
        )
        moved = field.dreg.transform_points(points.astype(float)) - points
        errors.append(np.percentile(np.linalg.norm(moved - truth, axis=1), 95))
    even, uneven = errors
    assert uneven < 1.5 * even


def test_what_a_mask_leaves_out_sets_no_scale():
    """Neither noise nor stiffness is measured against it."""
    pair = xdreg.datasets.phantom_pair((64, 72), amplitude=2.0)
    fixed, moving = pair.fixed.compute(), pair.moving.compute()
    mask = pair.foreground
    mask[:8], mask[-8:] = False, False
    fields = []
    for junk in (0.0, 1e5):
        spoilt = fixed.where(mask, np.float32(junk) * texture(fixed.shape, seed=9))
        fields.append(
            spoilt.dreg.register(
                moving,
                fixed_mask=mask,
                initial=np.eye(3),
                stages=[xdreg.LocalCorrelation(level=0)],
                progress=False,
            )
        )
    clean, spoilt = (field.displacement.values for field in fields)
    assert np.abs(clean).max() > 1
    np.testing.assert_allclose(spoilt, clean, atol=1e-3)


def test_metrics_that_a_stage_lacks():
    with pytest.raises(xdreg.InputError, match="nearest is 'lncc'"):
        xdreg.LocalCorrelation(metric="ncc")
    with pytest.raises(xdreg.InputError, match="nearest is 'ncc'"):
        xdreg.BSpline(metric="lncc")
    pair = xdreg.datasets.phantom_pair((48, 56))
    plans = {
        m: pair.fixed.dreg.plan(pair.moving, metric=m) for m in ("lncc", "mi", "msd")
    }
    used = {m: [s.metric for s in plan.stages] for m, plan in plans.items()}
    assert used["lncc"] == ["lncc", "lncc"]
    assert used["mi"] == ["mi", "mi", "mind"]
    assert used["msd"] == ["msd"] * 3


@pytest.mark.parametrize("option", ["radius", "update_sigma", "field_sigma", "step"])
def test_options_are_checked_and_reach_the_engine(option):
    with pytest.raises(xdreg.InputError, match=option):
        xdreg.LocalCorrelation(**{option: -1.0})
    pair = xdreg.datasets.phantom_pair((48, 56))
    plain, changed = (
        pair.fixed.dreg.register(
            pair.moving, stages=[xdreg.LocalCorrelation(**options)], progress=False
        )
        for options in ({}, {option: 0.4})
    )
    assert not plain.displacement.equals(changed.displacement)


def band(y):
    """Return one between two lines and zero elsewhere, smoothly."""
    lower, upper = (1 / (1 + np.exp((edge - y) / 10)) for edge in (107, 213))
    return lower - upper


def where_a_band_moves(metric, **options):
    """Move a third of a plane by a tenth of it, ten times its texture's grain.

    Options are those of the coarsest level. Returns the 95th percentile of the errors,
    in pixels, and the field.
    """
    grid = Grid(("y", "x"), (320, 320), (1.0, 1.0), (0.0, 0.0), "micrometer")
    values = texture(grid.shape, sigma=3)
    truth = np.zeros((2, *grid.shape), np.float32)
    truth[1] = 32 * band(np.arange(320.0))[:, np.newaxis]
    pulled = kernels.warp_array(values, grid, truth, grid, grid, fill=0.0)
    fixed, moving = (
        xr.DataArray(v.astype("f4"), coordinates(grid), grid.dims)
        for v in (pulled, values)
    )
    stages = [
        xdreg.LocalCorrelation(level=level, **options if level == 2 else {})
        for level in (2, 1, 0)
    ]
    field = fixed.dreg.register(moving, stages=stages, metric=metric, progress=False)
    points = np.argwhere(np.ones(grid.shape, bool)[:, 40:-40]) + np.array([0.0, 40.0])
    found = field.dreg.transform_points(points) - points
    error = np.linalg.norm(found - truth[:, :, 40:-40].reshape(2, -1).T, axis=1)
    return np.percentile(error, 95), field


def test_a_part_that_moves_by_itself_is_found_where_descent_fails():
    error, field = where_a_band_moves("mind", search=False)
    assert error > 10
    assert field.dreg.blocks.from_search[0].isna().all()
    error, field = where_a_band_moves("mind")
    assert error < 1
    assert (field.dreg.blocks.from_search[0] == 1).all()
    assert np.isnan(field.block_from_search).all()


def test_each_of_several_blocks_searches_if_told():
    blocks = {"block_shape": (80, 40), "overlap": 16}
    error, field = where_a_band_moves("mind", **blocks)
    assert error > 10
    assert field.dreg.blocks.from_search[0].isna().all()
    error, field = where_a_band_moves("mind", **blocks, search=True)
    assert error < 1
    assert field.dreg.blocks.from_search[0].tolist() == [1, 1]


@pytest.mark.parametrize("isolated", [False, True])
def test_attributes_of_what_a_method_returns_are_no_diagnostic(isolated):
    def own(fixed, moving):
        found = local_correlation(fixed, moving).displacement
        return found.assign_attrs(from_search="perhaps")

    pair = xdreg.datasets.phantom_pair((48, 56), amplitude=2.0)
    stage = xdreg.Custom(method=own, isolated=isolated)
    field = pair.fixed.dreg.register(pair.moving, stages=stage, progress=False)
    assert np.isnan(field.block_from_search).all()


def test_an_odd_search_is_refused():
    with pytest.raises(InputError, match="search must be True or False, got 'far'"):
        xdreg.LocalCorrelation(search="far")


@pytest.mark.parametrize("swapped", [False, True])
def test_planes_far_apart_in_one_image(swapped):
    """A stack of thick planes and one of thin ones."""
    pair = xdreg.datasets.phantom_pair((48, 56, 52), amplitude=2.0)
    thick = pair.moving.astype("float32").coarsen(z=4).mean()
    thick.z.attrs |= pair.moving.z.attrs | {"spacing": 4.0}
    images, points = (pair.fixed, thick), (pair.fixed_points, pair.moving_points)
    if swapped:
        images, points = images[::-1], points[::-1]
    field = images[0].dreg.register(images[1], metric="lncc", progress=False)
    error = np.linalg.norm(field.dreg.transform_points(points[0]) - points[1], axis=1)
    assert np.nanpercentile(error, 75) < (0.45 if swapped else 0.73)
    assert np.isfinite(error).mean() > 0.9
