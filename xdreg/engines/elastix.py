"""Registration of two small images by elastix, in engine processes.

Elastix gets the images in a frame of its own: the origin is the fixed image's first
voxel (B-spline) or centre (linear), and a mean voxel of it has length one. So weights
and steps mean the same in nanometres and metres, distant origins cost no precision, and
the image's index is zero, without which elastix's B-spline is wrong.

Source: Klein et al., elastix: a toolbox for intensity-based medical image registration,
IEEE TMI 2010.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import xarray as xr

from xdreg.coordinates import coordinates, grid_of
from xdreg.engines import bspline as _bspline
from xdreg.engines import elastix_process, processes
from xdreg.engines.elastix_parameters import (
    METRICS,
    TRANSFORMS,
    bspline_parameters,
    common_parameters,
    linear_parameters,
)
from xdreg.engines.elastix_process import Image
from xdreg.errors import InputError, MethodError
from xdreg.grid import Grid, checked_matrix, positive_per_axis

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from xdreg.stages import Kind

Metric = Literal["ncc", "mi", "msd"]

#: Largest ratio of spacings. Beyond it elastix ends in errors of its own.
MOST_RATIO = 1e3

#: Fewest voxels per axis of a linear or B-spline registration.
MINIMUM_VOXELS = {"linear": 4, "bspline": 8}

#: Fewest voxels within a mask.
MINIMUM_MASK = 64


def linear(
    fixed: xr.DataArray,
    moving: xr.DataArray,
    *,
    kind: Kind = "affine",
    metric: Metric = "ncc",
    initial: ArrayLike | None = None,
    iterations: int = 250,
    samples: int = 2048,
    seed: int = 0,
    timeout: float | None = None,
    memory_limit: int | None = None,
) -> NDArray[np.float64]:
    """Register two images, each on its own grid, by a linear transform.

    Images are ([z], y, x), up to about 100³ voxels, optionally with a boolean
    coordinate ``mask``. Returns the total transform (ndim + 1, ndim + 1), ``initial``
    included: homogeneous, fixed to moving, in dims order and the images' units.

    ``kind`` is that of the update of ``initial``. ``iterations`` are optimiser steps on
    each smoothing level, ``samples`` the points drawn in each step. Limits are in
    seconds and bytes.
    """
    _check_choices(metric, iterations=iterations, samples=samples)
    if kind not in TRANSFORMS:
        msg = f"kind must be one of {sorted(TRANSFORMS)}, got {kind!r}"
        raise InputError(msg)
    fixed_grid, moving_grid = grid_of(fixed, "fixed"), grid_of(moving, "moving")
    if (fixed_grid.dims, fixed_grid.units) != (moving_grid.dims, moving_grid.units):
        msg = (
            f"fixed has dims {fixed_grid.dims} in {fixed_grid.units}, moving "
            f"{moving_grid.dims} in {moving_grid.units}; express both alike"
        )
        raise InputError(msg)
    ndim = fixed_grid.ndim
    start = np.eye(ndim + 1)
    if initial is not None:
        start = checked_matrix(initial, ndim, "initial")
    # In elastix's frame the initial transform maps zero to zero.
    scale = float(np.prod(fixed_grid.spacing) ** (1 / ndim))
    fixed_zero = fixed_grid.centre
    moving_zero = start[:ndim, :ndim] @ fixed_zero + start[:ndim, ndim]
    images = _prepared(
        (fixed, fixed_grid, _local_grid(fixed_grid, fixed_zero, scale)),
        (moving, moving_grid, _local_grid(moving_grid, moving_zero, scale)),
        metric,
        "linear",
    )
    parameters = {
        **common_parameters(metric, iterations, samples, seed, images[0].mask),
        **linear_parameters(kind, images[0].grid),
    }
    local = processes.call(
        f"{elastix_process.__name__}:linear",
        *images,
        parameters,
        start[:ndim, :ndim],
        timeout=timeout,
        memory_limit=memory_limit,
    )
    total = np.eye(ndim + 1)
    total[:ndim, :ndim] = local[:ndim, :ndim]
    total[:ndim, ndim] = (
        moving_zero + scale * local[:ndim, ndim] - local[:ndim, :ndim] @ fixed_zero
    )
    if not np.isfinite(total).all() or np.linalg.det(total) <= 0:
        msg = f"elastix ended in a transform that folds space: {total.tolist()}"
        raise MethodError(msg)
    return total


def bspline(
    fixed: xr.DataArray,
    moving: xr.DataArray,
    *,
    grid_spacing: float | Sequence[float],
    metric: Metric = "ncc",
    iterations: int = 100,
    samples: int = 2048,
    seed: int = 0,
    timeout: float | None = None,
    memory_limit: int | None = None,
) -> xr.DataArray:
    """Register two images on one grid by a cubic B-spline; return the displacement.

    ``grid_spacing`` is the distance of the control points in the images' units. The
    first of two rounds takes twice that, and smooths the images. ``iterations`` are the
    optimiser's steps in each round. Other options are those of `linear`.
    """
    _check_choices(metric, iterations=iterations, samples=samples)
    grid, moving_grid = grid_of(fixed, "fixed"), grid_of(moving, "moving")
    if not _same_grid(grid, moving_grid):
        msg = (
            f"fixed and moving must share one grid, got {grid} and {moving_grid}; warp "
            "the moving image onto the fixed one first"
        )
        raise InputError(msg)
    knots = positive_per_axis(grid_spacing, grid.ndim, "grid_spacing")
    scale = float(np.prod(grid.spacing) ** (1 / grid.ndim))
    local = _local_grid(grid, np.asarray(grid.origin), scale)
    images = _prepared((fixed, grid, local), (moving, grid, local), metric, "bspline")
    parameters = {
        **common_parameters(metric, iterations, samples, seed, images[0].mask),
        **bspline_parameters([_rounded(v / scale) for v in knots], local),
    }
    values, control = processes.call(
        f"{elastix_process.__name__}:bspline",
        *images,
        parameters,
        timeout=timeout,
        memory_limit=memory_limit,
    )
    if not np.isfinite(values).all():
        msg = "elastix diverged to a field that is not finite; use more samples"
        raise MethodError(msg)
    displacement = _bspline.evaluate(values * scale, control, local)
    return xr.DataArray(
        displacement,
        dims=("component", *grid.dims),
        coords=xr.Coordinates({"component": list(grid.dims)}) | coordinates(grid),
        name="displacement",
        attrs={} if grid.units is None else {"units": grid.units},
    )


def _check_choices(metric: str, **counts: int) -> None:
    if metric not in METRICS:
        msg = f"metric must be one of {sorted(METRICS)}, got {metric!r}"
        raise InputError(msg)
    for name, count in counts.items():
        if int(count) != count or count < 1:
            msg = f"{name} must be a whole number from 1, got {count!r}"
            raise InputError(msg)


def _same_grid(a: Grid, b: Grid) -> bool:
    if (a.dims, a.shape, a.units) != (b.dims, b.shape, b.units):
        return False
    # A hundredth of a voxel anywhere: more than rounding, less than matters.
    last = np.array(a.shape) - 1
    ends = [g.index_to_physical([0 * last, last]) for g in (a, b)]
    return bool((np.abs(ends[0] - ends[1]) <= 0.01 * np.asarray(a.spacing)).all())


def _prepared(
    fixed: tuple[xr.DataArray, Grid, Grid],
    moving: tuple[xr.DataArray, Grid, Grid],
    metric: str,
    method: str,
) -> tuple[Image, Image]:
    """Return two images for elastix, each from its data, its grid and the local grid.

    Both are shifted and scaled alike, so that float32 sums are precise enough.
    """
    one, other = (
        Image(*_checked(image, grid, name, metric, method), local)
        for name, (image, grid, local) in (("fixed", fixed), ("moving", moving))
    )
    inside = one.values if one.mask is None else one.values[one.mask]
    offset, spread = inside.mean(dtype=np.float64), inside.std(dtype=np.float64)

    def scaled(image: Image) -> Image:
        values = (image.values - offset) / spread
        return replace(image, values=values.astype(np.float32))

    return scaled(one), scaled(other)


def _checked(
    image: xr.DataArray, grid: Grid, name: str, metric: str, method: str
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """Return values and mask of an image, or raise if elastix cannot use them."""
    if set(image.dims) != set(grid.dims):
        msg = f"{name} must have the dims {grid.dims} alone, got {image.dims}"
        raise InputError(msg)
    if min(grid.shape) < MINIMUM_VOXELS[method]:
        msg = (
            f"{name} has shape {grid.shape}; {method} needs at least "
            f"{MINIMUM_VOXELS[method]} voxels on every axis; use larger blocks or a "
            "finer level"
        )
        raise MethodError(msg)
    values = np.array(image.transpose(*grid.dims).values, dtype=np.float32)
    mask = None
    if "mask" in image.coords:
        mask = np.asarray(image["mask"].transpose(*grid.dims).values, dtype=bool)
        if mask.sum() < MINIMUM_MASK:
            msg = (
                f"the mask of {name} holds {int(mask.sum())} voxels; at least "
                f"{MINIMUM_MASK} must count"
            )
            raise MethodError(msg)
        if mask.all():
            mask = None
    inside = values if mask is None else values[mask]
    if not np.isfinite(inside).all():
        msg = (
            f"{name} holds NaN or infinity; fill them, or exclude them by a boolean "
            "coordinate 'mask'"
        )
        raise MethodError(msg)
    low, high = float(inside.min()), float(inside.max())
    if not high > low:
        msg = f"{name} is constant ({low:g}) where it counts; nothing to register"
        raise MethodError(msg)
    # Smoothing would spread NaN into the mask.
    values[~np.isfinite(values)] = low
    if metric == "mi":
        values = _without_outliers(values, inside)
    return values, mask


def _without_outliers(
    values: NDArray[np.float32], inside: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Clip to the central 99.8 %: a few extremes would empty the histogram's bins."""
    low, high = np.quantile(inside, (0.001, 0.999))
    return np.clip(values, low, high) if high > low else values


def _local_grid(grid: Grid, zero: NDArray[np.float64], scale: float) -> Grid:
    return Grid(
        grid.dims,
        grid.shape,
        tuple(_rounded(v / scale) for v in grid.spacing),
        tuple(float(v) for v in (np.asarray(grid.origin) - zero) / scale),
    )


def _rounded(length: float) -> float:
    # Elastix rounds the number of control points up: the last bit must not decide.
    return float(f"{length:.12g}")


def check_spacing(grid: Grid) -> None:
    """Raise if an image's spacings differ by more than `MOST_RATIO`."""
    steps = [s for s, n in zip(grid.spacing, grid.shape, strict=True) if n > 1] or [1.0]
    if max(steps) > MOST_RATIO * min(steps):
        msg = (
            f"the spacing of fixed is {grid.spacing}; elastix takes ratios up to "
            f"{MOST_RATIO:g}. Is its unit right? Else use xdreg.LocalCorrelation and "
            "the metric 'lncc' or 'mind', or resample the images"
        )
        raise InputError(msg)
