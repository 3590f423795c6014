"""The part of a field that maps onto a region, to invert the field there.

A field is an affine part and a rest, ``x + u(x) = A x + b + r(x)``. The preimage of a
point ``y`` is a fixed point of ``T(x) = A⁻¹ (y - b - r(x))``. If ``T`` maps a window of
the field into itself for all points of the region, the window contains a preimage of
each (Brouwer's theorem). Bounds of ``r`` over the window decide that, so the window is
little larger than necessary.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xdreg.errors import InputError
from xdreg.fields.reader import FieldReader
from xdreg.grid import Grid
from xdreg.numerics.folding import orientation
from xdreg.numerics.inversion import FieldWindow, fit_affine

#: Points of the field per axis that the affine part is fitted to.
LATTICE = 4

#: Cells of the field added around a new window.
MARGIN = 3

#: New windows that are tried before the last one is only enlarged.
FRESH_WINDOWS = 3


def affine_part(reader: FieldReader) -> NDArray[np.float64]:
    """Return the affine transform nearest to a field, homogeneous, by least squares.

    It is fitted to a coarse lattice of the field's points.
    """
    places = [
        np.unique((np.arange(LATTICE) + 0.5) * n // LATTICE).astype(int)
        for n in reader.grid.shape
    ]
    index = np.array(list(itertools.product(*places)))
    values = reader.read_points(index)
    known = np.isfinite(values).all(axis=1)
    index, values = index[known], values[known]
    if not known.any():
        return np.eye(reader.grid.ndim + 1)
    points = reader.grid.index_to_physical(index)
    return fit_affine(points, points + values.astype(np.float64))


def field_orientation(reader: FieldReader) -> float:
    """Return -1 for a field whose affine part mirrors space, else 1."""
    return orientation(affine_part(reader))


@dataclass(frozen=True)
class Preimage:
    """Preimages under a field, region by region; ``matrix`` is its `affine_part`."""

    reader: FieldReader
    fixed: Grid
    matrix: NDArray[np.float64]

    def window(self, lower: ArrayLike, upper: ArrayLike) -> FieldWindow:
        """Return the part of the field that contains the preimage of a physical box."""
        box = np.array([lower, upper], np.float64)
        asked = self._back(box, np.zeros_like(box))
        extent = np.subtract(*self.reader.grid.bounds[::-1])
        margin = MARGIN * np.asarray(self.reader.grid.spacing)
        for attempt in itertools.count():
            window = self.reader.window(*asked)
            values, grid = self.reader.read(window)
            rest = self._rest(values, grid, window)
            if not np.isfinite(rest).all():
                msg = (
                    "the field has NaN or infinity; replace them, for example with "
                    "field.assign(displacement=field.displacement.fillna(0))"
                )
                raise InputError(msg)
            needed = self._back(box, rest)
            inside = zip(self.reader.window(*needed), window, strict=True)
            if all(a.start >= b.start and a.stop <= b.stop for a, b in inside):
                break
            if attempt < FRESH_WINDOWS:
                asked = needed + np.stack([-margin, margin])
            else:
                asked = np.stack(
                    [
                        np.minimum(asked[0], needed[0]) - 0.1 * extent,
                        np.maximum(asked[1], needed[1]) + 0.1 * extent,
                    ]
                )
        return FieldWindow(values, grid, self.matrix, self.fixed)

    def start(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the preimages ``(n, ndim)`` of points under the affine part alone."""
        back = np.linalg.inv(self.matrix[:-1, :-1])
        return np.asarray((points - self.matrix[:-1, -1]) @ back.T)

    def _back(
        self, box: NDArray[np.float64], rest: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the box ``(2, ndim)`` of ``T(x)`` for a box and bounds of r."""
        back = np.linalg.inv(self.matrix[:-1, :-1])
        shifted = box - rest[::-1]
        centre = self.start(shifted.mean(axis=0))
        half = np.abs(back) @ (0.5 * (shifted[1] - shifted[0]))
        return np.stack([centre - half, centre + half])

    def _rest(
        self, values: NDArray[np.float32], grid: Grid, window: tuple[slice, ...]
    ) -> NDArray[np.float64]:
        """Return lower and upper bounds of r ``(2, ndim)`` over a window.

        At the borders of the field they also hold for its continuation.
        """
        pads = [
            (int(part.start == 0 and n > 1), int(part.stop == n and n > 1))
            for part, n in zip(window, self.reader.grid.shape, strict=True)
        ]
        bounds = np.empty((2, grid.ndim))
        linear = self.matrix[:-1, :-1] - np.eye(grid.ndim)
        for c in range(grid.ndim):
            rest = values[c] - np.float64(self.matrix[c, -1])
            for axis, dim in enumerate(grid.dims):
                shape = [1] * grid.ndim
                shape[axis] = -1
                rest = rest - (linear[c, axis] * grid.axis(dim)).reshape(shape)
            # An odd reflection about the border is the linear continuation.
            rest = np.pad(rest, pads, mode="reflect", reflect_type="odd")
            bounds[:, c] = rest.min(), rest.max()
        return bounds
