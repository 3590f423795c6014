"""Levels of images that are read when a viewer asks for them.

A viewer asks for a plane or a chunk of one level. A reader computes that window alone,
where a Dask array would compute whole chunks. Like `ImageReader`, readers here have
``grid``, ``dtype`` and ``read(window)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from dask.array.slicing import normalize_index
from numpy.typing import NDArray

from xdreg.fields.reader import FieldReader
from xdreg.fields.warp import Interpolation, as_dtype, warp_window
from xdreg.grid import Grid
from xdreg.stores.readers import ImageReader


class Reader(Protocol):
    """Reads windows of one level of an image."""

    @property
    def grid(self) -> Grid:
        """Geometry of the level."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its values."""

    def read(self, window: Sequence[slice] | None = None) -> NDArray[Any]:
        """Read a window, with axes in dims order."""


class WarpedReader:
    """The moving image on a grid of the fixed image, resampled when it is read."""

    def __init__(
        self, moving: ImageReader, displacement: FieldReader, grid: Grid
    ) -> None:
        self._moving, self._displacement, self.grid = moving, displacement, grid
        self._how = Interpolation(1, None, 0)
        self.dtype = self._how.dtype_of(moving.dtype)

    def read(self, window: Sequence[slice] | None = None) -> NDArray[Any]:
        """Resample a window; 0 outside the moving image."""
        target = self.grid if window is None else self.grid.window(window)
        values = warp_window(self._moving, self._displacement, target, self._how)
        return as_dtype(values, self.dtype)


class MagnitudeReader:
    """The length of a displacement, at points of its field with a stride per axis."""

    dtype = np.dtype(np.float32)

    def __init__(self, displacement: FieldReader, strides: Sequence[int]) -> None:
        self._displacement, self._strides = displacement, tuple(strides)
        self.grid = displacement.grid.strided(strides)

    def read(self, window: Sequence[slice] | None = None) -> NDArray[np.float32]:
        """Read a window, in the units of the field."""
        if window is None:
            window = [slice(0, n) for n in self.grid.shape]
        # With its stride, so that no more than the result is held next to a chunk.
        parts = [
            slice(part.start * k, (part.stop - 1) * k + 1, k)
            for part, k in zip(window, self._strides, strict=True)
        ]
        values, _ = self._displacement.read(parts)
        return np.asarray(np.sqrt(np.square(values).sum(axis=0)), np.float32)


class WindowArray:
    """A reader as a lazy array: indexing makes a view, `numpy.asarray` reads it.

    Only what remains after all indexing is read, and nothing is cached. ``parts`` are
    the voxels per axis of the level; a number takes one plane and drops the axis.
    """

    def __init__(
        self, reader: Reader, parts: tuple[range | int, ...] | None = None
    ) -> None:
        self._reader = reader
        self._parts = parts or tuple(range(n) for n in reader.grid.shape)
        self.dtype = reader.dtype
        self.shape = tuple(len(p) for p in self._parts if isinstance(p, range))
        self.ndim, self.size = len(self.shape), math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> WindowArray:
        """Return the view that integers and slices select."""
        keys = iter(normalize_index(key, self.shape))  # type: ignore[no-untyped-call]
        parts = tuple(
            part[next(keys)] if isinstance(part, range) else part
            for part in self._parts
        )
        return WindowArray(self._reader, parts)

    def __array__(
        self, dtype: np.dtype[Any] | None = None, copy: bool | None = None
    ) -> NDArray[Any]:
        """Read it."""
        if 0 in self.shape:
            return np.empty(self.shape, dtype or self.dtype)
        ranges = [p if isinstance(p, range) else range(p, p + 1) for p in self._parts]
        window = [slice(min(r[0], r[-1]), max(r[0], r[-1]) + 1) for r in ranges]
        inside = tuple(
            slice(None, None, p.step) if isinstance(p, range) else 0
            for p in self._parts
        )
        return np.asarray(self._reader.read(window)[inside], dtype)
