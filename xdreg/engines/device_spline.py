"""An image that is resampled on a GPU, in turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xdreg.engines.device import turn
from xdreg.numerics.array_spline import pull_limited
from xdreg.numerics.interpolation import Spline

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from xdreg.grid import Grid


@dataclass(frozen=True)
class DeviceSpline:
    """What `interpolation.Spline` is, limited, on a GPU.

    The GPU holds nothing between turns.
    """

    values: NDArray[np.float32]
    grid: Grid

    def resample(
        self, displacement: NDArray[np.float32], displacement_grid: Grid, target: Grid
    ) -> NDArray[np.float32]:
        """Resample onto a grid; on the CPU where the GPU cannot, as it lacks memory."""
        geometry = displacement, displacement_grid, target
        try:
            with turn() as space:
                return pull_limited(space, self.values, self.grid, *geometry)
        except (RuntimeError, ImportError):
            return Spline(self.values, self.grid, limited=True).resample(*geometry)
