"""Pyramid arithmetic: which axes to halve, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dask.array
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xdreg.grid import Grid

#: A pyramid ends with the level whose longest axis has at most so many voxels.
SMALLEST = 64

#: An axis is halved while its spacing is below this multiple of the finest one.
ANISOTROPY = 1.5


def pyramid_factors(grid: Grid, smallest: int = SMALLEST) -> list[tuple[int, ...]]:
    """Return, level by level, by how much each axis is to be coarsened.

    An axis that is coarser than the others already waits until they have caught up.

    Parameters
    ----------
    grid
        The finest level.
    smallest
        Largest axis of the coarsest level.

    Examples
    --------
    >>> from xdreg.grid import Grid
    >>> dims, origin = ("z", "y", "x"), (0.0, 0.0, 0.0)
    >>> pyramid_factors(Grid(dims, (40, 256, 256), (4.0, 1.0, 1.0), origin))
    [(1, 2, 2), (1, 2, 2)]
    """
    factors = []
    while max(grid.shape) > smallest:
        finest = min(s for s, n in zip(grid.spacing, grid.shape, strict=True) if n > 1)
        step = tuple(
            2 if n > 1 and s < ANISOTROPY * finest else 1
            for s, n in zip(grid.spacing, grid.shape, strict=True)
        )
        factors.append(step)
        grid = grid.coarsen(step)
    return factors


def downsample(
    array: dask.array.Array, factors: Sequence[int], *, labels: bool = False
) -> dask.array.Array:
    """Coarsen the last axes of an array; a remainder at the end is dropped.

    Parameters
    ----------
    array : ([t], [c], [z], y, x)
        The finer level.
    factors
        Voxels per coarse voxel, for the last axes.
    labels
        Take one voxel of each group instead of the mean, which would invent labels.

    Returns
    -------
    dask.array.Array
        Means are computed in float and rounded back for integer dtypes; those of
        64-bit integers are good to 53 bits.
    """
    steps = (1,) * (array.ndim - len(factors)) + tuple(factors)
    trimmed = array[
        tuple(slice(0, n - n % k) for n, k in zip(array.shape, steps, strict=True))
    ]
    if labels:
        return trimmed[tuple(slice(None, None, k) for k in steps)]
    # Chunks must hold whole groups.
    chunks = tuple(
        max(size - size % k, k)
        for size, k in zip(trimmed.chunksize, steps, strict=True)
    )
    # float32 holds 16-bit integers exactly, and halves of them; float64 32-bit ones.
    exact = np.result_type(array.dtype, np.float32)
    means = dask.array.coarsen(
        np.mean, trimmed.rechunk(chunks), dict(enumerate(steps)), dtype=exact
    )
    if array.dtype.kind in "iub":
        means = dask.array.rint(means)
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        # The largest 64-bit integer is no float: the next one above it would wrap.
        limits = np.iinfo(array.dtype)
        means = means.clip(float(limits.min), np.nextafter(float(limits.max), 0.0))
    return means.astype(array.dtype)
