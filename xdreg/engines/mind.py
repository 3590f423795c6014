"""Likeness of the self-similarity descriptors of two images, and its force.

The descriptors and their kernels are in `numerics.descriptors`. They suit images that
share shapes but no intensities.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from xdreg.engines.descent import summed_forces
from xdreg.engines.metric import NO_TENSOR, EngineMetric, Terms
from xdreg.numerics import descriptors
from xdreg.numerics.array_descriptors import ArrayDescriptors
from xdreg.numerics.descriptors import (
    IN_SPACE,
    NOT_COUNTED,
    SCALE,
    descriptor,
    lanes,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from xdreg.engines.descent import Array, Force, Kernel, Totals
    from xdreg.engines.metric import ByDimension, Lengths
    from xdreg.engines.voxel_units import VoxelUnits
    from xdreg.numerics.arrays import ArraySpace
    from xdreg.numerics.nodes import Nodes

#: Voxels of an update for a force of one, before smoothing reduces them.
GAIN = {2: 16.0, 3: 7.0}


class SelfSimilarity(EngineMetric):
    """``"mind"``: one minus the mean squared difference of descriptors.

    Smoothing is twice that of local correlation, as a descriptor says less than a box.
    The energy rises more slowly.
    """

    radius: ClassVar[ByDimension] = {2: 1.0, 3: 1.0}
    coarse_radius: ClassVar[ByDimension] = radius
    update_sigma: ClassVar[ByDimension] = {2: 16.0, 3: 6.0}
    field_sigma: ClassVar[ByDimension] = {2: 6.0, 3: 2.4}
    coarse_convergence: ClassVar[ByDimension] = {2: 3e-5, 3: 3e-5}
    wide_box: ClassVar[bool] = False
    matches_edges: ClassVar[bool] = True

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
        """Return the force of all channels; nothing resists."""
        gain = GAIN[units.ndim] / len(pairs)
        box = units.radius(radius, self.radius)
        steps = np.float32(gain) * units.squared_steps
        if space is not None:
            return [
                ArrayDescriptors(space, *images, box, steps, nodes) for images in pairs
            ], None
        forces = [descriptor_force(*images, box, steps, nodes) for images in pairs]
        return summed_forces(nodes.shape, forces), None

    def linear_terms(
        self, fixed: Array, units: VoxelUnits, contrast: tuple[float, float]
    ) -> Callable[[Array], Terms]:
        """Return a function from a pulled moving image to the terms of a linear fit."""
        radius = units.radius(None, self.coarse_radius)
        reference = descriptor(fixed, radius)
        still = np.zeros((*units.shape, 3), np.float32)
        steps = np.ones(3, np.float32)

        def terms(pulled: Array) -> Terms:
            images = reference, descriptor(pulled, radius), lanes(reference)
            result = Terms.empty(units.shape)
            arrays = steps, *result.arrays
            descriptors.force(0, len(still), still, (1, 1, 1), *images, *arrays)
            return result

        return terms

    def similarity(self, fixed: Array, moving: Array, units: VoxelUnits) -> float:
        """Return one minus the mean squared difference of descriptors."""
        radius = units.radius(None, self.coarse_radius)
        a, b = descriptor(fixed, radius), descriptor(moving, radius)
        both = (a[..., 0] != NOT_COUNTED) & (b[..., 0] != NOT_COUNTED)
        if not both.any():
            return float("nan")
        a, b = a[both][:, :IN_SPACE], b[both][:, :IN_SPACE]
        return float(1 - ((a.astype(np.float32) - b) ** 2).mean() / SCALE**2)


def descriptor_force(
    fixed: Array,
    moving: Array,
    radius: tuple[int, int, int],
    squared_steps: Array,
    nodes: Nodes | None = None,
) -> tuple[Kernel, ...]:
    """Return the kernels that pull ``moving`` to ``fixed``, for `descent`.

    Arguments are those of `correlation.correlation_force`.
    """
    reference, source = descriptor(fixed, radius), descriptor(moving, radius)
    stride = nodes.stride if nodes else (1, 1, 1)

    def push(
        start: int, stop: int, displacement: Array, update: Array, totals: Totals
    ) -> None:
        images = displacement, stride, reference, source, lanes(source)
        arrays = squared_steps, update, NO_TENSOR, totals
        descriptors.force(start, stop, *images, *arrays)

    return (push,)
