"""Registration of one pair of small images by elastix, in engine processes.

This module owns the way into elastix and out of it. Elastix gets the images in a frame
of its own: origin at the fixed image's first voxel (B-spline) or centre (linear), one
unit of length to a (mean) fixed voxel. So weights and steps mean the same in nanometres
and metres, far-off origins cost no precision, and the index is zero, without which its
B-spline is wrong. The order of axes is ITK's (x, y, z) inside ``_engine_*`` alone.

Klein et al., "elastix: a toolbox for intensity-based medical image registration", 2010.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from xdreg.coordinates import coordinates, grid_of
from xdreg.engines import bspline as _bspline
from xdreg.engines import processes
from xdreg.errors import InputError, MethodError
from xdreg.grid import Grid, checked_matrix, positive_per_axis

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from xdreg.stages import Kind

Metric = Literal["ncc", "mi", "msd"]

_METRICS = {
    "ncc": "AdvancedNormalizedCorrelation",
    "mi": "AdvancedMattesMutualInformation",
    "msd": "AdvancedMeanSquares",
}
_TRANSFORMS = {
    "translation": "TranslationTransform",
    "rigid": "EulerTransform",
    "similarity": "SimilarityTransform",
    "affine": "AffineTransform",
}

#: Fewest voxels per axis that a linear or B-spline registration can say anything about.
MINIMUM_VOXELS = {"linear": 4, "bspline": 8}

#: Fewest voxels within a mask.
MINIMUM_MASK = 64

#: A linear registration starts where smoothing leaves about this many voxels per axis.
_COARSEST_VOXELS = 8

#: Points at which the optimiser's step length is estimated before a B-spline is fitted.
#: With elastix's own numbers, one per control point and 100,000, that takes as long as
#: the fit, which is no better for it.
_ESTIMATE = {
    "NumberOfJacobianMeasurements": ["300"],
    "NumberOfSamplesForExactGradient": ["10000"],
}

#: Below this share of the image, drawing points until they hit the mask takes too long.
_SPARSE_MASK = 0.2


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
    """Register two images by a linear transform.

    Parameters
    ----------
    fixed, moving : DataArray ([z], y, x)
        Small images (a coarse level, up to about 100³ voxels), each on its own grid;
        a boolean coordinate ``mask`` says which voxels count.
    kind
        What the update of ``initial`` may do.
    metric
        ``"ncc"`` for one modality, ``"mi"`` for two, ``"msd"`` for equal intensities.
    initial : (ndim + 1, ndim + 1), optional
        Where to start, fixed to moving, in dims order; identity if not given.
    iterations
        Optimiser steps on each smoothing level; the levels follow from the image's
        size.
    samples
        Points drawn in each step.
    seed
        Of the random points. The result is the same to the bit for the same input.
    timeout : float, second, optional
        Give up after this long.
    memory_limit : int, byte, optional
        Give up where the process takes more.

    Returns
    -------
    (ndim + 1, ndim + 1) float64
        The total transform, ``initial`` included: homogeneous, fixed to moving, in
        dims order and the images' units.

    Raises
    ------
    MethodError
        If the images cannot be registered, or elastix says so.
    """
    _check_choices(metric, iterations=iterations, samples=samples)
    if kind not in _TRANSFORMS:
        msg = f"kind must be one of {sorted(_TRANSFORMS)}, got {kind!r}"
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
    images: list[Any] = [
        *_prepared(fixed, fixed_grid, "fixed", metric, "linear"),
        *_prepared(moving, moving_grid, "moving", metric, "linear"),
    ]
    images = _on_one_scale(images)

    # In elastix's frame the initial transform maps zero to zero.
    scale = float(np.prod(fixed_grid.spacing) ** (1 / ndim))
    fixed_zero = fixed_grid.centre
    moving_zero = start[:ndim, :ndim] @ fixed_zero + start[:ndim, ndim]
    local_fixed = _local_grid(fixed_grid, fixed_zero, scale)
    local_moving = _local_grid(moving_grid, moving_zero, scale)
    levels = _linear_levels(local_fixed)
    parameters = {
        **_common_parameters(metric, iterations, samples, seed, images[1]),
        "Registration": ["MultiResolutionRegistration"],
        "Transform": [_TRANSFORMS[kind]],
        "AutomaticScalesEstimation": ["true"],
        "AutomaticTransformInitialization": ["false"],
        **_pyramid(levels, local_fixed),
        "MaximumStepLength": [str(max(1.0, level / 2)) for level in levels],
    }
    local = processes.call(
        f"{__name__}:_engine_linear",
        *images,
        local_fixed,
        local_moving,
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
    resolutions: int = 2,
    bending_energy: float = 0.0,
    seed: int = 0,
    timeout: float | None = None,
    memory_limit: int | None = None,
) -> xr.DataArray:
    """Register two images on one grid by a cubic B-spline.

    Parameters
    ----------
    fixed, moving : DataArray ([z], y, x)
        Small images on one grid, the moving one warped already; a boolean coordinate
        ``mask`` says which voxels count.
    grid_spacing
        Distance of the control points, one number or one per dim, in the images' units.
    metric
        ``"ncc"`` for one modality, ``"mi"`` for two, ``"msd"`` for equal intensities.
    iterations
        Optimiser steps on each resolution.
    samples
        Points drawn in each step.
    resolutions
        Rounds, each with half the smoothing and half the grid spacing of the one
        before; the last has no smoothing and ``grid_spacing``.
    bending_energy
        Weight of the bending energy, which is measured in voxels; zero leaves the term
        out.
    seed
        Of the random points. The result is the same to the bit for the same input.
    timeout : float, second, optional
        Give up after this long.
    memory_limit : int, byte, optional
        Give up where the process takes more.

    Returns
    -------
    DataArray (component, [z], y, x) float32
        The displacement on fixed's grid, in its units.

    Raises
    ------
    MethodError
        If the images cannot be registered, or elastix says so.
    """
    _check_choices(
        metric, iterations=iterations, samples=samples, resolutions=resolutions
    )
    if not np.isfinite(bending_energy) or bending_energy < 0:
        msg = f"bending_energy must be zero or positive, got {bending_energy}"
        raise InputError(msg)
    grid, moving_grid = grid_of(fixed, "fixed"), grid_of(moving, "moving")
    if not _same_grid(grid, moving_grid):
        msg = (
            f"fixed and moving must share one grid, got {grid} and {moving_grid}; warp "
            "the moving image onto the fixed one first"
        )
        raise InputError(msg)
    knots = positive_per_axis(grid_spacing, grid.ndim, "grid_spacing")
    images: list[Any] = [
        *_prepared(fixed, grid, "fixed", metric, "bspline"),
        *_prepared(moving, grid, "moving", metric, "bspline"),
    ]
    images = _on_one_scale(images)
    scale = float(np.prod(grid.spacing) ** (1 / grid.ndim))
    local = _local_grid(grid, np.asarray(grid.origin), scale)
    levels = [2**k for k in reversed(range(resolutions))]
    parameters = {
        **_common_parameters(metric, iterations, samples, seed, images[1]),
        **_ESTIMATE,
        "Registration": ["MultiResolutionRegistration"],
        "Transform": ["BSplineTransform"],
        "BSplineTransformSplineOrder": ["3"],
        "FinalGridSpacingInPhysicalUnits": [
            repr(_rounded(v / scale)) for v in knots[::-1]
        ],
        "GridSpacingSchedule": [str(level) for level in levels],
        **_pyramid(levels, local),
    }
    if bending_energy > 0:
        parameters |= {
            "Registration": ["MultiMetricMultiResolutionRegistration"],
            "Metric": [_METRICS[metric], "TransformBendingEnergyPenalty"],
            "Metric0Weight": ["1.0"],
            "Metric1Weight": [repr(float(bending_energy))],
        }
    values, control = processes.call(
        f"{__name__}:_engine_bspline",
        *images,
        local,
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


def load() -> None:
    """Import what elastix needs, which takes seconds; engine processes do it once."""
    import itk

    for ndim in (2, 3):
        image_type = itk.Image[itk.F, ndim]
        itk.ElastixRegistrationMethod[image_type, image_type].New()


def _check_choices(metric: str, **counts: int) -> None:
    if metric not in _METRICS:
        msg = f"metric must be one of {sorted(_METRICS)}, got {metric!r}"
        raise InputError(msg)
    for name, count in counts.items():
        if int(count) != count or count < 1:
            msg = f"{name} must be a whole number from 1, got {count!r}"
            raise InputError(msg)


def _same_grid(a: Grid, b: Grid) -> bool:
    if (a.dims, a.shape, a.units) != (b.dims, b.shape, b.units):
        return False
    # A hundredth of a voxel anywhere: more than rounding, less than matters.
    ends = [g.index_to_physical(i) for g in (a, b) for i in (0, np.array(g.shape) - 1)]
    limit = 0.01 * np.asarray(a.spacing)
    return bool(
        (np.abs(ends[0] - ends[2]) <= limit).all()
        and (np.abs(ends[1] - ends[3]) <= limit).all()
    )


def _prepared(
    image: xr.DataArray, grid: Grid, name: str, metric: str, method: str
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """Return values and mask that elastix can take, or say why there are none."""
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
    counted = values if mask is None else values[mask]
    if not np.isfinite(counted).all():
        msg = (
            f"{name} holds NaN or infinity; fill them, or exclude them by a boolean "
            "coordinate 'mask'"
        )
        raise MethodError(msg)
    low, high = float(counted.min()), float(counted.max())
    if not high > low:
        msg = f"{name} is constant ({low:g}) where it counts; nothing to register"
        raise MethodError(msg)
    # Smoothing would spread what is not finite into the mask.
    values[~np.isfinite(values)] = low
    if metric == "mi":
        values = _without_outliers(values, counted)
    return values, mask


def _without_outliers(
    values: NDArray[np.float32], counted: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Clip to the central 99.8 %: a few extremes would empty the histogram's bins."""
    low, high = np.quantile(counted, (0.001, 0.999))
    return np.clip(values, low, high) if high > low else values


