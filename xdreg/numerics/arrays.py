"""Sampling and filters on arrays of any kind: NumPy's, or CuPy's on a GPU.

Stock operations only, of a namespace that is like NumPy and of its ``ndimage``. Results
differ from those of the compiled kernels by rounding. Images are ``(z, y, x)`` float32,
NaN where unknown; displacements ``(3, z, y, x)`` float32 in voxels, on `nodes`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from xdreg.numerics.nodes import places

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from xdreg.numerics.nodes import Nodes, Shape

    #: An array of the namespace.
    Array = Any


@dataclass(frozen=True)
class ArraySpace:
    """An array namespace, and the filters for its arrays.

    Attributes
    ----------
    xp
        The namespace: ``numpy``, or ``cupy``.
    ndimage
        ``scipy.ndimage``, or ``cupyx.scipy.ndimage``.
    name
        What identifies the device on its host.
    free
        Gives memory that is not in use back to the device.
    """

    xp: Any
    ndimage: Any
    name: str
    free: Callable[[], object]

    def put(self, array: NDArray[Any]) -> Array:
        """Return an array of NumPy as one of this kind."""
        return self.xp.asarray(array)

    def fetch(self, array: Array) -> NDArray[Any]:
        """Return an array of this kind as one of NumPy."""
        result: NDArray[Any] = getattr(self.xp, "asnumpy", np.asarray)(array)
        return result

    def weighted(self, array: Array, taps: Array, axis: int) -> Array:
        """Return weighted sums along an axis, of zeros beyond its ends."""
        return self.ndimage.correlate1d(array, taps, axis, mode="constant")

    def box_sums(self, array: Array, radius: Shape) -> Array:
        """Return the sums over the box around every element, clipped to the array."""
        for axis, r in enumerate(radius):
            if r:
                ones = self.xp.ones(2 * r + 1, np.float32)
                array = self.weighted(array, ones, axis)
        return array

    def at(self, array: Array, position: Array, dtype: Any = np.float32) -> Array:
        """Interpolate linearly at ``position (3, ...)``; the ends are repeated."""
        return self.ndimage.map_coordinates(
            array, position, output=dtype, order=1, mode="nearest"
        )

    def shifted(self, array: Array, step: Sequence[int]) -> Array:
        """Return the elements at a step from every one; the ends are repeated."""
        for axis, n in enumerate(step):
            if n:
                size = array.shape[axis]
                index = np.clip(np.arange(size) + n, 0, size - 1)
                array = self.xp.take(array, self.put(index), axis=axis)
        return array

    def slope(self, image: Array, axis: int) -> Array:
        """Return central differences; an unknown neighbour has the centre's value."""
        result = self.xp.zeros_like(image)
        if image.shape[axis] > 1:
            before: list[slice] = [slice(None)] * image.ndim
            after = list(before)
            before[axis], after[axis] = slice(None, -1), slice(1, None)
            low, high = tuple(before), tuple(after)
            half = 0.5 * (image[high] - image[low])
            half = self.xp.where(self.xp.isnan(half), 0.0, half)
            result[low] += half
            result[high] += half
        return result


