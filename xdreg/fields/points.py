"""Transformation of points by a field and by its inverse.

Only the parts of the field around the points are read.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from xdreg.errors import InputError
from xdreg.fields.field import fixed_grid, open_displacement
from xdreg.fields.preimage import Preimage, affine_part
from xdreg.fields.reader import FieldReader
from xdreg.grid import Grid
from xdreg.numerics import kernels, newton

#: Side, in cells of the field, of the cubes whose points are transformed together.
TOGETHER = 64


def transform_points(
    field: xr.Dataset, points: ArrayLike | xr.DataArray, *, inverse: bool = False
) -> Any:
    """Map points of the fixed image into the moving one, or back.

    Parameters
    ----------
    field : Dataset
        A displacement field, fixed → moving.
    points : (n, ndim) array or DataArray, physical units
        In the order of the dims, ``z, y, x``.
    inverse
        Map points of the moving image into the fixed one. No inverse field is needed:
        Newton's method solves for every point, to within 1e-4 cells of the field.

    Returns
    -------
    (n, ndim)
        Array or DataArray, like the input. NaN for points outside the fixed image,
        where the field is unknown. With ``inverse``, NaN for points that come from
        outside it, and for those without a unique inverse, because the field folds.

    Raises
    ------
    InputError
        If the points have another number of dimensions.

    Warns
    -----
    UserWarning
        If points have no inverse.

    Examples
    --------
    >>> import numpy as np
    >>> from xdreg.fields.field import make_field
    >>> from xdreg.grid import Grid
    >>> grid = Grid(("y", "x"), (3, 3), (1.0, 1.0), (0.0, 0.0))
    >>> field = make_field(np.full((2, 3, 3), 0.5, np.float32), grid)
    >>> transform_points(field, [[1.0, 1.0], [9.0, 9.0]])
    array([[1.5, 1.5],
           [nan, nan]])
    >>> transform_points(field, [[1.5, 1.5], [9.0, 9.0]], inverse=True)
    array([[ 1.,  1.],
           [nan, nan]])
    """
    reader = open_displacement(field)
    grid = reader.grid
    try:
        given = np.asarray(points)
        values = given.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        msg = f"points must be an array of numbers, got {points!r}"
        raise InputError(msg) from error
    if values.ndim != 2 or values.shape[1] != grid.ndim:
        msg = (
            f"points must be of shape (n, {grid.ndim}) in the order {grid.dims}, got "
            f"{values.shape}"
        )
        raise InputError(msg)
    move = _back if inverse else _forth
    rounding = np.finfo(given.dtype if given.dtype.kind == "f" else float).eps
    result = move(reader, fixed_grid(field), values, float(rounding))
    return points.copy(data=result) if isinstance(points, xr.DataArray) else result


def _forth(
    reader: FieldReader, fixed: Grid, points: NDArray[np.float64], rounding: float
) -> NDArray[np.float64]:
    """Map fixed points to moving ones."""
    result = np.full(points.shape, np.nan)
    inside = fixed.contains(points, rounding)
    for chosen in _together(reader.grid, points, inside):
        box = points[chosen]
        part, grid = reader.read(reader.window(box.min(axis=0), box.max(axis=0)))
        result[chosen] = box + kernels.sample(part, grid, box).T
    return result


def _back(
    reader: FieldReader, fixed: Grid, points: NDArray[np.float64], _: float
) -> NDArray[np.float64]:
    """Map moving points to fixed ones."""
    result = np.full(points.shape, np.nan)
    finite = np.isfinite(points).all(axis=1)
    if not finite.any():
        return result
    preimage = Preimage(reader, fixed, affine_part(reader))
    folded = 0
    for chosen in _together(reader.grid, preimage.start(points), finite):
        box = points[chosen]
        window = preimage.window(box.min(axis=0), box.max(axis=0))
        solution = window.solve_points(box)
        inside = solution.flags == newton.INSIDE
        result[chosen] = np.where(inside[:, None], solution.values, np.nan)
        folded += int((solution.flags == newton.FOLDED).sum())
    if folded:
        warnings.warn(
            f"{folded} of {len(points)} points have no inverse, because the field "
            "folds there; they are NaN. xdreg.jacobian_determinant shows where",
            stacklevel=3,
        )
    return result


def _together(
    grid: Grid, points: NDArray[np.float64], which: ArrayLike
) -> Iterator[NDArray[np.intp]]:
    """Yield the indices of points near each other, which need the same chunks."""
    numbers = np.flatnonzero(which)
    cell = np.floor(grid.physical_to_index(points[numbers]) / TOGETHER)
    _, group = np.unique(cell, axis=0, return_inverse=True)
    group = group.reshape(-1)  # NumPy 2.0 adds an axis
    order = np.argsort(group, kind="stable")
    ends = np.flatnonzero(np.diff(group[order])) + 1
    yield from (part for part in np.split(numbers[order], ends) if part.size)
