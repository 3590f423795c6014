"""The partition of a fixed image into overlapping blocks, and their blending weights.

Vocabulary:

- The *core* of a block is its own voxels. Cores tile the image exactly once.
- The *window* is the core with the overlap on every side, clipped to the image.
- The *patch* is the part of the stage's displacement field that lies in a window.
- Field points are every ``field_step``-th voxel. A core has a whole number of them.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from xdreg.errors import InputError
from xdreg.grid import Grid, whole_per_axis

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from numpy.typing import NDArray


#: How much more of the moving image than its window a block reads on every side, in
#: overlaps. An update may point out of the window.
MOVING_MARGIN = 1

#: Most blocks of a stage.
MOST_BLOCKS = 10**8


class BlockStatus(IntEnum):
    """The outcome of a block; all but ``SUCCESS`` contribute a zero update."""

    PENDING = -1
    SUCCESS = 0
    EMPTY = 1
    NO_OVERLAP = 2
    TOO_FEW_SAMPLES = 3
    NOT_IMPROVED = 4
    FOLDED = 5
    REJECTED = 6
    CRASHED = 7
    TIMEOUT = 8
    UNREADABLE = 9

    @property
    def meaning(self) -> str:
        """The status as a word, as stored in ``flag_meanings``."""
        return self.name.lower()


def shared_part(
    one: Sequence[slice], other: Sequence[slice]
) -> tuple[tuple[slice, ...], tuple[slice, ...], tuple[slice, ...]] | None:
    """Return the intersection of two boxes, and its place in each; None if empty.

    Examples
    --------
    >>> shared_part([slice(0, 8)], [slice(6, 12)])
    ((slice(6, 8, None),), (slice(6, 8, None),), (slice(0, 2, None),))
    """
    shared = tuple(
        slice(max(a.start, b.start), min(a.stop, b.stop))
        for a, b in zip(one, other, strict=True)
    )
    if any(part.stop <= part.start for part in shared):
        return None
    inside = [
        tuple(
            slice(s.start - b.start, s.stop - b.start)
            for s, b in zip(shared, box, strict=True)
        )
        for box in (one, other)
    ]
    return shared, inside[0], inside[1]


@dataclass(frozen=True)
class Partition:
    """The blocks into which a stage cuts the fixed image.

    Parameters
    ----------
    grid
        The fixed image at the stage's level.
    block_shape
        Voxels of a core per axis, multiples of ``field_step``.
    overlap
        Voxels by which a window exceeds its core, per side and axis.
    field_step
        Voxels between field points per axis.

    Examples
    --------
    >>> from xdreg.grid import Grid
    >>> grid = Grid(("y", "x"), (100, 60), (1.0, 1.0), (0.0, 0.0))
    >>> partition = Partition.balanced(grid, block_shape=40, overlap=8, field_step=2)
    >>> partition.counts, partition.block_shape
    ((3, 2), (34, 30))
    >>> partition.window((1, 0))
    (slice(26, 76, None), slice(0, 38, None))
    """

    grid: Grid
    block_shape: tuple[int, ...]
    overlap: tuple[int, ...]
    field_step: tuple[int, ...]

    @classmethod
    def balanced(
        cls,
        grid: Grid,
        *,
        block_shape: int | Sequence[int],
        overlap: int | Sequence[int],
        field_step: int | Sequence[int],
    ) -> Partition:
        """Return blocks of at most ``block_shape``, all of about the same size.

        Raises
        ------
        InputError
            If the overlap reaches beyond the neighbouring block's middle, or there are
            too many blocks.
        """
        ndim = grid.ndim
        most = whole_per_axis(block_shape, ndim, "block_shape", minimum=1)
        margins = tuple(
            min(margin, n)
            for margin, n in zip(
                whole_per_axis(overlap, ndim, "overlap"), grid.shape, strict=True
            )
        )
        steps = whole_per_axis(field_step, ndim, "field_step", minimum=1)
        shape = []
        for n, limit, step in zip(grid.shape, most, steps, strict=True):
            whole_steps = max(limit // step, 1)
            count = -(-n // (whole_steps * step))
            shape.append(-(-n // (count * step)) * step)
        for axis, (n, size, margin) in enumerate(
            zip(grid.shape, shape, margins, strict=True)
        ):
            if n > size and 2 * margin > size:
                msg = (
                    f"overlap {margin} along {grid.dims[axis]!r} is more than half of "
                    f"the block's {size} voxels; use an overlap of at most {size // 2} "
                    "or larger blocks"
                )
                raise InputError(msg)
        partition = cls(grid, tuple(shape), margins, steps)
        if partition.size > MOST_BLOCKS:
            msg = (
                f"{partition.size:.3g} blocks of an image of {grid.shape} voxels are "
                "too many; is its shape right? Else use larger blocks"
            )
            raise InputError(msg, block_shape=...)
        return partition

    @functools.cached_property
    def counts(self) -> tuple[int, ...]:
        """Number of blocks per axis."""
        return tuple(
            -(-n // b) for n, b in zip(self.grid.shape, self.block_shape, strict=True)
        )

    @property
    def size(self) -> int:
        """Number of blocks."""
        return math.prod(self.counts)

    @functools.cached_property
    def field_grid(self) -> Grid:
        """The grid of the stage's displacement field."""
        return self.grid.every(self.field_step)

    @functools.cached_property
    def field_chunks(self) -> tuple[int, ...]:
        """Field points in a core, per axis: the chunks of the stored field."""
        return tuple(
            b // s for b, s in zip(self.block_shape, self.field_step, strict=True)
        )

    @property
    def window_shape(self) -> tuple[int, ...]:
        """Voxels of a window that the image's edge does not clip, per axis."""
        return tuple(
            min(b + 2 * o, n)
            for b, o, n in zip(
                self.block_shape, self.overlap, self.grid.shape, strict=True
            )
        )

    @property
    def patch_shape(self) -> tuple[int, ...]:
        """The largest patch; every patch is stored padded to it."""
        shape = []
        for axis, count in enumerate(self.counts):
            # All but the first and the last are as long as the middle one.
            some = {0, min(1, count - 1), count // 2, max(count - 2, 0), count - 1}
            parts = [self._patch_axis(axis, i) for i in some]
            shape.append(max(part.stop - part.start for part in parts))
        return tuple(shape)

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        """Iterate over the block indices in C order."""
        return itertools.product(*(range(count) for count in self.counts))

    def core(self, block: Sequence[int]) -> tuple[slice, ...]:
        """Return the voxels of a block's core."""
        return tuple(
            slice(i * b, min((i + 1) * b, n))
            for i, b, n in zip(block, self.block_shape, self.grid.shape, strict=True)
        )

    def window(self, block: Sequence[int]) -> tuple[slice, ...]:
        """Return the voxels of a block's window."""
        return tuple(
            slice(max(core.start - o, 0), min(core.stop + o, n))
            for core, o, n in zip(
                self.core(block), self.overlap, self.grid.shape, strict=True
            )
        )

    def field_core(self, block: Sequence[int]) -> tuple[slice, ...]:
        """Return the field points of a core; the last block takes the points beyond."""
        return tuple(
            slice(
                i * chunk,
                min((i + 1) * chunk, size) if i + 1 < count else size,
            )
            for i, chunk, size, count in zip(
                block,
                self.field_chunks,
                self.field_grid.shape,
                self.counts,
                strict=True,
            )
        )

    def patch(self, block: Sequence[int]) -> tuple[slice, ...]:
        """Return the field points that lie in a block's window."""
        return tuple(self._patch_axis(axis, i) for axis, i in enumerate(block))

    def _patch_axis(self, axis: int, i: int) -> slice:
        b, n, step = (
            self.block_shape[axis],
            self.grid.shape[axis],
            self.field_step[axis],
        )
        first = max(i * b - self.overlap[axis], 0)
        stop = min((i + 1) * b + self.overlap[axis], n)
        # If the step does not divide the axis, one field point is past the last voxel.
        last = self.field_grid.shape[axis] if stop == n else (stop - 1) // step + 1
        return slice(-(-first // step), last)

    def neighbours(self, block: Sequence[int]) -> Iterator[tuple[int, ...]]:
        """Iterate over the block and its neighbours: their patches reach its core."""
        return itertools.product(
            *(
                range(max(i - 1, 0), min(i + 2, count))
                for i, count in zip(block, self.counts, strict=True)
            )
        )

    def weights(
        self, block: Sequence[int], points: Sequence[slice]
    ) -> NDArray[np.float32]:
        """Return a block's blending weight at field points, given per axis.

        Raised-cosine ramps across each overlap. The weights of all blocks are smooth
        and sum to one everywhere.
        """
        result: NDArray[Any] = np.ones((1,) * self.grid.ndim, np.float32)
        for axis, (i, part) in enumerate(zip(block, points, strict=True)):
            size, step = self.block_shape[axis], self.field_step[axis]
            weight = _weight_along(
                size,
                self.overlap[axis],
                range(part.start * step - i * size, part.stop * step - i * size, step),
                rises=i > 0,
                falls=i + 1 < self.counts[axis],
            )
            shape = [1] * self.grid.ndim
            shape[axis] = -1
            result = result * weight.reshape(shape)
        return result


@functools.lru_cache(4096)
def _weight_along(
    size: int, margin: int, voxels: range, *, rises: bool, falls: bool
) -> NDArray[np.float32]:
    """Return a block's weight along one axis, at voxels counted from its core's first.

    ``rises`` and ``falls`` state whether there are blocks before and after it.
    """

    def rise(border: float) -> NDArray[np.float64]:
        if margin == 0:
            return (voxel > border).astype(np.float64)
        place = np.clip((voxel - border) / margin, -1.0, 1.0)
        return 0.5 * (1.0 + np.sin(0.5 * np.pi * place))

    voxel = np.array(voxels)
    weight = np.ones(voxel.size)
    if rises:
        weight *= rise(-0.5)
    if falls:
        weight *= 1.0 - rise(size - 0.5)
    return weight.astype(np.float32)
