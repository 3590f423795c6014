"""Recovery of known motions by elastix, its reproducibility, and unusable input."""

import numpy as np
import pytest
import xarray as xr

import xdreg
from tests.helpers.pairs import shifted_pair
from xdreg.coordinates import coordinates
from xdreg.engines import elastix, processes
from xdreg.errors import InputError, MethodError
from xdreg.grid import Grid

pytest.importorskip("itk")

GRID = Grid(("z", "y", "x"), (30, 36, 40), (2.5, 2.0, 1.5), (100.0, -50.0, 7.0), "mm")
FLAT = Grid(("y", "x"), (48, 56), (2.0, 1.5), (-50.0, 7.0), None)


def scene(points, grid, seed=0, count=60):
    """Return smooth blobs at fixed physical places, seen at any points."""
    random = np.random.default_rng(seed)
    lower, upper = grid.bounds
    centres = random.uniform(lower, upper, (count, grid.ndim))
    widths = random.uniform(2.0, 5.0, count) * np.mean(grid.spacing)
    heights = random.uniform(0.3, 1.0, count)
    result = np.zeros(points.shape[:-1])
    for centre, width, height in zip(centres, widths, heights, strict=True):
        square = ((points - centre) ** 2).sum(axis=-1)
        result += height * np.exp(-0.5 * square / width**2)
    return result


def points_of(grid):
    return grid.index_to_physical(np.moveaxis(np.indices(grid.shape), 0, -1))


def image(values, grid, mask=None):
    result = xr.DataArray(
        values.astype(np.float32), coordinates(grid), grid.dims, name="image"
    )
    return result if mask is None else result.assign_coords(mask=(grid.dims, mask))


def pair(grid, matrix):
    """Return a fixed image and the moving one that ``matrix`` maps it to."""
    inverse = np.linalg.inv(matrix)
    points = points_of(grid)
    moved = points @ inverse[:-1, :-1].T + inverse[:-1, -1]
    return image(scene(points, grid), grid), image(scene(moved, grid), grid)


def about_centre(grid, linear, shift):
    matrix = np.eye(grid.ndim + 1)
    matrix[:-1, :-1] = linear
    matrix[:-1, -1] = grid.centre - linear @ grid.centre + shift
    return matrix


def rotation(ndim, degrees):
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    matrix = np.eye(ndim)
    matrix[-2:, -2:] = [[c, -s], [s, c]]
    return matrix


def error_in_voxels(grid, found, true):
    points = points_of(grid).reshape(-1, grid.ndim)
    difference = found - true
    distance = points @ difference[:-1, :-1].T + difference[:-1, -1]
    return np.linalg.norm(distance / grid.spacing, axis=1).max()


# A process loads Elastix in 20 s: the first ends here, the next serves all up to the
# limit of memory.
@pytest.mark.slow
def test_elastix_on_an_image_that_it_cannot_bear():
    """Elastix crashes on the mutual information of a nearly constant image."""
    # One that served other tests would be replaced, and the call tried again.
    processes.shutdown()
    same = shifted_pair()[0]
    flat = xr.zeros_like(same)
    flat.values[0, 0] = 1e-30
    with pytest.raises(xdreg.MethodCrash, match="SIGSEGV"):
        elastix.bspline(same, flat, metric="mi", grid_spacing=20, iterations=20)
    found = elastix.bspline(same, same, metric="mi", grid_spacing=20, iterations=20)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("grid", [GRID, FLAT], ids=["3d", "2d"])
@pytest.mark.parametrize("metric", ["ncc", "mi", "msd"])
def test_translation_is_recovered(grid, metric):
    shift = np.array([6.0, -5.0, 4.0])[-grid.ndim :]
    true = about_centre(grid, np.eye(grid.ndim), shift)
    found = elastix.linear(*pair(grid, true), kind="translation", metric=metric)
    np.testing.assert_array_equal(found[:-1, :-1], np.eye(grid.ndim))
    assert error_in_voxels(grid, found, true) < 0.2


