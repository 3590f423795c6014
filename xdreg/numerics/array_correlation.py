"""Squared local correlation and its gradient, on arrays of any kind.

The formulas are those of `correlation_kernels`; the operations those of `arrays`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from xdreg.numerics.arrays import NodeArrays, along, centred
from xdreg.numerics.correlation_kernels import LEAST_SHARE, NOISE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xdreg.numerics.arrays import Array, ArraySpace
    from xdreg.numerics.nodes import Nodes, Shape


def standardised(space: ArraySpace, image: Array, contrast: float | None) -> Array:
    """Return an image with mean zero and standard deviation one.

    ``contrast`` is its standard deviation, by default that of the array.
    """
    xp = space.xp
    image, known, count = centred(space, image)
    if not contrast:
        squares = xp.where(known, image * image, 0.0).sum(dtype=np.float64)
        contrast = math.sqrt(float(squares) / count) or 1.0
    return image / contrast


class ArrayCorrelation:
    """The force that pulls ``moving`` to ``fixed``.

    Parameters
    ----------
    fixed, moving
        The images, of NumPy.
    contrast
        Their standard deviations, by default those of the arrays.
    box
        Half-width of the boxes in nodes.
    squared_steps
        Factors (z, y, x) from a gradient per voxel to an update in voxels.
    """

    def __init__(
        self,
        space: ArraySpace,
        fixed: NDArray[np.float32],
        moving: NDArray[np.float32],
        contrast: tuple[float, float] | None,
        box: Shape,
        squared_steps: NDArray[np.float32],
        nodes: Nodes,
    ) -> None:
        xp = space.xp
        self._space, self._box = space, box
        one, other = contrast or (None, None)
        self._fixed = standardised(space, space.put(fixed), one)
        source = standardised(space, space.put(moving), other)
        self._nodes = NodeArrays(space, nodes)
        self._steps = along(space.put(squared_steps), 0, 4)
        self._slopes = [space.slope(self._fixed, axis) for axis in range(3)]
        known = xp.isfinite(source)
        self._moving = xp.where(known, source, 0.0)
        self._weight = None if bool(known.all()) else known.astype(np.float32)
        room = math.prod(
            min((2 * r + 1) * s, n)
            for r, s, n in zip(box, nodes.stride, nodes.voxels, strict=True)
        )
        # A count of voxels is a whole number, apart from rounding.
        self._least = math.ceil(LEAST_SHARE * room) - 0.5
        # Boxes lie around nodes only: each stands for those of its voxels.
        self._share = 0.5 * math.prod(nodes.stride) * self._nodes.share

    def __call__(self, displacement: Array) -> tuple[Array, float, float]:
        """Return the update (3, z, y, x) of nodes, the sum of the energy, its terms."""
        xp, nodes = self._space.xp, self._nodes
        position = nodes.positions(displacement)
        values, known = nodes.pull(self._moving, self._weight, position)
        del position
        pulled = xp.where(known, values, np.nan)
        coefficients, energy, count = self._coefficients(self._fixed, pulled)
        a, b, c, d, e = (self._space.box_sums(v, self._box) for v in coefficients)
        slopes = [self._space.slope(pulled, axis) for axis in range(3)]
        update = xp.zeros((3, *nodes.nodes.shape), np.float32)
        for where in nodes.parts:
            f, m = self._fixed[where], pulled[where]
            inner = (nodes.of_part(v, f) for v in (a, b, c, d, e))
            part_a, part_b, part_c, part_d, part_e = inner
            g = f * part_a - m * part_b + part_c
            h = m * part_a - f * part_d + part_e
            both = xp.isfinite(g)
            for axis, (own, other) in enumerate(zip(slopes, self._slopes, strict=True)):
                push = xp.where(both, g * own[where] - h * other[where], 0.0)
                total = nodes.of_part(update[axis], f)
                total += push
        update *= self._share
        update *= self._steps
        return update, energy, count

    def curvature(self) -> Array:
        """Return the energy's curvature (z, y, x) along the update, at a match.

        It is the force per voxel of displacement of the fixed image from itself.
        """
        space = self._space
        (_, own, *_), _, _ = self._coefficients(self._fixed, self._fixed)
        known = space.xp.isfinite(self._fixed)
        squares = space.xp.zeros(known.shape, np.float32)
        for step, slope in zip(self._steps, self._slopes, strict=True):
            squares += step * space.xp.where(known, slope * slope, 0.0)
        both_images = 2 * space.box_sums(own, self._box)
        return both_images * self._nodes.sums(squares) * self._share

    def _coefficients(
        self, fixed: Array, pulled: Array
    ) -> tuple[tuple[Array, ...], float, float]:
        """Return the coefficients a to e of the gradient, the energy, its terms."""
        xp = self._space.xp
        known = xp.isfinite(fixed) & xp.isfinite(pulled)
        f, m = (xp.where(known, image, 0.0) for image in (fixed, pulled))

        def summed(values: Array) -> Array:
            return self._space.box_sums(self._nodes.sums(values), self._box)

        count = summed(known.astype(np.float32))
        enough = count > self._least
        number = xp.maximum(count, 1.0)
        sum_f, sum_m = summed(f), summed(m)
        mean_f, mean_m = sum_f / number, sum_m / number
        noise = NOISE * NOISE * number
        spread_f = xp.maximum(summed(f * f) - sum_f * mean_f, 0.0) + noise
        spread_m = xp.maximum(summed(m * m) - sum_m * mean_m, 0.0) + noise
        cross = summed(f * m) - sum_f * mean_m
        ratio = xp.where(enough, cross / (spread_f * spread_m), 0.0)
        energy = (ratio * cross).sum(dtype=np.float64)
        a = 2 * ratio
        b, d = a * cross / spread_m, a * cross / spread_f
        c, e = b * mean_m - a * mean_f, d * mean_f - a * mean_m
        return (a, b, c, d, e), float(energy), float(enough.sum())
