"""Readers of windows and points of a displacement field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from dask.base import normalize_token
from numpy.typing import ArrayLike, NDArray

from xdreg.grid import Grid
from xdreg.numerics import kernels
from xdreg.stores.identity import key_of

#: Points per axis of the chunks of a field that is composed as it is read.
PIECE = 64


class FieldReader:
    """Reads parts of a displacement field, an array ``(ndim, *grid.shape)`` float32."""

    def __init__(self, source: Any, grid: Grid) -> None:
        self.source, self.grid = source, grid
        self._key: object = None

    def __dask_tokenize__(self) -> object:
        """Return a token of what the source is known by."""
        if self._key is None:
            self._key = key_of(self.source)
        return ("xdreg.FieldReader", normalize_token((self._key, self.grid)))

    def read_around(
        self, target: Grid, reach: Sequence[float] | None = None
    ) -> tuple[NDArray[np.float32], Grid]:
        """Read the part of the field needed to interpolate it over a grid.

        ``reach`` ``(ndim,)`` is a physical distance to add on every side. A field that
        is finer than the grid is read with a stride, so that the target bounds memory.
        Which points are read does not depend on the target's origin.
        """
        lower, upper = target.index_to_physical(
            [[0] * target.ndim, [n - 1 for n in target.shape]]
        )
        if reach is not None:
            lower, upper = lower - np.asarray(reach), upper + np.asarray(reach)
        window = self.window(lower, upper)
        sizes, strides = self.grid.shape, self.grid.strides_to(target)
        return self.read([_every(*v) for v in zip(window, sizes, strides, strict=True)])

    def window(self, lower: ArrayLike, upper: ArrayLike) -> tuple[slice, ...]:
        """Return the window of field points needed to interpolate within a box.

        The physical corners may be beyond the field's grid.
        """
        first = np.floor(self.grid.physical_to_index(lower))
        last = np.floor(self.grid.physical_to_index(upper)) + 2
        # Beyond its grid the field is continued from its last cell, which is kept.
        size = np.asarray(self.grid.shape)
        starts = np.clip(first, 0, np.maximum(size - 2, 0)).astype(int)
        stops = np.clip(last, np.minimum(starts + 2, size), size).astype(int)
        return tuple(slice(int(a), int(b)) for a, b in zip(starts, stops, strict=True))

    def read(self, window: Sequence[slice]) -> tuple[NDArray[np.float32], Grid]:
        """Return a window ``(ndim, ...)`` of the field, and its geometry."""
        values = np.asarray(self.source[(slice(None), *window)], np.float32)
        return values, self.grid.window(window)

    def read_points(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors ``(n, ndim)`` at grid indices ``(n, ndim)``."""
        components = np.arange(self.grid.ndim)[None]
        each = (components, *(axis[:, None] for axis in index.T))
        if isinstance(self.source, np.ndarray):
            return np.asarray(self.source[each], np.float32)
        if hasattr(self.source, "vindex"):  # Zarr reads each chunk once
            return np.asarray(self.source.vindex[each], np.float32)
        single = [[slice(i, i + 1) for i in row] for row in index.tolist()]
        return np.stack([self.read(window)[0].reshape(-1) for window in single])


class PrecededField:
    """A homogeneous matrix or a field followed by a field, composed as it is read.

    On the grid of the latter unless another is given.
    """

    def __init__(
        self,
        field: FieldReader,
        first: NDArray[np.float64] | FieldReader,
        grid: Grid | None = None,
    ) -> None:
        self._field, self._first = field, first
        self._grid = grid or field.grid
        self.shape = (self._grid.ndim, *self._grid.shape)
        self.ndim, self.dtype = len(self.shape), np.dtype(np.float32)
        self.chunks = tuple(min(PIECE, n) for n in self.shape)

    def __getitem__(self, index: Sequence[slice]) -> NDArray[np.float32]:
        """Return a window, of all or some components."""
        components, *window = index
        grid = self._grid.window(window)
        if isinstance(self._first, FieldReader):
            update, corners = self._first.read_around(grid)
        else:
            update, corners = kernels.affine_displacement(self._first, grid)
        reach = np.abs(update).reshape(grid.ndim, -1).max(axis=1)
        update = kernels.resample_displacement(update, corners, grid)
        before = self._field.read_around(grid, reach)
        return np.asarray(
            kernels.compose_displacements(update, grid, *before)[components]
        )

    def __dask_tokenize__(self) -> object:
        """Return a token of both and the grid."""
        parts = self._field, self._first, self._grid
        return ("xdreg.PrecededField", normalize_token(parts))


def _every(window: slice, size: int, stride: int) -> slice:
    """Return a slice of at least two multiples of a stride around a window."""
    stride = min(stride, max(size - 1, 1))
    if stride == 1:
        return window
    most = (size - 1) // stride
    first = min(window.start // stride, most - 1)
    last = min(max(-(-(window.stop - 1) // stride), first + 1), most)
    return slice(first * stride, last * stride + 1, stride)
