"""What a metric of xdreg's own engines provides.

A new metric is a subclass of `EngineMetric` in a file of its own, and an entry in
`own_metrics.METRICS` and in `xdreg.stages.OWN_METRICS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from xdreg.engines.descent import Array, Force
    from xdreg.engines.voxel_units import VoxelUnits
    from xdreg.numerics.arrays import ArraySpace
    from xdreg.numerics.nodes import Nodes

    #: By the number of dimensions, 2 or 3.
    ByDimension = Mapping[int, float]
    Lengths = float | Sequence[float] | None

#: Given to a kernel that need not write a tensor.
NO_TENSOR = np.empty((0, 0, 0, 6), np.float32)


class EngineMetric(ABC):
    """A similarity of two images, with its force and the defaults that suit it.

    Images are ``(z, y, x)`` float32, NaN outside the mask.

    Attributes
    ----------
    radius : voxels
        Half-width of the boxes or patches compared.
    coarse_radius : voxels
        The same for linear transforms, which are found on few voxels, and for
        `similarity`.
    update_sigma, field_sigma : voxels
        Smoothing of an update, and of the total after a step of one voxel.
    coarse_convergence
        See `descent.Settings`: before the finest level of a run.
    wide_box
        Whether a box of ``radius`` hides parts that move by themselves, so that it is
        narrowed on coarse levels and during a search.
    matches_edges
        Whether a search for a pose compares edges in place of intensities.
    """

    radius: ClassVar[ByDimension]
    coarse_radius: ClassVar[ByDimension]
    update_sigma: ClassVar[ByDimension]
    field_sigma: ClassVar[ByDimension]
    coarse_convergence: ClassVar[ByDimension]
    wide_box: ClassVar[bool]
    matches_edges: ClassVar[bool]

    @abstractmethod
    def force(
        self,
        pairs: Sequence[tuple[Array, Array]],
        units: VoxelUnits,
        nodes: Nodes,
        radius: Lengths = None,
        contrast: Sequence[tuple[float, float]] | None = None,
        stiffness: Sequence[float] | None = None,
        space: ArraySpace | None = None,
    ) -> Force:
        """Return the force and the resistance of all channels, for `descent`.

        ``pairs`` are the fixed and moving image of each channel, ``nodes`` those of
        displacements, updates and resistance. The options are those of
        `local_correlation`. With a ``space`` they are for an `ArrayLevel` in it,
        otherwise for a `CompiledLevel`.
        """

    def matched(self, fixed: Array, moving: Array, units: VoxelUnits) -> Array:
        """Return fixed as it is compared with moving, which it lies on roughly."""
        return fixed

    @abstractmethod
    def linear_terms(
        self, fixed: Array, units: VoxelUnits, contrast: tuple[float, float]
    ) -> Callable[[Array], Terms]:
        """Return a function from a pulled moving image to the terms of a linear fit.

        ``contrast`` are the standard deviations of fixed and moving.
        """

    @abstractmethod
    def similarity(self, fixed: Array, moving: Array, units: VoxelUnits) -> float:
        """Return the similarity of two images, 0 to 1; NaN without common voxels."""


@dataclass(frozen=True)
class Terms:
    """The linearised energy of two images, voxel by voxel, in voxels.

    ``force`` (z, y, x, 3) is its gradient by the displacement, ``tensor`` (z, y, x, 6)
    its curvature as of a least-squares fit: zz, zy, zx, yy, yx, xx. ``totals`` (z, 2)
    are the sum of the energy in a plane and the number of voxels it covers.
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
        """All three, in the order that kernels take them."""
        return self.force, self.tensor, self.totals

    @property
    def energy(self) -> float:
        """Mean energy of the voxels covered; zero without any."""
        return float(self.totals[:, 0].sum() / max(self.totals[:, 1].sum(), 1.0))

    @property
    def count(self) -> float:
        """Number of voxels covered."""
        return float(self.totals[:, 1].sum())
