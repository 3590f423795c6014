"""Linear registration by xdreg's own metrics: the fit, and the pose it starts from."""

import itertools
import json

import numpy as np
import pytest
import scipy.ndimage
import xarray as xr

import xdreg
from xdreg.coordinates import coordinates
from xdreg.engines.correlation import correlation_terms
from xdreg.engines.linear import Volume, fit, levels, linear
from xdreg.engines.pose import DOUBTFUL, find_pose
from xdreg.errors import MethodTimeout
from xdreg.grid import Grid
from xdreg.numerics import kernels

FLAT = Grid(("y", "x"), (90, 110), (1.5, 1.0), (-30.0, 200.0), "meter")
SOLID = Grid(
    ("z", "y", "x"), (40, 44, 52), (2.0, 1.5, 1.0), (10.0, -30.0, 0.0), "meter"
)


def body(grid, seed=0):
    """Return an uneven body of blobs on a dark background."""
    rng = np.random.default_rng(seed)
    points = np.moveaxis(np.indices(grid.shape), 0, -1) * grid.spacing
    extent = np.multiply(grid.shape, grid.spacing)
    values = np.zeros(grid.shape)
    for _ in range(25):
        centre = extent * rng.uniform(0.25, 0.75, grid.ndim)
        width = extent.min() * rng.uniform(0.03, 0.09)
        distance = ((points - centre) ** 2).sum(axis=-1)
        values += rng.uniform(0.5, 2.0) * np.exp(-0.5 * distance / width**2)
    return image(values, grid)


def image(values, grid, mask=None):
    array = xr.DataArray(values.astype(np.float32), coordinates(grid), grid.dims)
    return array if mask is None else array.assign_coords(mask=(grid.dims, mask))


def about_centre(grid, rotation, shift):
    """Return the matrix of a linear map about the middle of a grid, then a shift."""
    matrix = np.eye(grid.ndim + 1)
    matrix[:-1, :-1] = rotation
    matrix[:-1, -1] = grid.centre - rotation @ grid.centre + shift
    return matrix


def moved(fixed, matrix, fill=0.0):
    """Return the image that ``matrix`` maps the fixed one onto."""
    grid = Grid(
        FLAT.dims if fixed.ndim == 2 else SOLID.dims,
        fixed.shape,
        (FLAT if fixed.ndim == 2 else SOLID).spacing,
        (FLAT if fixed.ndim == 2 else SOLID).origin,
        "meter",
    )
    inverse = np.linalg.inv(matrix)
    values = kernels.warp_array(
        fixed.values, grid, *kernels.affine_displacement(inverse, grid), grid, fill=fill
    )
    return image(values, grid)


