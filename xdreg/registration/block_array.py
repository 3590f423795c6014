"""Arrays in the work directory with one file per block of a stage.

On disk each is an uncompressed Zarr array of one chunk per block, with checksums, which
any reader of Zarr opens. Here its chunks are read and written as plain files: through
Zarr each takes one to two milliseconds, for which a worker's threads wait on each
other, and blending reads 27 chunks for every block.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
from typing import TYPE_CHECKING, Any, cast

import google_crc32c
import numpy as np

from xdreg.registration.workdir import open_array

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import zarr
    from numpy.typing import ArrayLike, NDArray
    from zarr.storage import LocalStore


#: Bytes of the CRC-32C after a chunk, least significant first, as in Zarr's codec.
CHECKSUM_BYTES = 4

#: Bytes that `Remembering` keeps: enough for all neighbours of small blocks, for which
#: reading takes most of the time, and too few to raise a worker's peak memory.
_KEPT = 16_000_000


def _checksum(values: bytes) -> bytes:
    number: int = google_crc32c.value(values)
    return number.to_bytes(CHECKSUM_BYTES, "little")


def _store(file: Path, values: NDArray[np.float32]) -> None:
    """Write a chunk's file atomically."""
    stored = values.tobytes()
    partial = file.parent / f".{file.name}.{os.getpid()}.{threading.get_ident()}"
    try:
        partial.write_bytes(stored + _checksum(stored))
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def store_window(
    array: zarr.Array[Any], window: Sequence[slice], values: NDArray[np.float32]
) -> None:
    """Write a window of whole chunks to an array made by `open_array`.

    Parameters
    ----------
    window
        Slices that start at the border of a chunk, and end at one or with the array.
    """
    folder = cast("LocalStore", array.store).root / array.path
    axes = list(zip(window, array.chunks, strict=True))
    ranges = (range(0, part.stop - part.start, size) for part, size in axes)
    for corner in itertools.product(*ranges):
        starts = list(zip(corner, axes, strict=True))
        part = values[tuple(slice(i, i + size) for i, (_, size) in starts)]
        chunk = np.full(array.chunks, array.fill_value, "<f4")
        chunk[tuple(slice(n) for n in part.shape)] = part
        name = ".".join(str((w.start + i) // size) for i, (w, size) in starts)
        _store(folder / name, chunk)


class BlockArray:
    """A float32 array for each block, in a directory.

    Parameters
    ----------
    path
        The directory, created if it does not exist.
    counts
        Number of blocks per axis.
    shape
        Shape of each block's array.
    fill
        Value that is read for a block without a file or with a damaged one.
    """

    def __init__(
        self, path: Path, counts: Sequence[int], shape: Sequence[int], fill: float
    ) -> None:
        self.path, self.shape, self.fill = path, tuple(shape), fill
        ones = (1,) * len(counts)
        open_array(path, (*counts, *shape), (*ones, *shape), fill)

    def __dask_tokenize__(self) -> object:
        """Return a token of the path."""
        return ("xdreg.BlockArray", str(self.path))

    def _file(self, index: Sequence[int]) -> Path:
        name = ".".join(str(i) for i in (*index, *(0 for _ in self.shape)))
        return self.path / name

    def read(self, index: Sequence[int]) -> NDArray[np.float32] | None:
        """Return a block's array; None if it is missing, cut off or altered."""
        try:
            stored = self._file(index).read_bytes()
        except FileNotFoundError:
            return None
        values, check = stored[:-CHECKSUM_BYTES], stored[-CHECKSUM_BYTES:]
        whole = len(values) == 4 * math.prod(self.shape)
        if not whole or _checksum(values) != check:
            return None
        return np.frombuffer(values, "<f4").reshape(self.shape)

    def __getitem__(self, index: Sequence[int]) -> NDArray[np.float32]:
        """Return a block's array, filled with the fill value where there is none."""
        values = self.read(index)
        return np.full(self.shape, self.fill, np.float32) if values is None else values

    def __setitem__(self, index: Sequence[int], values: ArrayLike) -> None:
        """Store a block's array atomically."""
        whole = np.broadcast_to(np.asarray(values, "<f4"), self.shape)
        _store(self._file(index), whole)

    def forget(self, index: Sequence[int]) -> None:
        """Remove a block's array."""
        self._file(index).unlink(missing_ok=True)

    def done(self) -> Iterator[tuple[int, ...]]:
        """Iterate over the blocks that have a file, in any order."""
        for name in os.listdir(self.path):  # noqa: PTH208
            if name[0].isdigit():
                index = tuple(int(part) for part in name.split("."))
                yield index[: len(index) - len(self.shape)]


class Remembering(BlockArray):
    """A `BlockArray` that keeps the arrays that were read last.

    Adjacent blocks have most neighbours in common. Arrays must not change meanwhile;
    missing ones are read again.
    """

    def __init__(self, array: BlockArray) -> None:
        self._array = array
        self.path, self.shape, self.fill = array.path, array.shape, array.fill
        self._most = max(_KEPT // (4 * math.prod(self.shape)), 1)
        self._kept: dict[tuple[int, ...], NDArray[np.float32]] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the arrays that were read."""
        return Remembering, (self._array,)

    def read(self, index: Sequence[int]) -> NDArray[np.float32] | None:
        """Return a block's array; None if it is missing, cut off or altered."""
        index = tuple(index)
        with self._lock:
            if index in self._kept:
                return self._kept[index]
        values = super().read(index)
        if values is not None:
            with self._lock:
                if len(self._kept) >= self._most:
                    del self._kept[next(iter(self._kept))]
                self._kept[index] = values
        return values
