"""Local correlation: energy, gradient and curvature."""

import numpy as np
import pytest
import scipy.ndimage

from tests.helpers.images import image, texture
from xdreg.engines.correlation import (
    GAIN,
    correlation_force,
    correlation_terms,
    image_stiffness,
    mean_correlation,
)
from xdreg.engines.local_correlation import local_correlation
from xdreg.grid import Grid
from xdreg.numerics import correlation_kernels

ONE = np.ones(3, np.float32)


def update_of(fixed, moving, radius):
    """Return the update and totals where nothing is displaced."""
    update = np.zeros((*fixed.shape, 3), np.float32)
    energy = np.zeros((fixed.shape[0], 2))
    still = np.zeros_like(update)
    for kernel in correlation_force(fixed, moving, radius, ONE, (1.0, 1.0)):
        kernel(0, fixed.shape[0], still, update, energy)
    return update, energy


def by_value(images, which, place, radius):
    """Return the energy's derivative by one voxel's value, by finite differences."""
    mean = np.float32(np.nanmean(images[which]))
    sums = []
    for change in (0.02, -0.02):
        changed = [v.copy() for v in images]
        changed[which][place] += np.float32(change)
        # Keep the mean that is taken off, so that one voxel alone changes.
        changed[which] -= np.float32(np.nanmean(changed[which])) - mean
        sums.append(update_of(*changed, radius)[1][:, 0].sum())
    return (sums[0] - sums[1]) / 0.04


@pytest.mark.parametrize("radius", [(2, 2, 2), (0, 3, 2), (1, 2, 3)])
def test_gradient_is_that_of_the_energy(radius):
    """Half by moving the moving image, half by moving the fixed one the other way."""
    shape = (1 if radius[0] == 0 else 9, 11, 12)
    fixed = texture(shape, 1.0 if shape[0] > 1 else (0, 1, 1))
    moving = np.float32(0.5) * fixed + texture(shape, 1.0, seed=1)
    # The middle is far from it, for slopes beside a hole have one side only.
    fixed[0, 0, 0] = np.nan
    update, _ = update_of(fixed, moving, radius)
    rng = np.random.default_rng(2)
    for _ in range(12):
        place = tuple(
            int(rng.integers(0 if n == 1 else 2, max(1, n - 1))) for n in shape
        )
        expected = np.zeros(3)
        for which, sign in ((1, 0.5), (0, -0.5)):
            values = (fixed, moving)[which]
            slopes = [
                0.0 if n == 1 else float(np.gradient(values, axis=axis)[place])
                for axis, n in enumerate(shape)
            ]
            derivative = by_value((fixed, moving), which, place, radius)
            expected += sign * derivative * np.array(slopes)
        assert update[place] == pytest.approx(expected, rel=0.03, abs=2e-3)


def test_energy_against_scipy():
    fixed, moving = texture((10, 12, 14)), texture((10, 12, 14), seed=3)
    moving += fixed

    def box(values):
        return scipy.ndimage.uniform_filter(values, 5, mode="constant") * 125

    f, m = (v.astype(float) - v.mean() for v in (fixed, moving))
    n = box(np.ones_like(f))
    cross = box(f * m) - box(f) * box(m) / n
    floor = correlation_kernels.NOISE**2 * n
    var_f = box(f * f) - box(f) ** 2 / n + floor
    var_m = box(m * m) - box(m) ** 2 / n + floor
    expected = (cross**2 / (var_f * var_m)).mean()
    assert mean_correlation(fixed, moving, (2, 2, 2), (1.0, 1.0)) == pytest.approx(
        expected, rel=1e-4
    )


def test_edges_make_no_force():
    """An image against itself rests, at its edges too."""
    values = texture((20, 22, 24))
    update, energy = update_of(values, values.copy(), (2, 2, 2))
    assert energy[:, 0].sum() / energy[:, 1].sum() > 0.97
    field = local_correlation(image(values), image(values.copy())).displacement
    assert not field.values.any()
    assert np.isfinite(update).all()


def test_the_stiffness_is_that_of_the_whole_image():
    """It falls with smoothness, shortens updates, and is measured where not given."""
    grid = Grid(("z", "y", "x"), (32, 36, 40), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    stiffness = [image_stiffness(texture(grid.shape, s), grid) for s in (1.0, 2.0, 4.0)]
    assert stiffness == sorted(stiffness, reverse=True)
    images = [image(texture(grid.shape, 2.0, seed)) for seed in (1, 2)]
    options = {"iterations": 1, "field_sigma": 0.0}
    plain = local_correlation(*images, **options).displacement.values
    measured = [image_stiffness(images[0].values, grid)]
    same = local_correlation(*images, **options, stiffness=measured)
    np.testing.assert_array_equal(same.displacement, plain)
    stiffer = local_correlation(*images, **options, stiffness=[80 * measured[0]])
    assert 0 < np.abs(stiffer.displacement).max() < 0.2 * np.abs(plain).max()


def test_an_update_goes_as_far_where_contrast_is_low_or_shapes_are_smooth():
    """By the motion, that is: a least-squares step is as long, whatever the slopes.

    The slopes along all three axes resist, one of which moved: a third of the gain.
    """
    shape = (32, 36, 64)
    left, right = texture(shape, 1.5, seed=1), texture(shape, 3.0, seed=2)
    values = np.concatenate([left / left.std(), 0.5 * right / right.std()], axis=2)
    moved = scipy.ndimage.shift(values, (0.3, 0, 0), order=3, mode="nearest")
    options = {"iterations": 1, "field_sigma": 0.0}
    found = local_correlation(image(values), image(moved), **options)
    field = found.displacement.values[0]
    along = [np.median(part[8:-8, 8:-8, 8:-8]) for part in np.split(field, 2, axis=2)]
    np.testing.assert_allclose(along, 0.3 * GAIN[3] / 3, rtol=0.4)


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
