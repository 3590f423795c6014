"""Conversion of images and lengths to voxels on three axes (z, y, x), and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from xdreg.coordinates import coordinates

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from xdreg.engines.descent import Array
    from xdreg.grid import Grid

#: Longest length that is smoothed or summed over, in extents of the axis, and number of
#: voxels that is never too long. Where one axis is far finer than the others, lengths
#: would be millions of its voxels.
LONGEST = 2
ANY = 64


def masked_values(image: xr.DataArray, grid: Grid) -> Array:
    """Return the values of an image (z, y, x), NaN outside its mask."""
    values = np.asarray(image.transpose(*grid.dims).values, np.float32)
    if "mask" in image.coords:
        mask = image["mask"].transpose(*grid.dims).values
        values = np.where(mask, values, np.float32(np.nan))
    return np.ascontiguousarray(values.reshape((1,) * (3 - grid.ndim) + grid.shape))


@dataclass(frozen=True)
class VoxelUnits:
    """Conversion between physical lengths and voxels (z, y, x) of a grid.

    Axes of a single voxel have no extent: nothing is smoothed or moved along them.
    """

    grid: Grid

    @property
    def shape(self) -> tuple[int, int, int]:
        """The grid's shape (z, y, x)."""
        z, y, x = (1,) * (3 - self.grid.ndim) + self.grid.shape
        return z, y, x

    @property
    def _spacing(self) -> NDArray[np.float64]:
        return np.array((np.inf,) * (3 - self.grid.ndim) + self.grid.spacing)

    @property
    def _present(self) -> NDArray[np.bool_]:
        return np.array(self.shape) > 1

    @property
    def ndim(self) -> int:
        """3 if all three axes have more than one voxel, else 2."""
        return 3 if self._present.all() else 2

    @property
    def mean_spacing(self) -> float:
        """Geometric mean of the spacing of axes that have more than one voxel."""
        steps = [
            s for s, n in zip(self.grid.spacing, self.grid.shape, strict=True) if n > 1
        ]
        return float(np.exp(np.mean(np.log(steps)))) if steps else 1.0

    def voxels(
        self, lengths: float | Sequence[float] | None, default: Mapping[int, float]
    ) -> tuple[float, ...]:
        """Convert physical lengths to voxels; defaults by `ndim` are in mean voxels.

        Lengths far beyond an axis act as if they were `LONGEST` times as long as it.
        """
        if lengths is None:
            lengths = default[self.ndim] * self.mean_spacing
        given = np.broadcast_to(np.asarray(lengths, float), (self.grid.ndim,))
        padded = np.concatenate([np.zeros(3 - self.grid.ndim), given])
        most = np.maximum(LONGEST * np.array(self.shape), ANY)
        voxels = np.minimum(padded / self._spacing, most)
        return tuple(np.where(self._present, voxels, 0.0).tolist())

    def lengths(
        self, lengths: float | Sequence[float] | None, default: Mapping[int, float]
    ) -> list[float]:
        """Return physical lengths per dim, from what `voxels` takes."""
        voxels = self.voxels(lengths, default)[3 - self.grid.ndim :]
        return [v * step for v, step in zip(voxels, self.grid.spacing, strict=True)]

    def radius(
        self, lengths: float | Sequence[float] | None, default: Mapping[int, float]
    ) -> tuple[int, int, int]:
        """Return a box's half-width in whole voxels, 1 or more; 0 on flat axes."""
        voxels = self.voxels(lengths, default)
        z, y, x = (max(1, round(v)) if v else 0 for v in voxels)
        return z, y, x

    @property
    def squared_steps(self) -> Array:
        """Factors per axis from a gradient per voxel to an update in voxels.

        Spacing enters twice: once for the gradient, once for the update.
        """
        steps = np.where(self._present, (self.mean_spacing / self._spacing) ** 2, 0)
        return steps.astype(np.float32)

    def physical(self, displacement: Array) -> xr.DataArray:
        """Convert a displacement (z, y, x, 3) from voxels to physical units."""
        grid = self.grid
        values = np.moveaxis(displacement, -1, 0)[3 - grid.ndim :]
        scale = np.array(grid.spacing, np.float32).reshape((-1,) + (1,) * grid.ndim)
        result = np.empty((grid.ndim, *grid.shape), np.float32)
        np.multiply(values.reshape(result.shape), scale, out=result)
        dims = ("component", *grid.dims)
        return xr.DataArray(result, dims=dims, coords=coordinates(grid))