@pytest.mark.parametrize("grid", [GRID, FLAT], ids=["3d", "2d"])
def test_rotation_and_scale_are_recovered(grid):
    linear = rotation(grid.ndim, 6.0) @ np.diag([1.04, 0.95, 1.06][-grid.ndim :])
    true = about_centre(grid, linear, np.array([3.0, -2.0, 4.0])[-grid.ndim :])
    found = elastix.linear(*pair(grid, true), kind="affine")
    assert error_in_voxels(grid, found, true) < 0.3


@pytest.mark.parametrize(("kind", "scale"), [("rigid", 1.0), ("similarity", 1.06)])
def test_kinds_stay_what_they_are(kind, scale):
    true = about_centre(GRID, scale * rotation(3, 5.0), np.array([2.0, 3.0, -2.0]))
    found = elastix.linear(*pair(GRID, true), kind=kind)
    shape = found[:3, :3] @ found[:3, :3].T
    np.testing.assert_allclose(shape, shape[0, 0] * np.eye(3), atol=1e-6)
    assert error_in_voxels(GRID, found, true) < 0.3


@pytest.mark.parametrize("kind", ["translation", "affine"])
def test_initial_is_the_exact_start_and_part_of_the_result(kind):
    linear = rotation(3, 25.0) @ np.diag([1.1, 0.9, 1.2])
    true = about_centre(GRID, linear, np.array([300.0, -200.0, 100.0]))
    fixed = image(scene(points_of(GRID), GRID), GRID)
    grid = Grid(GRID.dims, (60, 60, 66), (1.7,) * 3, (345.0, -270.0, 70.0), GRID.units)
    inverse = np.linalg.inv(true)
    moving = image(
        scene(points_of(grid) @ inverse[:-1, :-1].T + inverse[:-1, -1], GRID), grid
    )
    start = true.copy()
    start[:3, 3] += [2.0, -1.0, 1.0]
    found = elastix.linear(fixed, moving, kind=kind, initial=start)
    assert error_in_voxels(GRID, found, true) < 0.3


def test_bspline_recovers_a_smooth_field():
    points = points_of(GRID)
    phase = (points - GRID.origin) / np.array([75.0, 72.0, 60.0]) * np.pi
    true = 3.0 * np.stack(
        [np.sin(phase[..., 1]), np.sin(phase[..., 2]), np.sin(phase[..., 0])]
    )
    moving = image(scene(points, GRID, count=200), GRID)
    fixed = image(scene(points + np.moveaxis(true, 0, -1), GRID, count=200), GRID)
    found = elastix.bspline(fixed, moving, grid_spacing=(20.0, 20.0, 15.0))
    assert found.dims == ("component", "z", "y", "x")
    assert found.dtype == np.float32
    assert found.component.values.tolist() == ["z", "y", "x"]
    assert found.indexes["x"].equals(fixed.indexes["x"])
    spacing = np.reshape(GRID.spacing, (3, 1, 1, 1))
    error = np.linalg.norm((found.values - true) / spacing, axis=0)
    before = np.linalg.norm(true / spacing, axis=0)
    assert before.mean() > 1.5
    assert error.mean() < 0.5


def test_bspline_in_two_dimensions():
    points = points_of(FLAT)
    moving = image(scene(points, FLAT), FLAT)
    fixed = image(scene(points + np.array([3.0, -2.0]), FLAT), FLAT)
    found = elastix.bspline(fixed, moving, grid_spacing=20.0)
    error = np.linalg.norm(found.values - [[[3.0]], [[-2.0]]], axis=0)
    assert np.median(error) < 0.5 * FLAT.spacing[1]


@pytest.mark.parametrize("masked", ["fixed", "moving"])
def test_what_the_mask_leaves_out_has_no_say(masked):
    true = about_centre(GRID, np.eye(3), np.array([4.0, 4.0, -3.0]))
    fixed, moving = pair(GRID, true)
    keep = np.ones(GRID.shape, bool)
    keep[:, :, 20:] = False
    images = {"fixed": fixed.values.copy(), "moving": moving.values.copy()}
    # An implant that one image has and that the other lacks.
    images[masked][5:25, 8:28, 24:36] += 20.0
    images[masked][0, 0, 39] = np.nan
    masks = {masked: keep}
    found = elastix.linear(
        image(images["fixed"], GRID, masks.get("fixed")),
        image(images["moving"], GRID, masks.get("moving")),
        kind="translation",
    )
    assert error_in_voxels(GRID, found, true) < 0.3


