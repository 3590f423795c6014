"""Jacobian determinants of displacements, and removal of folds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xdreg.numerics.kernels import compose_displacements, resample_displacement

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xdreg.grid import Grid
    from xdreg.numerics.kernels import Array

#: Most rounds of smoothing in `unfold`.
UNFOLD_ROUNDS = 30

#: Least Jacobian determinant after `unfold`, if the rounds suffice.
LEAST_JACOBIAN = 0.1

#: Most halvings in `ease_back`, and the least determinant after it, if they suffice, as
#: a share of the median.
EASE_ROUNDS = 10
LEAST_TOTAL = 0.05


def jacobian_determinant(displacement: Array, grid: Grid) -> Array:
    """Return the determinant of the gradient of ``x + u(x)``, by central differences.

    ``displacement (ndim, *grid.shape)`` in physical units, constant along axes of one
    voxel. Below one the mapping shrinks; at or below zero it folds.
    """
    gradient = np.zeros((grid.ndim, grid.ndim, *grid.shape), np.float32)
    for axis, (size, step) in enumerate(zip(grid.shape, grid.spacing, strict=True)):
        if size > 1:
            gradient[:, axis] = np.gradient(displacement, step, axis=axis + 1)
        gradient[axis, axis] += 1.0
    g = gradient
    if grid.ndim == 2:
        determinant = g[0, 0] * g[1, 1] - g[0, 1] * g[1, 0]
    else:
        determinant = (
            g[0, 0] * (g[1, 1] * g[2, 2] - g[1, 2] * g[2, 1])
            - g[0, 1] * (g[1, 0] * g[2, 2] - g[1, 2] * g[2, 0])
            + g[0, 2] * (g[1, 0] * g[2, 1] - g[1, 1] * g[2, 0])
        )
    return np.asarray(determinant, np.float32)


def orientation(matrix: Array) -> float:
    """Return -1 for a homogeneous matrix that mirrors space, else 1."""
    return -1.0 if np.linalg.det(matrix[:-1, :-1]) < 0 else 1.0


def unfold(displacement: Array, grid: Grid, sign: float = 1.0) -> Array:
    """Smooth a displacement ``(ndim, *grid.shape)`` where it folds, until it does not.

    Around points with too small a Jacobian determinant the field is repeatedly replaced
    by its binomial average. ``sign`` is the `orientation` of the displacement's affine
    part. Returns the same array if nothing folds. The result may still fold after
    `UNFOLD_ROUNDS`.
    """
    for _ in range(UNFOLD_ROUNDS):
        low = sign * jacobian_determinant(displacement, grid) < LEAST_JACOBIAN
        if not low.any():
            break
        smooth = _binomial(displacement, 1)
        displacement = displacement + _around(low) * (smooth - displacement)
    return displacement


def ease_back(update: Array, grid: Grid, before: Array, before_grid: Grid) -> Array:
    """Reduce an update where its composition with an earlier displacement folds.

    Arguments as for `compose_displacements`. Two maps that do not fold may fold
    together where both compress, as sampled on grids. There the update is halved
    repeatedly, up to zero, where the earlier displacement remains. Returns the same
    array if nothing folds.
    """
    standing = resample_displacement(before, before_grid, grid)
    # A linear part may mirror the image or scale it.
    usual = np.median(jacobian_determinant(standing, grid))
    for _ in range(EASE_ROUNDS):
        total = compose_displacements(update, grid, before, before_grid)
        low = jacobian_determinant(total, grid) / usual < LEAST_TOTAL
        if not low.any():
            break
        update = update * (1 - 0.5 * _around(low))
    return update


def _around(points: NDArray[np.bool_]) -> Array:
    """Return weights of one at and next to points, fading around them."""
    weight = points.astype(np.float32)
    for _ in range(3):
        weight = _binomial(weight, 0)
    return np.minimum(weight * 8, np.float32(1))


def _binomial(values: Array, first: int) -> Array:
    """Average with weights 1 2 1 along the axes from ``first`` on.

    `scipy.ndimage` sums in double precision, so its last bits differ.
    """
    for axis in range(first, values.ndim):
        if values.shape[axis] > 1:
            pad = [(0, 0)] * values.ndim
            pad[axis] = (1, 1)
            wide = np.pad(values, pad, mode="edge")
            n = values.shape[axis]
            left, right = (np.take(wide, range(i, i + n), axis) for i in (0, 2))
            values = np.asarray(0.5 * values + 0.25 * (left + right), np.float32)
    return values
