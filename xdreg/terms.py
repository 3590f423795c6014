"""What a force says about every voxel: where it pulls, and how stiff it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Given to a kernel that need not write one.
NO_TENSOR = np.empty((0, 0, 0, 6), np.float32)


@dataclass(frozen=True)
class Terms:
    """The linearised energy of two images, voxel by voxel, in voxels.

    Parameters
    ----------
    force : (z, y, x, 3) float32
        Gradient of the energy by the displacement.
    tensor : (z, y, x, 6) float32
        Its curvature as of a least-squares fit: zz, zy, zx, yy, yx, xx.
    totals : (z, 2) float64
        Sums over a plane: of the energy, and of the voxels behind it.
    """

    force: NDArray[np.float32]
    tensor: NDArray[np.float32]
    totals: NDArray[np.float64]

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> Terms:
        """Return terms for kernels to fill."""
        return cls(
            np.zeros((*shape, 3), np.float32),
            np.zeros((*shape, 6), np.float32),
            np.zeros((shape[0], 2)),
        )

    @property
    def arrays(
        self,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
        """All three, in the order in which kernels take them."""
        return self.force, self.tensor, self.totals

    @property
    def energy(self) -> float:
        """Mean energy of the voxels that count; zero without any."""
        return float(self.totals[:, 0].sum() / max(self.totals[:, 1].sum(), 1.0))

    @property
    def count(self) -> float:
        """Voxels that count."""
        return float(self.totals[:, 1].sum())
