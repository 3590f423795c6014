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
from xdreg.fields.displacement import open_displacement
from xdreg.fields.field import facing, fixed_grid
from xdreg.fields.preimage import Preimage, affine_part
from xdreg.fields.reader import FieldReader
from xdreg.grid import Grid
from xdreg.numerics import kernels, newton
from xdreg.numerics.point_tables import read_table

#: Side, in cells of the field, of the cubes whose points are transformed together.
TOGETHER = 64


def transform_points(
    field: xr.Dataset, points: Any, *, inverse: bool = False, frame: str = "world"
) -> Any:
    """Map points of the fixed image into the moving one, or back.

    Parameters
    ----------
    field : Dataset
        A displacement field, fixed → moving.
    points : (n, ndim) array, DataArray or DataFrame, physical units
        An array in the order of the dims, ``z, y, x``. A pandas DataFrame by the names
        of its columns, ``z``, ``y``, ``x``, or napari's ``axis-0`` and so on; a
        GeoDataFrame of points by its geometry; so too a structured array and a
        DataArray with named columns. Of more points than fit in memory, an iterator of
        any of these.
    inverse
        Map points of the moving image into the fixed one. No inverse field is needed:
        Newton's method solves for every point, to within 1e-4 cells of the field.
    frame
        Of oblique volumes: ``"world"``, or ``"image"`` for coordinates along the axes
        of each image, as its DataArray has them.

    Returns
    -------
    (n, ndim)
        Of the type of the input, for an iterator an iterator that maps part by part;
        other columns of a table are kept. NaN for points
        outside the fixed image, where the field is unknown. With ``inverse``, NaN for
        points that come from outside it, and for those without a unique inverse,
        because the field folds.

    Raises
    ------
    InputError
        If the points have another number of dimensions, columns are missing, or there
        is no such frame.

    Warns
    -----
    UserWarning
        If points have no inverse.

    Examples
    --------
    >>> import numpy as np
    >>> from xdreg.fields.displacement import make_field
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
    if frame not in ("world", "image"):
        msg = f"frame must be 'world' or 'image', got {frame!r}"
        raise InputError(msg)
    reader = open_displacement(field)
    grid = reader.grid
    if isinstance(points, Iterator):
        options: Any = {"inverse": inverse, "frame": frame}
        return (transform_points(field, part, **options) for part in points)
    table = read_table(points, grid.dims)
    move = points_back if inverse else _forth
    start, end = grid, facing(field)
    if inverse:
        start, end = end, start
    values = table.values
    if frame == "world" and start.direction is not None:
        values = values @ start.from_world[:-1, :-1].T
    moved = move(reader, fixed_grid(field), values, table.rounding)
    if frame == "world" and end.direction is not None:
        moved = moved @ end.to_world[:-1, :-1].T
    return table.replaced(moved)


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


def points_back(
    reader: FieldReader, fixed: Grid, points: NDArray[np.float64], _: float = 0
) -> NDArray[np.float64]:
    """Map moving points to fixed ones, all along the images' axes."""
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
