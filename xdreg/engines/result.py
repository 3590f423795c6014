"""The result of a method, and its displacement on the grid of a window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from xdreg.coordinates import grid_of
from xdreg.errors import MethodError
from xdreg.numerics import kernels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xdreg.grid import Grid


@dataclass(frozen=True)
class MethodResult:
    """The result of a method with diagnostics of its block.

    Parameters
    ----------
    displacement : itk.Transform or DataArray (component, [z], y, x)
        Fixed → moving, physical units.
    from_search
        Whether the result of the discrete search was kept; NaN without a search.
    """

    displacement: object
    from_search: float = float("nan")

    @classmethod
    def of(cls, result: object) -> MethodResult:
        """Wrap what a method returned, unless it is a `MethodResult` already."""
        return result if isinstance(result, cls) else cls(result)


def as_displacement(result: object, grid: Grid) -> NDArray[np.float32]:
    """Return the result of a method as a displacement on the grid of its window.

    Parameters
    ----------
    result : itk.Transform, DataArray (component, [z], y, x) or MethodResult
        Fixed → moving, physical units.
    grid
        Grid of the window.

    Returns
    -------
    (ndim, *grid.shape) float32

    Raises
    ------
    MethodError
        If it is something else, contains NaN, or does not cover the window. Without
        coordinates it must have the window's shape.
    """
    if isinstance(result, MethodResult):
        result = result.displacement
    if not isinstance(result, xr.DataArray):
        from xdreg.numerics.itk_transforms import (
            displacement_from_itk,  # itk loads slowly
        )

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
    values = np.asarray(result.values, np.float32)
    if not np.isfinite(values).all():
        msg = "the method returned NaN or infinity"
        raise MethodError(msg)
    own_grid = grid
    if not bare or result.shape[1:] != grid.shape:
        own_grid = grid_of(result.isel(component=0, drop=True), "the method's result")
    return kernels.resample_displacement(values, own_grid, grid)
