"""Cubic resampling beside scipy's and ITK's, labels beside ITK's."""

import itk
import numpy as np
import pytest
import xarray as xr
from scipy import ndimage

from tests.helpers.images import geometry, places
from xdreg.coordinates import coordinates
from xdreg.grid import Grid
from xdreg.numerics import interpolation, kernels
from xdreg.numerics.itk_transforms import displacement_to_itk
from xdreg.stores.itk_images import to_itk_image

DIMS = ("z", "y", "x")


def noise(grid, sigma=0.7):
    values = np.random.default_rng(1).normal(size=grid.shape)
    return ndimage.gaussian_filter(values, sigma).astype(np.float32)


def itk_image(values, grid):
    return to_itk_image(xr.DataArray(values, dims=grid.dims, coords=coordinates(grid)))


def by_itk(values, grid, field, points, target, interpolator):
    source = itk_image(values, grid)
    function = interpolator.New(source)
    if hasattr(function, "SetSigma"):
        function.SetSigma([s * interpolation.SIGMA_VOXELS for s in grid.spacing[::-1]])
        function.SetAlpha(interpolation.CUTOFF)
    else:
        function.SetSplineOrder(3)
    return np.asarray(
        itk.resample_image_filter(
            source,
            transform=displacement_to_itk(field, points),
            interpolator=function,
            use_reference_image=True,
            reference_image=itk_image(np.zeros(target.shape, values.dtype), target),
        )
    )


@pytest.mark.parametrize("ndim", [2, 3])
def test_cubic_equals_scipy_and_itk(ndim):
    grid, points, target, field = geometry(ndim)
    values = noise(grid)
    ours = interpolation.resample(values, grid, field, points, target, order=3)
    index = grid.physical_to_index(places(points, target, field)).T
    theirs = ndimage.map_coordinates(
        values.astype(float), index, order=3, mode="mirror"
    )
    last = np.array(grid.shape)[:, None] - 1
    inside = ((index >= 0) & (index <= last)).all(axis=0)
    assert inside.mean() > 0.9
    gap = np.abs(ours.ravel() - theirs)[inside]
    assert gap.max() < 1e-6
    inside = inside.reshape(target.shape)
    itks = by_itk(
        values, grid, field, points, target, itk.BSplineInterpolateImageFunction
    )
    assert np.abs(ours - itks)[inside].max() < 1e-5


def test_cubic_does_not_depend_on_the_window():
    grid = Grid(DIMS, (60, 50, 70), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    values = noise(grid, 0.5)
    target = Grid(DIMS, (6, 7, 8), (1.0, 1.1, 0.9), (25.3, 20.2, 30.4))
    still = kernels.affine_displacement(np.eye(4), grid)
    whole = interpolation.resample(values, grid, *still, target, order=3)
    margin = interpolation.margin_of(3, None)
    ends = target.index_to_physical([[0, 0, 0], [n - 1 for n in target.shape]])
    window = grid.covering(*ends, margin=margin)
    part = grid.window(window)
    assert all(n < m for n, m in zip(part.shape, grid.shape, strict=True))
    cut = interpolation.resample(values[window], part, *still, target, order=3)
    assert np.abs(cut - whole).max() < 1e-6 * np.abs(values).max()
    # A narrower window is worse: the halo is needed.
    window = grid.covering(*ends, margin=3)
    narrow = interpolation.resample(
        values[window], grid.window(window), *still, target, order=3
    )
    assert np.abs(narrow - whole).max() > 1e-4 * np.abs(values).max()


@pytest.mark.parametrize("shape", [(1, 9, 2), (3, 4, 30), (25, 24, 1)])
def test_cubic_passes_through_the_voxels_of_any_shape(shape):
    grid = Grid(DIMS, shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    values = noise(grid)
    still = kernels.affine_displacement(np.eye(4), grid)
    same = interpolation.resample(values, grid, *still, grid, order=3)
    np.testing.assert_allclose(same, values, atol=1e-6)


def test_nan_stays_where_it_is():
    grid, points, target, field = geometry(3)
    values = noise(grid)
    clean = interpolation.resample(values, grid, field, points, target, order=3)
    values[5, 8, 9] = np.nan
    found = interpolation.resample(values, grid, field, points, target, order=3)
    linear = kernels.warp_array(values, grid, field, points, target)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(linear))
    assert np.isnan(found).any()
    known = np.isfinite(found)
    assert np.abs(found - clean)[known].max() < 0.1 * np.nanstd(values)
    empty = np.full(grid.shape, np.nan, np.float32)
    assert np.isnan(
        interpolation.resample(empty, grid, field, points, target, order=3)
    ).all()


def labels_on(grid):
    first, second = (noise(grid, 2), noise(grid, 3))
    return (1000 * (first > 0) + 7 * (second > 0.01)).astype(np.uint16)


@pytest.mark.parametrize("ndim", [2, 3])
def test_gaussian_labels_equal_itks(ndim):
    grid, points, target, field = geometry(ndim)
    values = labels_on(grid)
    ours = interpolation.resample(
        values, grid, field, points, target, labels="gaussian", fill=0
    )
    interpolator = itk.LabelImageGaussianInterpolateImageFunction
    theirs = by_itk(values, grid, field, points, target, interpolator)
    np.testing.assert_array_equal(ours, theirs)
    assert ours.dtype == values.dtype
    nearest = kernels.warp_array(values, grid, field, points, target, order=0, fill=0)
    assert 0.01 < (ours != nearest).mean() < 0.3


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_majority_is_that_of_linear_interpolation(ndim):
    grid, points, target, field = geometry(ndim)
    values = labels_on(grid)
    ours = interpolation.resample(
        values, grid, field, points, target, labels="majority", fill=0
    )
    names = np.unique(values)
    shares = np.stack(
        [
            kernels.warp_array(
                (values == name).astype("f4"), grid, field, points, target
            )
            for name in names
        ]
    )
    best, next_best = np.sort(shares, axis=0)[[-1, -2]]
    clear = best - next_best > 1e-5
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(ours[clear], names[shares.argmax(axis=0)][clear])


@pytest.mark.parametrize("labels", ["majority", "gaussian"])
def test_labels_are_exact_and_none_is_new(labels):
    grid, points, target, field = geometry(3)
    values = labels_on(grid).astype(np.uint64) + np.uint64(2**60)
    found = interpolation.resample(
        values, grid, field, points, target, labels=labels, fill=0
    )
    assert set(np.unique(found)) <= {*np.unique(values), np.uint64(0)}
    still = kernels.affine_displacement(np.eye(4), grid)
    if labels == "majority":
        same = interpolation.resample(values, grid, *still, grid, labels=labels, fill=0)
        np.testing.assert_array_equal(same, values)
