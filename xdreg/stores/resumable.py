"""Outputs that an interrupted process can continue, and that appear only when whole.

An unfinished store holds a journal. This folder has a description of the output, and an
empty file per written region, named by the region and the checksum of its voxels. An
empty file exists or not, and cannot be truncated. The checksum shows which regions lost
voxels in a power cut. Before it is finished, a store looks as `xdreg.stores.outputs`
says.
"""

from __future__ import annotations

import contextlib
import os
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np

from xdreg.stores.locks import LOCK, scratch
from xdreg.stores.outputs import (
    MARK,
    Output,
    list_names,
    local_output,
    remote_place,
    remove_store,
    writing,
)
from xdreg.stores.paths import as_address, filesystem, is_remote
from xdreg.stores.unfinished import discard

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from xdreg.stores.paths import StorageOptions

_DESCRIPTION = "description"


def checksum(values: NDArray[Any]) -> int:
    """Return the CRC-32C of an array's voxels."""
    number: int = google_crc32c.value(np.ascontiguousarray(values).tobytes())
    return number


class Journal:
    """Record of the written regions of a store, in a folder at a local path or a URL.

    It pickles, so that workers can add to it.
    """

    def __init__(self, address: str, storage_options: StorageOptions = None) -> None:
        self._address, self._options = address, storage_options

    def __dask_tokenize__(self) -> object:
        return ("xdreg.Journal", self._address)

    def description(self) -> str | None:
        """Return the description of the output, None if there is no journal."""
        files, place = self._open()
        with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
            return str(files.cat_file(f"{place}/{_DESCRIPTION}").decode())
        return None

    def begin(self, description: str) -> None:
        """Write the description of the output."""
        self._write(_DESCRIPTION, description.encode())

    def add(self, region: str, number: int) -> None:
        """Mark a region as written, with the checksum of its voxels."""
        self._write(f"{region}-{number:08x}", b"")

    def entries(self) -> dict[str, int]:
        """Return the checksum of every written region."""
        parts = [name.rpartition("-") for name in list_names(*self._open())]
        return {region: int(number, 16) for region, dash, number in parts if dash}

    def _open(self) -> tuple[Any, str]:
        return filesystem(self._address, self._options)

    def _write(self, name: str, content: bytes) -> None:
        files, place = self._open()
        files.pipe_file(f"{place}/{name}", content)


@contextlib.contextmanager
def resumable_store(
    path: str | os.PathLike[str],
    description: str,
    *,
    overwrite: bool,
    fresh: bool = False,
    storage_options: StorageOptions = None,
) -> Iterator[tuple[Output, Journal]]:
    """Write a Zarr store that appears when the body succeeds, in one call or several.

    ``description`` is everything that determines the bits of the result. The rest of an
    earlier call is continued if its description was the same, otherwise or with
    ``fresh`` removed. Writing the output's metadata again keeps voxels that are there.
    """
    address = as_address(path)
    if is_remote(address):
        place = address.rstrip("/")
        store = _remote(place, description, overwrite, fresh, storage_options)
    else:
        store = _local(address, description, overwrite, fresh)
    kept = "what is done is kept, run the same again to continue"
    with writing(address, kept), store as both:
        yield both


@contextlib.contextmanager
def _local(
    address: str, description: str, overwrite: bool, fresh: bool
) -> Iterator[tuple[Output, Journal]]:
    # Named by the description, so that what still writes another output cannot.
    name = sha256(description.encode()).hexdigest()[:16]
    with local_output(address, overwrite=overwrite, keep=True) as (part, finish):
        made, folder = part / name, part / f"journal-{name}"
        for entry in [*part.iterdir()]:
            if entry.name not in (made.name, folder.name, LOCK):
                discard(entry, part)
        folder.mkdir(exist_ok=True)
        journal = Journal(str(folder))
        if fresh or journal.description() != description:
            discard(made, part)
            discard(folder, part)
            folder.mkdir()
            journal.begin(description)
        yield Output(made), journal
        finish(made)


@contextlib.contextmanager
def _remote(
    url: str,
    description: str,
    overwrite: bool,
    fresh: bool,
    storage_options: StorageOptions,
) -> Iterator[tuple[Output, Journal]]:
    files, place = remote_place(url, overwrite, storage_options)
    journal = Journal(f"{url}/{MARK}", storage_options)
    with scratch() as folder:
        output = Output(folder / "store", url, storage_options)
        if fresh or journal.description() != description:
            remove_store(files, place)
            journal.begin(description)
        yield output, journal
        output.finish()
        files.rm(f"{place}/{MARK}", recursive=True)