def test_same_input_same_bits_other_seed_other_bits_and_a_limit_of_memory():
    fixed, moving = pair(GRID, about_centre(GRID, rotation(3, 3.0), np.ones(3)))
    options = {"iterations": 20, "samples": 500}
    first, again, other = (
        elastix.linear(fixed, moving, seed=seed, **options) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    options["grid_spacing"] = 20.0
    first = elastix.bspline(fixed, moving, **options)
    assert (first != elastix.bspline(fixed, moving, seed=1, **options)).any()
    # Nor does the process matter, of which the limit of its memory ends one.
    images = shifted_pair()
    stage = xdreg.BSpline(level=0, iterations=20, memory_limit="10 MiB")
    with pytest.raises(MethodError, match=r"memory limit of 10\.00 MiB"):
        images[0].dreg.register(images[1], stages=[stage], progress=False)
    xr.testing.assert_identical(first, elastix.bspline(fixed, moving, **options))
    plan = images[0].dreg.plan(images[1], stages=[xdreg.BSpline(level=0)])
    assert plan.stages[0].memory_limit == 3 * plan.stages[0].memory


def test_far_origins_and_small_units_change_nothing():
    fixed, moving = pair(GRID, about_centre(GRID, rotation(3, 3.0), np.ones(3)))
    options = {"iterations": 30, "samples": 500, "grid_spacing": 20.0}
    near = elastix.bspline(fixed, moving, **options)
    far = Grid(
        GRID.dims,
        GRID.shape,
        tuple(s * 1024 for s in GRID.spacing),
        tuple(o * 1024 + 1e8 for o in GRID.origin),
    )
    options["grid_spacing"] *= 1024
    moved = elastix.bspline(
        image(fixed.values, far), image(moving.values, far), **options
    )
    np.testing.assert_allclose(moved.values / 1024, near.values, atol=1e-3)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda v: v * 0, "constant"),
        (lambda v: np.where(v == v.max(), np.nan, v), "NaN"),
    ],
)
@pytest.mark.parametrize("which", [0, 1])
def test_hopeless_images_are_refused(break_it, message, which):
    images = [image(scene(points_of(GRID), GRID), GRID)] * 2
    images[which] = images[which].copy(data=break_it(images[which].values))
    name = ["fixed", "moving"][which]
    with pytest.raises(MethodError, match=f"{name}.*{message}"):
        elastix.linear(*images, metric="mi")
    with pytest.raises(MethodError, match=f"{name}.*{message}"):
        elastix.bspline(*images, metric="mi", grid_spacing=20.0)


def test_empty_mask_and_thin_image_are_refused():
    good = image(scene(points_of(GRID), GRID), GRID)
    empty = image(good.values, GRID, np.zeros(GRID.shape, bool))
    with pytest.raises(MethodError, match="mask of moving holds 0"):
        elastix.linear(good, empty)
    thin = good.isel(z=slice(5))
    with pytest.raises(MethodError, match="at least 8 voxels"):
        elastix.bspline(thin, thin, grid_spacing=20.0)


def test_images_apart_are_an_error_not_a_crash():
    good = image(scene(points_of(GRID), GRID), GRID)
    apart = np.eye(4)
    apart[:3, 3] = 1e4
    with pytest.raises(MethodError):
        elastix.linear(good, good, initial=apart)


def test_wrong_options_are_refused():
    good = image(scene(points_of(GRID), GRID), GRID)
    with pytest.raises(InputError, match="metric"):
        elastix.linear(good, good, metric="ssd")
    with pytest.raises(InputError, match="kind"):
        elastix.linear(good, good, kind="affin")
    with pytest.raises(InputError, match="initial"):
        elastix.linear(good, good, initial=np.eye(3))
    with pytest.raises(InputError, match="share one grid"):
        elastix.bspline(good, good.isel(x=slice(1, None)), grid_spacing=20.0)
    with pytest.raises(InputError, match="grid_spacing"):
        elastix.bspline(good, good, grid_spacing=(20.0, 20.0))
    with pytest.raises(InputError, match="iterations"):
        elastix.linear(good, good, iterations=0)