class NodeArrays:
    """Conversion between nodes and voxels, for one image.

    ``share (z, y, x)`` is one over the number of voxels of every node.
    """

    def __init__(self, space: ArraySpace, nodes: Nodes) -> None:
        self.space, self.nodes = space, nodes
        self._places, counts = [], []
        for voxels, count, stride in zip(
            nodes.voxels, nodes.shape, nodes.stride, strict=True
        ):
            self._places.append([space.put(a) for a in places(voxels, count, stride)])
            rest = voxels - stride * np.arange(count)
            counts.append(np.minimum(stride, rest).astype(np.float32))
        z, y, x = np.ix_(*counts)
        self.share = space.put(1 / (z * y * x))
        ends = np.array(nodes.voxels, np.float32) - np.float32(0.5)
        self._ends = space.put(along(ends, 0, 4))

    @property
    def parts(self) -> list[tuple[slice, ...]]:
        """Slices of an image, each of at most one voxel of every node."""
        stride = self.nodes.stride
        every = itertools.product(*(range(s) for s in stride))
        return [
            tuple(slice(n, None, s) for n, s in zip(first, stride, strict=True))
            for first in every
        ]

    def of_part(self, nodes: Array, part: Array) -> Array:
        """Return the elements of an array of nodes that have a voxel in a part."""
        z, y, x = part.shape
        return nodes[:z, :y, :x]

    def sums(self, image: Array) -> Array:
        """Return the sums over the voxels of every node."""
        if self.nodes.stride == (1, 1, 1):
            return image
        total = self.space.xp.zeros(self.nodes.shape, image.dtype)
        for where in self.parts:
            part = image[where]
            inner = self.of_part(total, part)
            inner += part
        return total

    def positions(self, displacement: Array) -> Array:
        """Return the displaced position (3, z, y, x) of every voxel."""
        for axis, (low, high, share) in enumerate(self._places, start=1):
            if self.nodes.stride[axis - 1] > 1:
                displacement = blended(self.space, displacement, low, high, share, axis)
        return displaced(self.space, displacement)

    def pull(
        self, image: Array, weight: Array | None, position: Array
    ) -> tuple[Array, Array]:
        """Sample an image, zero where unknown; return values and what is known.

        ``weight`` is one where the image is known, None where it is everywhere. Values
        that are not known are meaningless.
        """
        # The image extends to the edges of its outer voxels.
        inside = ((position >= -0.5) & (position <= self._ends)).all(axis=0)
        values = self.space.at(image, position)
        if weight is not None:
            known = self.space.at(weight, position)
            inside &= known >= 0.5
            values /= self.space.xp.maximum(known, 0.5)
        return values, inside


class Smoothing:
    """Separable smoothing of arrays (..., z, y, x); weights sum to one at the ends."""

    def __init__(
        self, space: ArraySpace, taps: Sequence[NDArray[np.float32]], shape: Shape
    ) -> None:
        self._space, self._axes = space, []
        for axis, (weights, size) in enumerate(zip(taps, shape, strict=True), start=-3):
            if weights.size > 1:
                radius = weights.size // 2
                kept = np.convolve(np.ones(size), weights)[radius : radius + size]
                scale = space.put((1 / kept).astype(np.float32))
                self._axes.append((axis, space.put(weights), along(scale, axis, 3)))

    def __call__(self, array: Array) -> Array:
        """Return a smoothed array."""
        for axis, taps, scale in self._axes:
            array = self._space.weighted(array, taps, axis)
            array *= scale
        return array


def blended(
    space: ArraySpace, array: Array, low: Array, high: Array, share: Array, axis: int
) -> Array:
    """Interpolate along an axis of (c, z, y, x) between two elements, by the share."""
    near = space.xp.take(array, low, axis=axis)
    step = space.xp.take(array, high, axis=axis)
    step -= near
    near += along(share, axis, 4) * step
    return near


def along(values: Array, axis: int, ndim: int) -> Array:
    """Return a line of values as an array of several dims along one of them."""
    shape = [1] * ndim
    shape[axis] = -1
    return values.reshape(shape)


def centred(space: ArraySpace, image: Array) -> tuple[Array, Array, int]:
    """Return an image with mean zero, what of it is known, and the number of that."""
    xp, known = space.xp, space.xp.isfinite(image)
    count = max(int(known.sum()), 1)
    total = xp.where(known, image, 0.0).sum(dtype=np.float64)
    return image - float(total) / count, known, count


def displaced(space: ArraySpace, displacement: Array) -> Array:
    """Return the position of every element, displaced."""
    position = displacement.copy()
    for axis, size in enumerate(displacement.shape[1:]):
        position[axis] += along(space.xp.arange(size, dtype=np.float32), axis, 3)
    return position


def composed(space: ArraySpace, update: Array, before: Array, per_node: Any) -> Array:
    """Return the displacement that applies an update first, ``v + before(x + v)``.

    ``per_node (3)`` converts voxels to nodes.
    """
    scale = space.put(np.asarray(per_node, np.float32))
    position = displaced(space, update * along(scale, 0, 4))
    result = update.copy()
    for axis in range(3):
        result[axis] += space.at(before[axis], position)
    return result
