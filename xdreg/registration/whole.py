"""Two whole images at a coarse level, as linear stages and the choice of a metric see.

An axis on which both have one voxel is no axis of theirs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from xdreg.engines.linear import FULL_OVERLAP
from xdreg.grid import Grid
from xdreg.numerics import kernels
from xdreg.partition import BlockStatus
from xdreg.registration.judge import similarity
from xdreg.registration.window import Inputs, masked_image, read_window

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    from xdreg.engines.pose import Pose

    Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Whole:
    """Two whole images at a coarse level, each on its own grid.

    ``start`` is the linear transform between them so far.
    """

    grid: Grid
    fixed: NDArray[np.float32]
    fixed_mask: NDArray[np.bool_]
    moving_grid: Grid
    moving: NDArray[np.float32]
    moving_mask: NDArray[np.bool_]
    start: Matrix

    @property
    def images(self) -> tuple[xr.DataArray, xr.DataArray]:
        """Both as a method is given them, without an axis on which both are flat."""
        return (
            self._image(self.fixed, self.fixed_mask, self.grid),
            self._image(self.moving, self.moving_mask, self.moving_grid),
        )

    def _image(
        self, values: NDArray[np.float32], mask: NDArray[np.bool_], grid: Grid
    ) -> xr.DataArray:
        if self._flat is not None:
            values, mask = values.squeeze(self._flat), mask.squeeze(self._flat)
            grid = Grid(
                grid.dims[1:],
                tuple(grid.shape[axis] for axis in self._kept),
                tuple(grid.spacing[axis] for axis in self._kept),
                tuple(grid.origin[axis] for axis in self._kept),
                grid.units,
            )
        return masked_image(values, mask, grid)

    @cached_property
    def _flat(self) -> int | None:
        """The one axis of three on which both images have one voxel, if there is one.

        Slides are stored so. Turns and scales in the plane are all that they allow.
        """
        sizes = zip(self.grid.shape, self.moving_grid.shape, strict=True)
        flat = [axis for axis, pair in enumerate(sizes) if max(pair) == 1]
        return flat[0] if self.grid.ndim == 3 and len(flat) == 1 else None

    @property
    def _kept(self) -> list[int]:
        return [axis for axis in range(self.grid.ndim) if axis != self._flat]

    def reduced(self, matrix: Matrix) -> Matrix:
        """Return a transform of the volumes as one of `images`."""
        if self._flat is None:
            return matrix
        rows = [*self._kept, -1]
        result = matrix[np.ix_(rows, rows)].copy()
        result[:-1, -1] += matrix[self._kept, self._flat] * self._height
        return result

    def restored(self, matrix: Matrix, start: Matrix) -> Matrix:
        """Return a transform of `images` as one of the volumes.

        Along the flat axis it is that of ``start``.
        """
        if self._flat is None:
            return matrix
        result, kept = start.copy(), self._kept
        result[np.ix_(kept, kept)] = matrix[:-1, :-1]
        result[kept, -1] = matrix[:-1, -1] - start[kept, self._flat] * self._height
        return result

    def restored_pose(self, pose: Pose) -> Pose:
        """Return a pose of `images` as one of the volumes, plane on plane."""
        if self._flat is None:
            return pose
        start = np.eye(self.grid.ndim + 1)
        ahead = self.moving_grid.origin[self._flat] - self._height
        start[self._flat, -1] = ahead
        shift = list(pose.shift)
        shift.insert(self._flat, ahead)
        return replace(
            pose, matrix=self.restored(pose.matrix, start), shift=tuple(shift)
        )

    @property
    def _height(self) -> float:
        """Position of the fixed image along the flat axis."""
        assert self._flat is not None
        return self.grid.origin[self._flat]

    def quality(self, matrix: Matrix, metric: str) -> float:
        """Return the similarity after a transform, less where the overlap is small."""
        pulled = kernels.warp_array(
            np.where(self.moving_mask, self.moving, np.float32(np.nan)),
            self.moving_grid,
            *kernels.affine_displacement(matrix, self.grid),
            self.grid,
        )
        both = self.fixed_mask & np.isfinite(pulled)
        if not both.any():
            return 0.0
        voxel = np.prod(self.grid.spacing)
        smaller = min(
            float(self.fixed_mask.sum() * voxel),
            float(self.moving_mask.sum() * np.prod(self.moving_grid.spacing)),
        )
        share = both.sum() * voxel / smaller
        likeness = similarity(metric, self.fixed, pulled, both, self.grid)
        return likeness * min(1.0, float(share) / FULL_OVERLAP)


def read_whole(inputs: Inputs, matrix: Matrix | None) -> Whole | BlockStatus:
    """Read both images whole, or return a status where there is nothing to register.

    ``matrix`` is the transform so far if it is linear. It is None after a field: the
    moving image is then pulled through the field.
    """
    grid = inputs.fixed.grid
    everything = tuple(slice(0, n) for n in grid.shape)
    if matrix is None:
        first = replace(inputs, others=())
        window = read_window(first, everything, [0.0] * grid.ndim)
        if isinstance(window, BlockStatus):
            return window
        fixed = window.fixed, window.fixed_mask
        moving = window.moving, window.moving_mask
        return Whole(grid, *fixed, grid, *moving, np.eye(grid.ndim + 1))
    fixed_values = inputs.fixed.read_most()
    fixed_mask = np.isfinite(fixed_values)
    if inputs.fixed_mask is not None:
        fixed_mask &= inputs.fixed_mask.read_mask(grid)
    moving_values, moving_grid = inputs.moving.read_most(), inputs.moving.grid
    moving_mask = np.isfinite(moving_values)
    if inputs.moving_mask is not None:
        moving_mask &= inputs.moving_mask.read_mask(moving_grid)
    if not (fixed_mask.any() and moving_mask.any()):
        return BlockStatus.EMPTY
    fixed_values[~fixed_mask] = moving_values[~moving_mask] = np.nan
    own = moving_grid, moving_values, moving_mask
    return Whole(grid, fixed_values, fixed_mask, *own, matrix)
