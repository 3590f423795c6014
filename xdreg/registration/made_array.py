"""Arrays that a run makes of its images: pyramid levels, and masks that were found.

Every chunk is made by itself. A record next to the array, written last, holds the size
and checksum of each. A run that is resumed compares them, and makes again what is lost
or damaged, to the same bits.
"""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask
import numpy as np

from xdreg.errors import UnreadableError, warn
from xdreg.registration.block_array import (
    CHECKSUM_BYTES,
    check_chunks,
    is_whole,
    open_array,
)
from xdreg.registration.workdir import DAMAGED, read_json, write_json
from xdreg.stores.files import read_file, replace_file
from xdreg.stores.graphs import shared
from xdreg.stores.identity import damaged_chunk
from xdreg.stores.posix import sync_disks
from xdreg.stores.readers import check_lost

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from xdreg.stores.readers import ImageReader, Lost

    #: Size and checksum of a chunk's file, by its name. None where a part of the image
    #: could not be read: it is made again by the next call.
    Record = dict[str, str | None]

#: Most tasks that make or check chunks.
_MOST_TASKS = 1_000


@dataclass(frozen=True)
class Maker:
    """Makes the chunks of an array of an image."""

    image: ImageReader

    @property
    def whole(self) -> bool:
        """Whether all voxels were readable that the image itself was made of."""
        return getattr(self.image.source, "whole", True)

    def __call__(
        self, window: tuple[slice, ...], lost: list[Lost]
    ) -> NDArray[np.float32]:
        """Return a window; add parts of the image that cannot be read to ``lost``."""
        raise NotImplementedError


class MadeArray:
    """A float32 array in the work directory whose chunks are all there.

    Parameters
    ----------
    path
        The directory of the array.
    shape, chunks
        Of the array.
    what
        Its name in a warning.
    make
        Makes a chunk.
    at_once
        Most chunks at once, None for all that the scheduler makes.

    Raises
    ------
    UnreadableError
        If too much of the image cannot be read.
    StoreError
        If something other than a file is in the place of a chunk.
    """

    def __init__(
        self,
        path: Path,
        shape: Sequence[int],
        chunks: Sequence[int],
        what: str,
        make: Maker,
        at_once: int | None = None,
    ) -> None:
        self._at_once = at_once
        self.path, self.shape, self.chunks = path, tuple(shape), tuple(chunks)
        self.dtype = np.dtype(np.float32)
        self._array = open_array(path, shape, chunks, np.nan, compress=True)
        check_chunks(path)
        self.whole = self._complete(make, what)

    def __dask_tokenize__(self) -> object:
        """Identify by the path: a work directory holds one run."""
        return ("xdreg.MadeArray", str(self.path))

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[np.float32]:
        """Return a window.

        Zarr returns the fill value for a chunk that was lost since the run began.
        """
        axes = zip(index, self.chunks, strict=True)
        places = (range(p.start // n, (p.stop - 1) // n + 1) for p, n in axes)
        for place in itertools.product(*places):
            file = self.path / ".".join(map(str, place))
            if not file.is_file():
                msg = f"{file} is lost; run the same again, which makes it again"
                raise UnreadableError(msg)
        return np.asarray(self._array[index])

    def _complete(self, make: Maker, what: str) -> bool:
        """Make what is missing; return whether all parts of the image were readable."""
        file = self.path.with_suffix(".json")
        stored = read_json(file) or {}
        names = list(self._names())
        # Of another array, it would not name the same chunks.
        record: Record = stored if list(stored) == names else dict.fromkeys(names)
        todo = [name for name in names if record[name] is None]
        known = [name for name in names if record[name] is not None]
        for damaged in self._in_tasks(_damaged, (self, record), known, "check"):
            todo += damaged
        if not todo:
            return make.whole
        lost: list[Lost] = []
        for marks, parts in self._in_tasks(_make, (self, make), todo, "make"):
            record |= marks
            lost += parts
        self._note_damaged({part.chunk for part in lost if part.chunk})
        check_lost(lost, make.image.grid.size)
        sync_disks()
        whole = make.whole and not lost
        if lost:
            warn(
                f"parts of {what} cannot be read and are masked out; the next call in "
                f"this work directory tries them again. The first: {lost[0].reason}"
            )
        write_json(file, record if make.whole else dict.fromkeys(names))
        return whole

    def _note_damaged(self, chunks: set[str]) -> None:
        """Note chunks of the image, so that they may be put right: see `DAMAGED`."""
        for number, chunk in enumerate(sorted(chunks)):
            file = self.path.with_suffix(f".{number}{DAMAGED}")
            replace_file(file, json.dumps(damaged_chunk(chunk)).encode())

    def _names(self) -> list[str]:
        """Return the names of all chunks."""
        axes = zip(self.shape, self.chunks, strict=True)
        places = itertools.product(*(range(-(-n // size)) for n, size in axes))
        return [".".join(map(str, place)) for place in places]

    def _in_tasks(self, function: Any, common: Any, names: list[str], step: str) -> Any:
        """Return what a function of a value and some names returns for all of them."""
        if not names:
            return ()
        count = -(-len(names) // _MOST_TASKS)
        parts = [names[i : i + count] for i in range(0, len(names), count)]
        node = shared(common, step)
        task = dask.delayed(function, pure=False)
        tasks = [task(node, part) for part in parts]
        return dask.compute(*tasks, num_workers=self._at_once)

    def store(self, name: str, make: Maker, lost: list[Lost]) -> str | None:
        """Make and store a chunk; return its mark, None if some of it is lost."""
        axes = zip(map(int, name.split(".")), self.chunks, self.shape, strict=True)
        window = tuple(slice(i * n, min((i + 1) * n, size)) for i, n, size in axes)
        before = len(lost)
        self._array[window] = make(window, lost)
        return self.mark(name) if len(lost) == before else None

    def mark(self, name: str) -> str | None:
        """Return size and checksum of a chunk's file; None if it is lost or damaged."""
        # Compressed, a chunk may be a little larger than its values.
        most = 8 * math.prod(self.chunks) + 1024
        try:
            stored = read_file(self.path / name, most)
        except FileNotFoundError:
            return None
        if not is_whole(stored):
            return None
        return f"{len(stored)}-{stored[-CHECKSUM_BYTES:].hex()}"


def _damaged(common: tuple[MadeArray, Record], names: list[str]) -> list[str]:
    """Return which chunks are lost, or are not what was recorded."""
    array, record = common
    return [name for name in names if array.mark(name) != record[name]]


def _make(
    common: tuple[MadeArray, Maker], names: list[str]
) -> tuple[Record, list[Lost]]:
    """Make chunks; return what to record of them, and what could not be read."""
    array, make = common
    lost: list[Lost] = []
    return {name: array.store(name, make, lost) for name in names}, lost
