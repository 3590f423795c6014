"""Numbers that every block of a stage leaves, a file for each.

Part of a run's work directory. On disk it is an uncompressed Zarr array of one chunk
per block, with checksums, which any reader of Zarr opens; here its chunks are read and
written as plain files. Through Zarr each costs a millisecond or two, for which a
worker's threads queue up, and blending reads 27 for every block.
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


#: Bytes of CRC-32C behind a chunk, least significant first, as in Zarr's codec.
_CHECKSUM = 4

#: Bytes that `Remembering` keeps: all neighbours of small blocks, for which reading is
#: most of the work; too few to show in a worker's peak.
_KEPT = 16_000_000


def _checksum(values: bytes) -> bytes:
    number: int = google_crc32c.value(values)
    return number.to_bytes(_CHECKSUM, "little")


def _store(file: Path, values: NDArray[np.float32]) -> None:
    """Write a chunk's file, which appears whole or not at all."""
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
    """Write a window of whole chunks to an array of `open_array`, in their files.

    Parameters
    ----------
    array
        A float32 array in a directory, not compressed.
    window
        Begins at a chunk's border on every axis, and ends at one or with the array.
    values
        Of the window's shape.
    """
    folder = cast("LocalStore", array.store).root / array.path
    sizes = array.chunks
    ranges = (
        range(part.start, part.stop, size)
        for part, size in zip(window, sizes, strict=True)
    )
    for corner in itertools.product(*ranges):
        chunk = np.full(sizes, array.fill_value, "<f4")
        part = values[
            tuple(
                slice(first - w.start, first - w.start + size)
                for first, w, size in zip(corner, window, sizes, strict=True)
            )
        ]
        chunk[tuple(slice(n) for n in part.shape)] = part
        place = (first // size for first, size in zip(corner, sizes, strict=True))
        _store(folder / ".".join(map(str, place)), chunk)


class BlockArray:
    """A float32 array for each block, in a directory.

    Parameters
    ----------
    path
        The directory, made where it does not exist.
    counts
        Number of blocks per axis.
    shape
        Of what each block stores.
    fill
        What is read of a block that stored nothing, or whose file is damaged.
    """

    def __init__(
        self, path: Path, counts: Sequence[int], shape: Sequence[int], fill: float
    ) -> None:
        self.path, self.shape, self.fill = path, tuple(shape), fill
        ones = (1,) * len(counts)
        open_array(path, (*counts, *shape), (*ones, *shape), fill)

    def __dask_tokenize__(self) -> object:
        """Identify by place."""
        return ("xdreg.BlockArray", str(self.path))

    def _file(self, index: Sequence[int]) -> Path:
        name = ".".join(str(i) for i in (*index, *(0 for _ in self.shape)))
        return self.path / name

    def read(self, index: Sequence[int]) -> NDArray[np.float32] | None:
        """Return what a block stored, ``shape``.

        None where it stored nothing, or where its file is cut off or altered.
        """
        try:
            stored = self._file(index).read_bytes()
        except FileNotFoundError:
            return None
        values, check = stored[:-_CHECKSUM], stored[-_CHECKSUM:]
        whole = len(values) == 4 * math.prod(self.shape)
        if not whole or _checksum(values) != check:
            return None
        return np.frombuffer(values, "<f4").reshape(self.shape)

    def __getitem__(self, index: Sequence[int]) -> NDArray[np.float32]:
        """Return the same, or the fill value all over."""
        values = self.read(index)
        return np.full(self.shape, self.fill, np.float32) if values is None else values

    def __setitem__(self, index: Sequence[int], values: ArrayLike) -> None:
        """Store a block's numbers; the file appears whole or not at all."""
        whole = np.broadcast_to(np.asarray(values, "<f4"), self.shape)
        _store(self._file(index), whole)

    def forget(self, index: Sequence[int]) -> None:
        """Remove what a block stored."""
        self._file(index).unlink(missing_ok=True)

    def done(self) -> Iterator[tuple[int, ...]]:
        """Iterate over the blocks that have stored something, in no order."""
        for name in os.listdir(self.path):  # noqa: PTH208
            if name[0].isdigit():
                index = tuple(int(part) for part in name.split("."))
                yield index[: len(index) - len(self.shape)]


class Remembering(BlockArray):
    """The same array, which keeps what was read last.

    Blocks that lie together have most neighbours in common. Nobody may store another
    result meanwhile; what was missing is read again.
    """

    def __init__(self, array: BlockArray) -> None:
        self._array = array
        self.path, self.shape, self.fill = array.path, array.shape, array.fill
        self._most = max(_KEPT // (4 * math.prod(self.shape)), 1)
        self._kept: dict[tuple[int, ...], NDArray[np.float32]] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without what was read."""
        return Remembering, (self._array,)

    def read(self, index: Sequence[int]) -> NDArray[np.float32] | None:
        """Return what a block stored, as `BlockArray.read`."""
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
