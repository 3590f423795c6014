"""Solution of ``x + u(x) = y`` for ``x`` within a window of a displacement field.

`newton` solves. This module prepares its arguments, smooths folds, and checks the
solutions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from xdreg.numerics import folding, kernels, newton
from xdreg.numerics.newton import FOLDED, INSIDE, TOLERANCE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xdreg.grid import Grid
    from xdreg.numerics.kernels import Array

#: Most calls of `folding.unfold` before a field is inverted.
UNFOLDINGS = 8

#: Least absolute determinant of an affine part.
LEAST_VOLUME = 1e-3


@dataclass(frozen=True)
class Solution:
    """Preimages of points.

    ``values`` is, for a grid, the displacement moving → fixed ``(ndim, *shape)``
    float32; for points, the fixed points ``(n, ndim)`` float64. ``flags`` are
    ``INSIDE``, ``OUTSIDE`` or ``FOLDED`` of `newton`. ``residual`` is the distance
    between the given point and where the field maps its preimage. Physical units.
    """

    values: Array
    flags: NDArray[np.uint8]
    residual: NDArray[np.float32]


class FieldWindow:
    """A part of a displacement field, prepared for inversion.

    ``displacement (ndim, *grid.shape)`` in physical units contains the preimages.
    ``matrix (ndim + 1, ndim + 1)`` is the field's affine part, fixed → moving.
    Preimages beyond the edges of the grid ``fixed`` are `OUTSIDE`.
    """

    def __init__(
        self, displacement: Array, grid: Grid, matrix: Array, fixed: Grid
    ) -> None:
        self._displacement, self._grid = displacement, grid
        origin, spacing = np.asarray(grid.origin), np.asarray(grid.spacing)
        space = slice(3 - grid.ndim, 3)
        # The affine part in cells: q ↦ S⁻¹ (A (S q + o) + b - o).
        affine = np.eye(4)[:3]
        affine[space, space] = matrix[:-1, :-1] * spacing / spacing[:, None]
        moved = matrix[:-1, :-1] @ origin + matrix[:-1, -1]
        affine[space, 3] = (moved - origin) / spacing
        self._linear = affine[:, :3] - np.eye(3)
        inverse = np.linalg.inv(affine[:, :3])
        start = np.column_stack([inverse, -inverse @ affine[:, 3]])
        bounds = np.array([[-np.inf] * 3, [np.inf] * 3])
        bounds[:, space] = [grid.physical_to_index(b) for b in fixed.bounds]
        # Tolerance for points on the edge.
        bounds += [[-1e-3], [1e-3]]
        lengths = np.ones(3)
        lengths[space] = spacing
        self._scale = bounds, lengths
        # An affine part that mirrors space folds nothing.
        self._sign = folding.orientation(matrix)
        determinant = self._sign * folding.jacobian_determinant(displacement, grid)
        self._folded = bool((determinant <= 0).any())
        unfolded = self._unfolded() if self._folded else displacement
        self._solvable = (*self._in_cells(unfolded), self._linear, start)

    def solve_grid(self, target: Grid) -> Solution:
        """Return the displacement moving → fixed at every point of a grid.

        A field that folds is smoothed before. Points that this changes are `FOLDED`.
        """
        _, _, axes, _ = kernels.axis_tables(target, self._grid, self._grid)
        flags = np.empty(target.shape, np.uint8)
        residual = np.empty(target.shape, np.float32)
        lifted = kernels.lift(flags), kernels.lift(residual)
        out = np.empty((3, *lifted[0].shape), np.float32)
        newton.solve_grid(*self._solvable, tuple(axes), *self._scale, out, *lifted)
        values = out[3 - target.ndim :].reshape(-1, *target.shape)
        solution = Solution(values, flags, residual)
        if self._folded:
            points = kernels.grid_points(target)
            self._judge(solution, points + values.reshape(target.ndim, -1).T, points)
        return solution

    def solve_points(self, points: Array) -> Solution:
        """Return the fixed points of moving points (n, ndim), as `solve_grid`."""
        t = np.zeros((len(points), 3))
        ndim = self._grid.ndim
        t[:, 3 - ndim :] = self._grid.physical_to_index(points)
        out, flags = np.empty_like(t), np.empty(len(t), np.uint8)
        residual = np.empty(len(t), np.float32)
        newton.solve_points(*self._solvable, t, *self._scale, out, flags, residual)
        values = self._grid.index_to_physical(out[:, 3 - ndim :])
        solution = Solution(values, flags, residual)
        if self._folded:
            self._judge(solution, values, points)
        return solution

    def _judge(self, solution: Solution, found: Array, points: Array) -> None:
        """Write the residuals of the original field; flag points that it does not map.

        The solution was found on the field without its folds.
        """
        residual = self._residual(found, points).reshape(solution.flags.shape)
        solution.residual[...] = residual
        most = 2 * TOLERANCE * float(self._scale[1].max())
        solution.flags[(residual > most) & (solution.flags == INSIDE)] = FOLDED

    def _unfolded(self) -> Array:
        values = self._displacement
        for _ in range(UNFOLDINGS):
            smoothed = folding.unfold(values, self._grid, self._sign)
            if smoothed is values:
                break
            values = smoothed
        return values

    def _in_cells(self, displacement: Array) -> tuple[Array, tuple[int, ...]]:
        """Return the displacement in cells, (z, y, x, 3) flattened, and its shape."""
        first = 3 - self._grid.ndim
        shape = (1,) * first + self._grid.shape
        values = np.zeros((*shape, 3), np.float32)
        for c, step in enumerate(self._grid.spacing):
            values[..., first + c] = displacement[c] / np.float32(step)
        return values.ravel(), shape

    def _residual(self, found: Array, points: Array) -> NDArray[np.float32]:
        """Return the distances of ``points`` from where the field maps ``found``."""
        moved = found + kernels.sample(self._displacement, self._grid, found).T
        # Beyond one cell the field continues by its affine part.
        index = self._grid.physical_to_index(found)
        size = np.asarray(self._grid.shape)
        beyond = index - np.clip(index, -1, np.where(size > 1, size, np.inf))
        ndim = self._grid.ndim
        rest = beyond @ self._linear[3 - ndim :, 3 - ndim :].T
        moved += rest * np.asarray(self._grid.spacing)
        return np.asarray(np.linalg.norm(moved - points, axis=1), np.float32)


def fit_affine(points: Array, moved: Array) -> Array:
    """Fit an affine transform ``(ndim + 1, ndim + 1)`` between points by least squares.

    ``points`` and ``moved`` are ``(n, ndim)`` in physical units. Along an axis on which
    all points are equal the transform is the identity. It is a translation if the best
    fit flattens space, as it could not be inverted.
    """
    ndim = points.shape[1]
    centre = points.mean(axis=0)
    offset = (moved - points).mean(axis=0)
    change = np.linalg.lstsq(points - centre, moved - points - offset, rcond=1e-9)[0].T
    matrix = np.eye(ndim + 1)
    if abs(np.linalg.det(np.eye(ndim) + change)) > LEAST_VOLUME:
        matrix[:-1, :-1] += change
    matrix[:-1, -1] = centre + offset - matrix[:-1, :-1] @ centre
    return matrix
