"""The result of a method, and its displacement on the grid of a window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from xdreg.coordinates import grid_of
from xdreg.errors import MethodError
from xdreg.grid import check_real, checked_matrix
from xdreg.numerics import kernels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xdreg.grid import Grid


@dataclass(frozen=True)
class MethodResult:
    """The result of a method, with diagnostics of its block.

    ``displacement`` is as for `as_displacement`. ``from_search`` is 1 if the result of
    the discrete search was kept, 0 if not, and NaN without a search.
    """

    displacement: object
    from_search: float = float("nan")

    @classmethod
    def of(cls, result: object) -> MethodResult:
        """Wrap what a method returned, unless it is a `MethodResult` already."""
        return result if isinstance(result, cls) else cls(result)


def as_displacement(result: object, grid: Grid) -> NDArray[np.float32]:
    """Return the result of a method as a displacement (ndim, *grid.shape).

    A result is an itk.Transform, a homogeneous matrix in dims order, a DataArray
    (component, [z], y, x) or a `MethodResult`: fixed → moving, in physical units.
    Without coordinates it must have the shape of the window, ``grid``.
    """
    if isinstance(result, MethodResult):
        result = result.displacement
    if isinstance(result, np.ndarray) and result.ndim == grid.ndim + 1:
        msg = (
            f"the method returned an array of shape {result.shape}. A displacement is "
            f"a DataArray with dims {('component', *grid.dims)}"
        )
        raise MethodError(msg)
    if isinstance(result, np.ndarray | list | tuple):
        matrix = checked_matrix(result, grid.ndim, "the method's result")
        return kernels.resample_displacement(
            *kernels.affine_displacement(matrix, grid), grid
        )
    if not isinstance(result, xr.DataArray):
        # itk loads slowly
        from xdreg.numerics.itk_transforms import displacement_from_itk

        return displacement_from_itk(result, grid)
    expected = ("component", *grid.dims)
    if set(result.dims) != set(expected) or result.sizes["component"] != grid.ndim:
        msg = (
            f"the method returned dimensions {dict(result.sizes)}, expected {expected} "
            f"with {grid.ndim} components"
        )
        raise MethodError(msg)
    result = result.transpose(*expected)
    bare = not any(dim in result.coords for dim in grid.dims)
    check_real(result.dtype, "the method's result")
    values = np.asarray(result.values, np.float32)
    if not np.isfinite(values).all():
        msg = "the method returned NaN or infinity"
        raise MethodError(msg)
    own_grid = grid
    if not bare or result.shape[1:] != grid.shape:
        own_grid = grid_of(result.isel(component=0, drop=True), "the method's result")
    return kernels.resample_displacement(values, own_grid, grid)
