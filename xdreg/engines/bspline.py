"""Cubic B-spline fields on regular grids, as products of small per-axis matrices.

A field is ``sum_k c_k * b(i - k)`` with the centred cubic B-spline ``b``, which spans
four coefficients, and the position ``i`` in the coefficient grid. Coefficients beyond
the grid are zero. Within ITK's valid region this equals its ``BSplineTransform``.

Source: Unser, Splines: a perfect fit for signal and image processing, 1999.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array

from xdreg.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from xdreg.grid import Grid


def basis_matrix(points_index: ArrayLike, n_coefficients: int) -> NDArray[np.float64]:
    """Return the weights (n, n_coefficients) of an axis's coefficients at positions.

    Positions count coefficient spacings from the first. Rows sum to one where all four
    coefficients of the support exist.
    """
    position = np.asarray(points_index, dtype=np.float64)
    distance = np.abs(position[:, None] - np.arange(n_coefficients))
    near = 2.0 / 3.0 - distance**2 * (1.0 - 0.5 * distance)
    far = np.maximum(2.0 - distance, 0.0) ** 3 / 6.0
    return np.where(distance < 1.0, near, far)


def evaluate(
    coefficients: ArrayLike, coefficient_grid: Grid, grid: Grid
) -> NDArray[np.float32]:
    """Return a B-spline field (ndim, *grid.shape) on every voxel of a grid.

    Coefficients are (ndim, *coefficient_grid.shape), components in dims order.
    """
    field = np.asarray(coefficients, dtype=np.float32)
    expected = (coefficient_grid.ndim, *coefficient_grid.shape)
    if field.shape != expected:
        msg = f"coefficients must have shape {expected}, got {field.shape}"
        raise InputError(msg)
    if (grid.dims, grid.units) != (coefficient_grid.dims, coefficient_grid.units):
        msg = (
            f"the coefficient grid has dims {coefficient_grid.dims} in "
            f"{coefficient_grid.units}, the grid {grid.dims} in {grid.units}; "
            "express both alike, for example with Grid.to_units"
        )
        raise InputError(msg)
    origin, step = np.asarray(grid.origin), np.asarray(grid.spacing)
    first = coefficient_grid.physical_to_index(origin)
    step = step / np.asarray(coefficient_grid.spacing)
    for axis in reversed(range(grid.ndim)):
        positions = first[axis] + step[axis] * np.arange(grid.shape[axis])
        basis = basis_matrix(positions, coefficient_grid.shape[axis])
        field = _along(basis.astype(np.float32), field, axis + 1)
    return np.ascontiguousarray(field)


def _along(
    matrix: NDArray[np.float32], field: NDArray[np.float32], axis: int
) -> NDArray[np.float32]:
    """Multiply an axis by a matrix, of which four numbers a row are not zero.

    Products of full matrices are rounded as the number of BLAS's threads has it.
    """
    rows = np.moveaxis(field, axis, 0)
    result = csr_array(matrix) @ rows.reshape(rows.shape[0], -1)
    return np.moveaxis(result.reshape(-1, *rows.shape[1:]), 0, axis)
