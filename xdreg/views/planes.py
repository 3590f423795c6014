"""Planes through a space: the pixels of a picture, as a grid one voxel thick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from xdreg.errors import InputError

if TYPE_CHECKING:
    from xdreg.grid import Grid


@dataclass(frozen=True)
class Plane:
    """The pixels of a picture, as a grid in the space of the fixed image.

    Parameters
    ----------
    grid
        Pixels; in space a single one along ``cut``.
    cut
        The dim that the plane is perpendicular to; None of an image that is a plane.
    """

    grid: Grid
    cut: str | None

    @property
    def dims(self) -> tuple[str, str]:
        """The dims of rows and columns."""
        rows, columns = (dim for dim in self.grid.dims if dim != self.cut)
        return rows, columns

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = (self.grid.shape[self.grid.dims.index(d)] for d in self.dims)
        return rows, columns

    @property
    def position(self) -> float | None:
        """Where it cuts, in the grid's units."""
        if self.cut is None:
            return None
        return self.grid.origin[self.grid.dims.index(self.cut)]

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, lower and upper edge, with the first row on top."""
        low, high = self.grid.bounds
        row, column = (self.grid.dims.index(dim) for dim in self.dims)
        edges = low[column], high[column], high[row], low[row]
        left, right, lower, upper = (float(edge) for edge in edges)
        return left, right, lower, upper

    @property
    def pixel(self) -> float:
        """The smaller extent of a pixel, in the grid's units."""
        steps = zip(self.grid.dims, self.grid.spacing, strict=True)
        return min(step for dim, step in steps if dim in self.dims)


def checked_cut(grid: Grid, cut: object) -> str | None:
    """Return the dim to cut, by default the first of three."""
    if grid.ndim == 2:
        if cut is None:
            return None
        msg = f"the image is a plane of {grid.dims} and cannot be cut; leave out cut"
        raise InputError(msg)
    if cut is None:
        return grid.dims[0]
    if isinstance(cut, str) and cut in grid.dims:
        return cut
    msg = f"cut must be one of {', '.join(map(repr, grid.dims))}, got {cut!r}"
    raise InputError(msg)


def cut_at(
    grid: Grid, cut: str | None, at: float | None, middle: float | None = None
) -> Plane:
    """Return the plane of a grid at a position, on its nearest voxels.

    Parameters
    ----------
    grid
        The grid.
    cut
        The dim to cut, as from `checked_cut`.
    at
        Where, physical.
    middle
        Where by default; else in the middle of the grid.

    Raises
    ------
    InputError
        If it is no place in the grid.
    """
    if cut is None:
        if at is not None:
            msg = f"the image is a plane of {grid.dims} and cannot be cut; leave out at"
            raise InputError(msg)
        return Plane(grid, None)
    axis = grid.dims.index(cut)
    if at is None:
        at = float(grid.centre[axis]) if middle is None else middle
    low, high = (float(v[axis]) for v in grid.bounds)
    number = isinstance(at, int | float | np.number) and not isinstance(at, bool)
    if not number or not low <= at <= high:
        msg = (
            f"at must be a position along {cut!r} from {low:g} to {high:g}, got {at!r}"
        )
        raise InputError(msg)
    index = round((at - grid.origin[axis]) / grid.spacing[axis])
    index = min(max(index, 0), grid.shape[axis] - 1)
    window = [slice(0, n) for n in grid.shape]
    window[axis] = slice(index, index + 1)
    return Plane(grid.window(window), cut)
