"""Planes through an image: the pixels of a picture, as a grid one voxel thick."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xdreg.errors import InputError
from xdreg.grid import Grid


@dataclass(frozen=True)
class Plane:
    """The pixels of a picture, as a grid in the space of the fixed image.

    In 3-D the grid has one pixel along ``cut``, which is None in 2-D. ``anatomical`` is
    known of images whose axes run as in ITK and DICOM (LPS).
    """

    grid: Grid
    cut: str | None
    anatomical: bool = False

    @property
    def axes(self) -> tuple[int, int]:
        """Axes of the grid along rows and columns."""
        rows, columns = (i for i, d in enumerate(self.grid.dims) if d != self.cut)
        return rows, columns

    @property
    def dims(self) -> tuple[str, str]:
        """Dims of rows and columns."""
        rows, columns = self.axes
        return self.grid.dims[rows], self.grid.dims[columns]

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        rows, columns = self.axes
        return self.grid.shape[rows], self.grid.shape[columns]

    @property
    def spacing(self) -> tuple[float, float]:
        """Distance of rows and of columns, in the grid's units."""
        rows, columns = self.axes
        return self.grid.spacing[rows], self.grid.spacing[columns]

    @property
    def positions(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Physical positions of rows and of columns."""
        rows, columns = self.dims
        return self.grid.axis(rows), self.grid.axis(columns)

    @property
    def position(self) -> float | None:
        """Position along ``cut``, in the grid's units."""
        if self.cut is None:
            return None
        return self.grid.origin[self.grid.dims.index(self.cut)]

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, lower and upper edge, with the first row on top."""
        low, high = self.grid.bounds
        row, column = self.axes
        return (
            float(low[column]), float(high[column]), float(high[row]), float(low[row])
        )  # fmt: skip

    @property
    def ratio(self) -> float:
        """Width over height."""
        left, right, lower, upper = self.extent
        return abs((right - left) / (lower - upper))

    @property
    def upward(self) -> bool:
        """Whether rows are shown from the bottom to the top, as `runs_upward`."""
        return self.dims[0] == "z" and (
            self.anatomical or runs_upward("z", self.grid.units)
        )

    @property
    def text(self) -> str:
        """Where the plane cuts, such as ``"z = 12 micrometer"``; empty in 2-D."""
        if self.cut is None:
            return ""
        return f"{self.cut} = {self.position:.4g} {self.grid.units or ''}".rstrip()

    @property
    def title(self) -> str:
        """The text, after the name of the plane in a body."""
        of_body = self.anatomical or runs_upward("z", self.grid.units)
        return f"{BODY[self.cut]}, {self.text}" if self.cut and of_body else self.text


#: Names of the planes of a body, by the dim that they cut.
BODY = {"z": "axial", "y": "coronal", "x": "sagittal"}


def runs_upward(dim: str, units: str | None) -> bool:
    """Return whether rows along a dim are shown with the larger coordinate on top.

    So is z of images in millimetres, which is taken to run from inferior to superior,
    as in ITK, DICOM and NIfTI. Planes of a microscope's stack go down.
    """
    return dim == "z" and units in ("millimeter", "centimeter")


def checked_cut(grid: Grid, cut: object) -> str | None:
    """Return the dim to cut: None in 2-D, in 3-D by default the first."""
    if grid.ndim == 2:
        if cut is None:
            return None
        msg = f"the image is a plane of {grid.dims} and cannot be cut; leave out cut"
        raise InputError(msg)
    return checked_dim(grid.dims, cut)


def checked_dim(dims: tuple[str, ...], cut: object) -> str:
    """Return one of some dims, by default the first."""
    if cut is None:
        return dims[0]
    if isinstance(cut, str) and cut in dims:
        return cut
    msg = f"cut must be one of {', '.join(map(repr, dims))}, got {cut!r}"
    raise InputError(msg)


def cut_at(
    grid: Grid, cut: str | None, at: float | None, middle: float | None = None
) -> Plane:
    """Return the plane of a grid at the voxels nearest to a physical position.

    ``middle`` is the default of ``at``, by default the middle of the grid.
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
