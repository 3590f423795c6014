"""Methods of a user with known results."""

import numpy as np
import xarray as xr

from xdreg.coordinates import coordinates, grid_of
from xdreg.numerics.kernels import affine_displacement


def shift_by_two(fixed, moving):
    """Return a constant shift, as a user's own method would."""
    grid = grid_of(fixed)
    matrix = np.eye(grid.ndim + 1)
    matrix[-2, -1] = 2.0
    values, corners = affine_displacement(matrix, grid)
    return xr.DataArray(
        values, dims=("component", *grid.dims), coords=coordinates(corners)
    )


def nothing(fixed, moving):
    """Return no displacement."""
    grid = grid_of(fixed)
    zero = np.zeros((grid.ndim, *grid.shape), np.float32)
    return xr.DataArray(zero, dims=("component", *grid.dims), coords=coordinates(grid))
