"""Parameter maps of elastix for linear and B-spline registration.

Lengths are in the frame of `elastix`, where a mean voxel of fixed has length one. Lists
per axis are in ITK's order (x, y, z).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from xdreg.grid import Grid
    from xdreg.stages import Kind

    Parameters = dict[str, list[str]]

METRICS = {
    "ncc": "AdvancedNormalizedCorrelation",
    "mi": "AdvancedMattesMutualInformation",
    "msd": "AdvancedMeanSquares",
}
TRANSFORMS = {
    "translation": "TranslationTransform",
    "rigid": "EulerTransform",
    "similarity": "SimilarityTransform",
    "affine": "AffineTransform",
}

#: A linear registration starts where smoothing leaves about this many voxels per axis.
_COARSEST_VOXELS = 8

#: Grid spacing of the rounds of a B-spline registration, relative to the last, which
#: alone does not smooth the images.
_BSPLINE_LEVELS = (2, 1)

#: Points from which the optimiser's step length is estimated before a B-spline is
#: fitted. With elastix's defaults, one per control point and 100,000, that takes as
#: long as the fit, which is no better for it.
_ESTIMATE = {
    "NumberOfJacobianMeasurements": ["300"],
    "NumberOfSamplesForExactGradient": ["10000"],
}

#: Below this share of the image, drawing points until they hit the mask takes too long.
_SPARSE_MASK = 0.2


def linear_parameters(kind: Kind, local: Grid) -> Parameters:
    """Return the parameters of a linear transform from the grid of fixed."""
    levels = _linear_levels(local)
    return {
        "Transform": [TRANSFORMS[kind]],
        "AutomaticScalesEstimation": ["true"],
        "AutomaticTransformInitialization": ["false"],
        **_pyramid(levels, local),
        "MaximumStepLength": [str(max(1.0, level / 2)) for level in levels],
    }


def bspline_parameters(spacing: Sequence[float], local: Grid) -> Parameters:
    """Return the parameters of a cubic B-spline of a spacing, in dims order."""
    return {
        **_ESTIMATE,
        "Transform": ["BSplineTransform"],
        "BSplineTransformSplineOrder": ["3"],
        "FinalGridSpacingInPhysicalUnits": [repr(v) for v in spacing[::-1]],
        "GridSpacingSchedule": [str(level) for level in _BSPLINE_LEVELS],
        **_pyramid(_BSPLINE_LEVELS, local),
    }


def common_parameters(
    metric: str,
    iterations: int,
    samples: int,
    seed: int,
    fixed_mask: NDArray[Any] | None,
) -> Parameters:
    """Return the parameters that both registrations share."""
    sparse = fixed_mask is not None and fixed_mask.mean() < _SPARSE_MASK
    return {
        "Registration": ["MultiResolutionRegistration"],
        "FixedInternalImagePixelType": ["float"],
        "MovingInternalImagePixelType": ["float"],
        "Metric": [METRICS[metric]],
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


def _linear_levels(local: Grid) -> list[int]:
    """Return the smoothing of each level in mean voxels, coarsest first."""
    extent = float((np.asarray(local.shape) * np.asarray(local.spacing)).min())
    coarsest = int(np.clip(np.log2(max(extent / _COARSEST_VOXELS, 1.0)), 0, 4))
    return [2**k for k in reversed(range(coarsest + 1))]


def _pyramid(levels: Sequence[int], local: Grid) -> Parameters:
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
