"""Self-similarity descriptors and their force, on arrays of any kind.

The formulas are those of `descriptors`; the operations those of `arrays`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xdreg.numerics.arrays import NodeArrays, along, centred
from xdreg.numerics.descriptors import LEAST_VARIANCE, SCALE, neighbour_pairs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xdreg.numerics.arrays import Array, ArraySpace
    from xdreg.numerics.nodes import Nodes, Shape


def descriptors(
    space: ArraySpace, image: Array, radius: Shape
) -> tuple[list[Array], Array]:
    """Return the descriptors of an image, a byte array a channel, and what is known.

    They are zero where nothing is known, everywhere in a line or a single voxel.
    """
    xp = space.xp
    values, known, count = centred(space, image)
    sums = []
    for one, other in neighbour_pairs(image.shape):
        difference = space.shifted(values, one) - space.shifted(values, other)
        squares = xp.where(xp.isnan(difference), 0.0, difference * difference)
        sums.append(space.box_sums(squares, radius))
    if not sums:
        return [xp.zeros(image.shape, np.uint8)], xp.zeros(image.shape, bool)
    mean, smallest = sums[0].copy(), sums[0]
    for channel in sums[1:]:
        mean += channel
        smallest = xp.minimum(smallest, channel)
    mean /= len(sums)
    typical = float(xp.where(known, mean, 0.0).sum(dtype=np.float64)) / count
    variance = xp.maximum(mean, LEAST_VARIANCE * typical) + 1e-20
    result = []
    while sums:
        likeness = xp.exp((smallest - sums.pop(0)) / variance)
        channel = xp.where(known, SCALE * likeness + 0.5, 0.0)
        result.append(channel.astype(np.uint8))
    return result, known


class ArrayDescriptors:
    """The force that pulls ``moving`` to ``fixed``.

    Parameters
    ----------
    fixed, moving
        The images, of NumPy.
    radius
        Half-width of the patches in voxels.
    squared_steps
        Factors (z, y, x) from a gradient per voxel to an update in voxels.
    """

    def __init__(
        self,
        space: ArraySpace,
        fixed: NDArray[np.float32],
        moving: NDArray[np.float32],
        radius: Shape,
        squared_steps: NDArray[np.float32],
        nodes: Nodes,
    ) -> None:
        self._space, self._nodes = space, NodeArrays(space, nodes)
        self._fixed = descriptors(space, space.put(fixed), radius)
        self._moving = descriptors(space, space.put(moving), radius)
        self._steps = along(space.put(squared_steps), 0, 4)
        self._weight = self._moving[1].astype(np.float32)

    def __call__(self, displacement: Array) -> tuple[Array, float, float]:
        """Return the update (3, z, y, x) of nodes, the sum of the energy, its terms."""
        space, xp, nodes = self._space, self._space.xp, self._nodes
        position = nodes.positions(displacement)
        weight, known = nodes.pull(self._weight, None, position)
        known &= weight >= 0.5
        scale = xp.where(known, 1 / (SCALE * xp.maximum(weight, 0.5)), np.nan)
        both, squares = known & self._fixed[1], xp.zeros(known.shape, np.float32)
        update = xp.zeros((3, *nodes.nodes.shape), np.float32)
        for own, other in zip(self._fixed[0], self._moving[0], strict=True):
            pulled = space.at(other, position) * scale
            gap = xp.where(both, own.astype(np.float32) / SCALE - pulled, 0.0)
            squares += gap * gap
            for axis in range(3):
                update[axis] += nodes.sums(gap * space.slope(pulled, axis))
        update *= nodes.share
        update *= self._steps
        terms = xp.where(both, 1 - squares / len(self._fixed[0]), 0.0)
        return update, float(terms.sum(dtype=np.float64)), float(both.sum())
