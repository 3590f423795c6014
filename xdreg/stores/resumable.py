"""Outputs that an interrupted process can continue, and that appear only when whole.

An unfinished store holds a journal. This folder has a description of the output, and an
empty file per written region, named by the region and the checksum of its voxels. An
empty file exists or not, and cannot be truncated. The checksum shows which regions lost
voxels in a power cut. Before it is finished, a store looks as `xdreg.stores.outputs`
says.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np

from xdreg.stores.locks import LOCK, Lock
from xdreg.stores.outputs import (
    MARK,
    Output,
    check_target,
    filesystem,
    list_names,
    partial_path,
    publish,
    remote_place,
    remove_store,
    restore_previous,
    writing,
)
from xdreg.stores.paths import as_address, is_remote

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from xdreg.stores.outputs import StorageOptions

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
    storage_options: StorageOptions = None,
) -> Iterator[tuple[Output, Journal]]:
    """Write a Zarr store that appears when the body succeeds, in one call or several.

    ``description`` is everything that determines the bits of the result. The rest of an
    earlier call is continued if its description was the same, otherwise removed.
    Writing the output's metadata again keeps voxels that are there.
    """
    address = as_address(path)
    if is_remote(address):
        store = _remote(address.rstrip("/"), description, overwrite, storage_options)
    else:
        store = _local(Path(address).absolute(), description, overwrite)
    kept = "what is done is kept, run the same again to continue"
    with writing(address, kept), store as both:
        yield both


@contextlib.contextmanager
def _local(
    target: Path, description: str, overwrite: bool
) -> Iterator[tuple[Output, Journal]]:
    partial = partial_path(target)
    restore_previous(target)
    check_target(target, overwrite=overwrite)
    folder = partial / MARK
    folder.mkdir(parents=True, exist_ok=True)
    with Lock(folder):
        journal = Journal(str(folder))
        if journal.description() != description:
            for entry in partial.iterdir():
                if entry != folder:
                    _remove(entry)
            for entry in folder.iterdir():
                if entry.name != LOCK:
                    entry.unlink()
            journal.begin(description)
        yield Output(partial), journal
    shutil.rmtree(folder)
    publish(partial, target)


def _remove(entry: Path) -> None:
    if entry.is_dir():
        shutil.rmtree(entry)
    else:
        entry.unlink()


@contextlib.contextmanager
def _remote(
    url: str, description: str, overwrite: bool, storage_options: StorageOptions
) -> Iterator[tuple[Output, Journal]]:
    files, place, names = remote_place(url, overwrite, storage_options)
    journal = Journal(f"{url}/{MARK}", storage_options)
    with tempfile.TemporaryDirectory(prefix="xdreg-") as scratch:
        output = Output(Path(scratch) / "store", url, storage_options)
        if journal.description() != description:
            remove_store(files, place, names)
            journal.begin(description)
        yield output, journal
        output.finish()
        files.rm(f"{place}/{MARK}", recursive=True)