def _on_one_scale(images: list[Any]) -> list[Any]:
    """Shift and divide both images alike, so that float32 sums stay exact enough."""
    fixed = images[0] if images[1] is None else images[0][images[1]]
    offset, spread = fixed.mean(dtype=np.float64), fixed.std(dtype=np.float64)
    for i in (0, 2):
        images[i] = ((images[i] - offset) / spread).astype(np.float32)
    return images


def _local_grid(grid: Grid, zero: NDArray[np.float64], scale: float) -> Grid:
    return Grid(
        grid.dims,
        grid.shape,
        tuple(_rounded(v / scale) for v in grid.spacing),
        tuple(float(v) for v in (np.asarray(grid.origin) - zero) / scale),
    )


def _rounded(length: float) -> float:
    # Elastix counts control points by rounding up: the last bit must not decide.
    return float(f"{length:.12g}")


def _linear_levels(local: Grid) -> list[int]:
    """Return the smoothing of each level in mean voxels, coarsest first."""
    extent = float((np.asarray(local.shape) * np.asarray(local.spacing)).min())
    coarsest = int(np.clip(np.log2(max(extent / _COARSEST_VOXELS, 1.0)), 0, 4))
    return [2**k for k in reversed(range(coarsest + 1))]


def _pyramid(levels: Sequence[int], local: Grid) -> dict[str, list[str]]:
    """Return a smoothing pyramid that is isotropic in physical space."""
    schedule = [
        str(max(1, round(level / step))) if level > 1 else "0"
        for level in levels
        for step in local.spacing[::-1]
    ]
    return {
        "FixedImagePyramid": ["FixedSmoothingImagePyramid"],
        "MovingImagePyramid": ["MovingSmoothingImagePyramid"],
        "NumberOfResolutions": [str(len(levels))],
        "ImagePyramidSchedule": schedule,
    }