def rotation(ndim, degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    result = np.eye(ndim)
    result[-2:, -2:] = [[c, -s], [s, c]]
    return result


def corner_error(one, other, grid):
    """Return the largest distance in voxels between where corners are mapped."""
    low, high = (np.asarray(b) for b in grid.bounds)
    corners = np.array(list(itertools.product(*zip(low, high, strict=True))))
    gap = (one - other)[:-1]
    away = corners @ gap[:, :-1].T + gap[:, -1]
    return np.abs(away / grid.spacing).max()


@pytest.mark.parametrize("grid", [FLAT, SOLID])
@pytest.mark.parametrize("metric", ["lncc", "mind"])
def test_a_small_affine_is_found(grid, metric):
    shear = rotation(grid.ndim, 4.0) @ np.diag([1.03, 0.97, 1.0][: grid.ndim])
    truth = about_centre(grid, shear, np.array([2.0, -1.5, 1.0])[: grid.ndim])
    fixed = body(grid)
    found = linear(fixed, moved(fixed, truth), kind="affine", metric=metric)
    assert corner_error(found, truth, grid) < 0.6


@pytest.mark.parametrize("kind", ["translation", "rigid", "similarity"])
def test_a_kind_allows_no_more_than_it_says(kind):
    truth = about_centre(SOLID, 1.04 * rotation(3, 5.0), [1.0, 2.0, -1.0])
    fixed = body(SOLID)
    part = linear(fixed, moved(fixed, truth), kind=kind)[:-1, :-1]
    size = np.cbrt(np.linalg.det(part))
    if kind == "translation":
        np.testing.assert_allclose(part, np.eye(3), atol=1e-12)
    else:
        np.testing.assert_allclose(part @ part.T, size**2 * np.eye(3), atol=1e-9)
    assert size == pytest.approx(1.04 if kind == "similarity" else 1.0, abs=0.01)


@pytest.mark.parametrize(
    ("grid", "degrees"), [(FLAT, 170.0), (FLAT, -75.0), (SOLID, 40.0)]
)
def test_a_pose_far_away_is_found(grid, degrees):
    truth = about_centre(
        grid, rotation(grid.ndim, degrees), 0.15 * np.multiply(grid.shape, grid.spacing)
    )
    fixed = body(grid)
    start = find_pose(fixed, moved(fixed, truth), kind="rigid").matrix
    assert corner_error(start, truth, grid) < 4


def test_where_images_lie_already_wins_over_equals():
    rng = np.random.default_rng(0)
    tile = rng.standard_normal((30, 22))
    fixed = image(np.tile(tile, (3, 5)), FLAT)
    found = find_pose(fixed, fixed, kind="rigid").matrix
    np.testing.assert_allclose(found, np.eye(3), atol=1e-6)


@pytest.mark.parametrize("grid", [FLAT, SOLID])
@pytest.mark.parametrize("kind", ["translation", "rigid", "similarity", "affine"])
def test_every_kind_is_found_from_far(grid, kind):
    part = np.eye(grid.ndim) if kind == "translation" else rotation(grid.ndim, 38.0)
    if kind in ("similarity", "affine"):
        part = 1.15 * part
    if kind == "affine":
        part = part @ np.diag([1.05, 0.95, 1.0][: grid.ndim])
    shift = 0.2 * np.multiply(grid.shape, grid.spacing) * [1, -1, 1][: grid.ndim]
    truth = about_centre(grid, part, shift)
    fixed = body(grid)
    stage = getattr(xdreg, kind.capitalize())()
    field = fixed.dreg.register(moved(fixed, truth), stages=stage, progress=False)
    found = np.array(json.loads(field.attrs["matrix"]))
    assert corner_error(found, truth, grid) < 1
    pose = json.loads(field.attrs["pose"])
    turn = 0 if kind == "translation" else 38
    assert pose["turn"] == pytest.approx(turn, abs=4)
    assert pose["margin"] > DOUBTFUL


def test_a_cropped_and_turned_image_is_found():
    truth = about_centre(SOLID, 0.9 * rotation(3, 33.0), [8.0, -9.0, 6.0])
    fixed = body(SOLID)
    moving = moved(fixed, truth).isel(y=slice(0, 34), x=slice(9, None))
    found = find_pose(fixed, moving)
    assert corner_error(found.matrix, truth, SOLID) < 4
    assert found.margin > DOUBTFUL
    assert found.origin == "search"
    assert found.scale == pytest.approx(0.9, abs=0.03)
    low, high = (np.asarray(b) for b in SOLID.bounds)
    centre = (low + high) / 2
    mapped = found.matrix[:-1, :-1] @ centre + found.matrix[:-1, -1]
    np.testing.assert_allclose(found.shift, mapped - centre)


def test_two_poses_that_fit_alike_are_told(tmp_path, caplog):
    """A body of two halves that are alike fits either way round."""
    half = body(FLAT).values
    fixed = image(half + half[::-1, ::-1], FLAT)
    run = {"stages": [xdreg.Rigid()], "workdir": tmp_path, "progress": False}
    for _ in ("fresh", "resumed"):
        caplog.clear()
        with (
            caplog.at_level("INFO", "xdreg"),
            pytest.warns(UserWarning, match="two different poses.*as initial"),
        ):
            field = fixed.dreg.register(fixed, **run)
        assert "a turn of 0°" in caplog.text
        pose = json.loads(field.attrs["pose"])
        assert pose["origin"] == "identity"
        assert pose["margin"] < DOUBTFUL


def test_a_start_that_is_given_is_not_searched_for():
    fixed = body(FLAT)
    field = fixed.dreg.register(
        fixed, stages=[xdreg.Affine()], initial=np.eye(3), progress=False
    )
    assert "pose" not in field.attrs


def test_levels_start_by_their_size():
    """An axis that is short makes no level coarser than it needs to be."""
    dims, origin = ("z", "y", "x"), (0.0, 0.0, 0.0)
    for shape, coarsest in (((64, 40, 30), 2.0), ((96, 96, 96), 4.0)):
        grid = Grid(dims, shape, (1.0, 1.0, 1.0), origin)
        first = levels(Volume(np.zeros(shape, np.float32), grid))[0]
        assert first == (coarsest,) * 3


def test_what_is_masked_does_not_count():
    truth = about_centre(SOLID, rotation(3, 6.0), [3.0, -3.0, 2.0])
    fixed = body(SOLID)
    moving = moved(fixed, truth)
    keep = np.ones(SOLID.shape, bool)
    keep[:, :10] = False
    values = np.where(keep, fixed.values, 50.0)
    found = linear(image(values, SOLID, keep), moving, kind="rigid")
    assert corner_error(found, truth, SOLID) < 0.6


def test_nothing_to_see_leaves_the_start():
    flat = image(np.ones(FLAT.shape), FLAT)
    start = about_centre(FLAT, np.eye(2), [1.0, 2.0])
    np.testing.assert_array_equal(linear(flat, flat, initial=start), start)
    np.testing.assert_array_equal(find_pose(flat, flat).matrix, np.eye(3))


def test_timeout():
    fixed = body(SOLID)
    with pytest.raises(MethodTimeout, match="allow more time"):
        linear(fixed, moved(fixed, about_centre(SOLID, np.eye(3), 2.0)), timeout=1e-9)


def test_a_fit_never_ends_below_its_start():
    fixed, other = (Volume.of(body(SOLID, seed), "image") for seed in (0, 1))
    still = fit(fixed, other, np.eye(4), kind="affine", iterations=0)[1]
    assert fit(fixed, other, np.eye(4), kind="affine")[1] >= still


def test_the_curvature_turns_the_force_into_voxels():
    """A least-squares step from a third of a voxel away arrives, nearly."""
    rng = np.random.default_rng(0)
    fixed = scipy.ndimage.gaussian_filter(rng.standard_normal((40, 44, 48)), 2.0)
    shift = np.array([0.3, -0.2, 0.1])
    other = scipy.ndimage.shift(fixed, shift, order=3, mode="nearest")
    images = [
        (v / v.std()).astype(np.float32)[4:-4, 4:-4, 4:-4] for v in (fixed, other)
    ]
    terms = correlation_terms(*images, (3, 3, 3), (1.0, 1.0))
    assert (terms.tensor[..., [0, 3, 5]] >= 0).all()
    zz, zy, zx, yy, yx, xx = terms.tensor.sum(axis=(0, 1, 2), dtype=np.float64)
    curvature = np.array([[zz, zy, zx], [zy, yy, yx], [zx, yx, xx]])
    force = terms.force.sum(axis=(0, 1, 2), dtype=np.float64)
    np.testing.assert_allclose(np.linalg.solve(curvature, force), shift, atol=0.05)


def test_affine_stage_in_register():
    truth = about_centre(FLAT, 1.1 * rotation(2, 100.0), [12.0, -9.0])
    fixed = body(FLAT)
    field = fixed.dreg.register(
        moved(fixed, truth), stages=[xdreg.Affine()], progress=False
    )
    points = FLAT.index_to_physical([[45, 55], [30, 40], [60, 70]])
    expected = points @ truth[:-1, :-1].T + truth[:-1, -1]
    np.testing.assert_allclose(field.dreg.transform_points(points), expected, atol=0.5)
    assert field.block_similarity_after.item() > field.block_similarity_before.item()


def test_samples_are_for_elastix():
    fixed = body(FLAT)
    with pytest.raises(xdreg.InputError, match="samples=100 is for elastix"):
        fixed.dreg.plan(fixed, stages=[xdreg.Affine(samples=100)])
    plan = fixed.dreg.plan(fixed, stages=[xdreg.Affine(samples=100)], metric="mi")
    assert plan.stages[0].metric == "mi"
