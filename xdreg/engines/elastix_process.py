"""Elastix itself: what runs in an engine process.

Axes have ITK's order (x, y, z) in calls of ITK only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from xdreg.grid import Grid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Parameters = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Image:
    """An image with its mask, if any, and its grid in elastix's frame."""

    values: NDArray[np.float32]
    mask: NDArray[np.bool_] | None
    grid: Grid


def load() -> None:
    """Import what elastix needs, which takes seconds, once per process."""
    import itk

    for ndim in (2, 3):
        image_type = itk.Image[itk.F, ndim]
        itk.ElastixRegistrationMethod[image_type, image_type].New()


def linear(
    fixed: Image, moving: Image, parameters: Parameters, initial: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return a linear transform as a homogeneous matrix.

    Start at ``initial`` (ndim, ndim), a linear map about zero. Matrices are in dims
    order and elastix's frame.
    """
    import itk

    ndim = fixed.grid.ndim
    method = _method(fixed, moving, parameters)
    if not np.array_equal(initial, np.eye(ndim)):
        start = itk.AffineTransform[itk.D, ndim].New()
        start.SetMatrix(itk.matrix_from_array(initial[::-1, ::-1].copy()))
        method.SetExternalInitialTransform(start)
    method.UpdateLargestPossibleRegion()
    transform = method.GetCombinationTransform()
    # A linear transform is determined by the images of zero and of the axes.
    zero = np.array(transform.TransformPoint([0.0] * ndim))
    reach = float(max(fixed.grid.shape))
    columns = [
        (np.array(transform.TransformPoint(point)) - zero) / reach
        for point in (reach * np.eye(ndim)).tolist()
    ]
    result = np.eye(ndim + 1)
    result[:ndim, :ndim] = np.stack(columns, axis=1)[::-1, ::-1]
    result[:ndim, ndim] = zero[::-1]
    return result


def bspline(
    fixed: Image, moving: Image, parameters: Parameters
) -> tuple[NDArray[np.float64], Grid]:
    """Return the coefficients (ndim, *shape) of a B-spline, and their grid.

    Both are in dims order and elastix's frame.
    """
    method = _method(fixed, moving, parameters)
    method.UpdateLargestPossibleRegion()
    found = method.GetTransformParameterObject().GetParameterMap(0)
    size, spacing, origin = (
        tuple(float(v) for v in found[name])[::-1]
        for name in ("GridSize", "GridSpacing", "GridOrigin")
    )
    control = Grid(fixed.grid.dims, tuple(int(v) for v in size), spacing, origin)
    values = np.array(found["TransformParameters"], dtype=np.float64)
    return values.reshape(control.ndim, *control.shape)[::-1].copy(), control


def _method(fixed: Image, moving: Image, parameters: Parameters) -> Any:
    import itk

    image = _itk_image(fixed.values, fixed.grid)
    method = itk.ElastixRegistrationMethod[type(image), type(image)].New()
    method.SetFixedImage(image)
    method.SetMovingImage(_itk_image(moving.values, moving.grid))
    if fixed.mask is not None:
        method.SetFixedMask(_itk_image(fixed.mask.astype(np.uint8), fixed.grid))
    if moving.mask is not None:
        method.SetMovingMask(_itk_image(moving.mask.astype(np.uint8), moving.grid))
    settings = itk.ParameterObject.New()
    settings.AddParameterMap({name: list(v) for name, v in parameters.items()})
    method.SetParameterObject(settings)
    method.SetLogToConsole(False)
    # More threads change the bits.
    method.SetNumberOfThreads(1)
    return method


def _itk_image(values: NDArray[Any], grid: Grid) -> Any:
    import itk

    image = itk.image_from_array(values)
    image.SetSpacing(list(grid.spacing[::-1]))
    image.SetOrigin(list(grid.origin[::-1]))
    return image