def _common_parameters(
    metric: str,
    iterations: int,
    samples: int,
    seed: int,
    fixed_mask: NDArray[Any] | None,
) -> dict[str, list[str]]:
    sparse = fixed_mask is not None and fixed_mask.mean() < _SPARSE_MASK
    return {
        "FixedInternalImagePixelType": ["float"],
        "MovingInternalImagePixelType": ["float"],
        "Metric": [_METRICS[metric]],
        "NumberOfHistogramBins": ["32"],
        "Optimizer": ["AdaptiveStochasticGradientDescent"],
        "AutomaticParameterEstimation": ["true"],
        "MaximumNumberOfIterations": [str(int(iterations))],
        "ImageSampler": ["RandomSparseMask" if sparse else "RandomCoordinate"],
        "NumberOfSpatialSamples": [str(int(samples))],
        "NewSamplesEveryIteration": ["true"],
        "MaximumNumberOfSamplingAttempts": ["8"],
        "RequiredRatioOfValidSamples": ["0.05"],
        "RandomSeed": [str(int(seed))],
        "Interpolator": ["LinearInterpolator"],
        "ErodeMask": ["false"],
        "Resampler": ["DefaultResampler"],
        "ResampleInterpolator": ["FinalLinearInterpolator"],
        "WriteResultImage": ["false"],
        "WriteFinalTransformParameters": ["false"],
    }


