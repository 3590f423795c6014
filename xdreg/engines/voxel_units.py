"""Images and lengths as the engine has them: in voxels, always three axes (z, y, x)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from xdreg.coordinates import coordinates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from xdreg.engines.descent import Array
    from xdreg.grid import Grid


def counted(image: xr.DataArray, grid: Grid) -> Array:
    """Return an image (z, y, x) with NaN where its mask says that it does not count."""
    values = np.asarray(image.transpose(*grid.dims).values, np.float32)
    if "mask" in image.coords:
        mask = image["mask"].transpose(*grid.dims).values
        values = np.where(mask, values, np.float32(np.nan))
    return np.ascontiguousarray(values.reshape((1,) * (3 - grid.ndim) + grid.shape))


@dataclass(frozen=True)
class VoxelUnits:
    """Turns physical lengths into voxels of a grid, always in (z, y, x), and back.

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
    def in_space(self) -> bool:
        """Whether the grid extends along three axes, or lies in a plane."""
        return bool(self._present.all())

    @property
    def _mean_spacing(self) -> float:
        steps = [
            s for s, n in zip(self.grid.spacing, self.grid.shape, strict=True) if n > 1
        ]
        return float(np.exp(np.mean(np.log(steps)))) if steps else 1.0

    def voxels(
        self, lengths: float | Sequence[float] | None, default: dict[int, float]
    ) -> tuple[float, ...]:
        """Return physical lengths in voxels; by default so many mean voxels."""
        if lengths is None:
            lengths = default[3 if self.in_space else 2] * self._mean_spacing
        given = np.broadcast_to(np.asarray(lengths, float), (self.grid.ndim,))
        padded = np.concatenate([np.zeros(3 - self.grid.ndim), given])
        return tuple(np.where(self._present, padded / self._spacing, 0.0).tolist())

    def radius(
        self, lengths: float | Sequence[float] | None, default: dict[int, float]
    ) -> tuple[int, int, int]:
        """Return a box's half-width in whole voxels, at least one where there are."""
        voxels = self.voxels(lengths, default)
        z, y, x = (max(1, round(v)) if v else 0 for v in voxels)
        return z, y, x

    @property
    def squared_steps(self) -> Array:
        """How far a gradient in voxels moves a voxel, per axis.

        A physical gradient is one in voxels over the spacing, and a physical step
        another spacing shorter in voxels.
        """
        steps = np.where(self._present, (self._mean_spacing / self._spacing) ** 2, 0)
        return steps.astype(np.float32)

    def physical(self, displacement: Array) -> xr.DataArray:
        """Return a displacement (z, y, x, 3) in voxels as one in physical units."""
        grid = self.grid
        values = np.moveaxis(displacement, -1, 0)[3 - grid.ndim :]
        scale = np.array(grid.spacing, np.float32).reshape((-1,) + (1,) * grid.ndim)
        result = np.empty((grid.ndim, *grid.shape), np.float32)
        np.multiply(values.reshape(result.shape), scale, out=result)
        return xr.DataArray(
            result,
            dims=("component", *grid.dims),
            coords=coordinates(grid),
        )
