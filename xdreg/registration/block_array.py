"""Arrays in the work directory, and those with one file per block of a stage.

On disk each of the latter is an uncompressed Zarr array of one chunk per block, with
checksums, which any reader of Zarr opens. Here its chunks are read and written as plain
files: through Zarr each takes one to two milliseconds, for which a worker's threads
wait on each other, and blending reads 27 chunks for every block.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import operator
import os
import threading
from typing import TYPE_CHECKING, Any, cast

import google_crc32c
import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from xdreg.errors import StoreError
from xdreg.stores.files import read_end, read_file, replace_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray
    from zarr.storage import LocalStore


#: Bytes of the CRC-32C after a chunk, least significant first, as in Zarr's codec.
CHECKSUM_BYTES = 4

#: Name of the file that describes a Zarr array.
_METADATA = "zarr.json"

#: Bytes that `Remembering` keeps: enough for all neighbours of small blocks, for which
#: reading takes most of the time, and too few to raise a worker's peak memory.
_KEPT = 16_000_000


def open_array(
    path: Path,
    shape: Sequence[int],
    chunks: Sequence[int],
    fill: float,
    *,
    compress: bool = False,
) -> zarr.Array[Any]:
    """Open a float32 array of a run, creating it if it does not exist.

    Metadata that differ from those of such an array are damaged, and written again.
    Chunks are kept. Their names are flat (``0.1.2``), so that one listing shows which
    are done. They carry a checksum. They are not compressed by default: displacements
    hardly compress, and every patch is read up to 27 times.
    """
    like: dict[str, Any] = {}
    zarr.create_array(
        like,
        shape=tuple(shape),
        chunks=tuple(chunks),
        dtype="float32",
        fill_value=fill,
        compressors=[*([ZstdCodec()] if compress else []), Crc32cCodec()],
        chunk_key_encoding={"name": "v2", "separator": "."},
    )
    document = like[_METADATA].to_bytes()
    path.mkdir(parents=True, exist_ok=True)
    try:
        stored = read_file(path / _METADATA, len(document))
    except FileNotFoundError:
        stored = b""
    if stored != document:
        replace_file(path / _METADATA, document)
    array = zarr.open_array(path, mode="r+", zarr_format=3)
    # A chunk that is not stored counts as lost.
    return array.with_config({"write_empty_chunks": True})


def check_chunks(path: Path) -> None:
    """Raise if something other than a file is in the place of an array's chunk.

    Zarr would wait for a pipe.
    """
    for entry in os.scandir(path):
        if entry.name[0].isdigit() and not entry.is_file():
            msg = (
                f"{entry.path} is not a file, and a chunk of an array is expected; "
                "move it away, and run the same again"
            )
            raise StoreError(msg)


def intact(array: zarr.Array[Any], index: tuple[Any, ...]) -> NDArray[Any] | None:
    """Return whole chunks of an array; None if one is missing, cut off or altered."""
    try:
        values = np.asarray(array[index])
    except OSError:
        raise
    except Exception:  # Decoders raise errors of many kinds.
        return None
    fill = array.fill_value
    missing = np.isnan(values) if np.isnan(fill) else values == fill
    return None if missing.all() else values


def _checksum(values: bytes) -> bytes:
    number: int = google_crc32c.value(values)
    return number.to_bytes(CHECKSUM_BYTES, "little")


def checksum_halves(values: bytes | NDArray[np.float32]) -> tuple[float, float]:
    """Return the CRC-32C of some values as two numbers that float32 holds exactly."""
    content = values if isinstance(values, bytes) else values.tobytes()
    return _halves(_checksum(content))


def _halves(checksum: bytes) -> tuple[float, float]:
    number = int.from_bytes(checksum, "little")
    return float(number >> 16), float(number & 0xFFFF)


def is_whole(stored: bytes) -> bool:
    """Return whether the content of a chunk's file has the checksum at its end."""
    return _checksum(stored[:-CHECKSUM_BYTES]) == stored[-CHECKSUM_BYTES:]


def _store(file: Path, values: NDArray[np.float32]) -> None:
    """Write a chunk's file atomically."""
    stored = values.tobytes()
    replace_file(file, stored + _checksum(stored))


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
        self._counts = tuple(counts)
        self._bytes = 4 * math.prod(self.shape) + CHECKSUM_BYTES
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
            stored = read_file(self._file(index), self._bytes)
        except FileNotFoundError:
            return None
        if len(stored) != self._bytes or not is_whole(stored):
            return None
        return np.frombuffer(stored[:-CHECKSUM_BYTES], "<f4").reshape(self.shape)

    def mark(self, index: Sequence[int]) -> tuple[float, float] | None:
        """Return the stored `checksum_halves` of a block's array; None without any."""
        stored = read_end(self._file(index), CHECKSUM_BYTES)
        return None if stored is None else _halves(stored)

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
        zeros, counts = ".0" * len(self.shape), self._counts
        for name in os.listdir(self.path):  # noqa: PTH208
            # Other files may lie next to the chunks.
            with contextlib.suppress(ValueError):
                index = tuple(map(int, name.removesuffix(zeros).split(".")))
                if len(index) == len(counts) and all(map(operator.lt, index, counts)):
                    yield index


class Remembering(BlockArray):
    """A `BlockArray` that keeps the arrays that were read last.

    Adjacent blocks have most neighbours in common. Arrays must not change meanwhile;
    missing ones are read again.
    """

    def __init__(self, array: BlockArray) -> None:
        self._array = array
        self.path, self.shape, self.fill = array.path, array.shape, array.fill
        self._counts, self._bytes = array._counts, array._bytes
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