def _engine_linear(
    fixed: NDArray[np.float32],
    fixed_mask: NDArray[np.bool_] | None,
    moving: NDArray[np.float32],
    moving_mask: NDArray[np.bool_] | None,
    fixed_grid: Grid,
    moving_grid: Grid,
    parameters: Mapping[str, Sequence[str]],
    initial: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Run elastix on a linear transform; return the matrix in its frame, dims order."""
    import itk

    ndim = fixed.ndim
    method = _method(
        fixed, fixed_mask, moving, moving_mask, fixed_grid, moving_grid, parameters
    )
    if not np.array_equal(initial, np.eye(ndim)):
        start = itk.AffineTransform[itk.D, ndim].New()
        start.SetMatrix(itk.matrix_from_array(initial[::-1, ::-1].copy()))
        method.SetExternalInitialTransform(start)
    method.UpdateLargestPossibleRegion()
    transform = method.GetCombinationTransform()
    # Any linear transform is known by where it sends zero and the axes.
    zero = np.array(transform.TransformPoint([0.0] * ndim))
    reach = float(max(fixed_grid.shape))
    columns = [
        (np.array(transform.TransformPoint(point)) - zero) / reach
        for point in (reach * np.eye(ndim)).tolist()
    ]
    result = np.eye(ndim + 1)
    result[:ndim, :ndim] = np.stack(columns, axis=1)[::-1, ::-1]
    result[:ndim, ndim] = zero[::-1]
    return result


def _engine_bspline(
    fixed: NDArray[np.float32],
    fixed_mask: NDArray[np.bool_] | None,
    moving: NDArray[np.float32],
    moving_mask: NDArray[np.bool_] | None,
    grid: Grid,
    parameters: Mapping[str, Sequence[str]],
) -> tuple[NDArray[np.float64], Grid]:
    """Run elastix on a B-spline; return coefficients and their grid in its frame."""
    method = _method(fixed, fixed_mask, moving, moving_mask, grid, grid, parameters)
    method.UpdateLargestPossibleRegion()
    found = method.GetTransformParameterObject().GetParameterMap(0)
    size, spacing, origin = (
        tuple(float(v) for v in found[name])[::-1]
        for name in ("GridSize", "GridSpacing", "GridOrigin")
    )
    control = Grid(grid.dims, tuple(int(v) for v in size), spacing, origin)
    values = np.array(found["TransformParameters"], dtype=np.float64)
    return values.reshape(grid.ndim, *control.shape)[::-1].copy(), control


def _method(
    fixed: NDArray[np.float32],
    fixed_mask: NDArray[np.bool_] | None,
    moving: NDArray[np.float32],
    moving_mask: NDArray[np.bool_] | None,
    fixed_grid: Grid,
    moving_grid: Grid,
    parameters: Mapping[str, Sequence[str]],
) -> Any:
    import itk

    fixed_image = _itk_image(fixed, fixed_grid)
    method = itk.ElastixRegistrationMethod[type(fixed_image), type(fixed_image)].New()
    method.SetFixedImage(fixed_image)
    method.SetMovingImage(_itk_image(moving, moving_grid))
    if fixed_mask is not None:
        method.SetFixedMask(_itk_image(fixed_mask.astype(np.uint8), fixed_grid))
    if moving_mask is not None:
        method.SetMovingMask(_itk_image(moving_mask.astype(np.uint8), moving_grid))
    settings = itk.ParameterObject.New()
    settings.AddParameterMap({name: list(v) for name, v in parameters.items()})
    method.SetParameterObject(settings)
    method.SetLogToConsole(False)
    # More threads crash with two metrics, and change the bits with one.
    method.SetNumberOfThreads(1)
    return method


def _itk_image(values: NDArray[Any], grid: Grid) -> Any:
    import itk

    image = itk.image_from_array(values)
    image.SetSpacing(list(grid.spacing[::-1]))
    image.SetOrigin(list(grid.origin[::-1]))
    return image
