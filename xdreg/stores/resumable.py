"""Outputs whose making goes on where it was ended, and that appear whole all the same.

An unfinished store holds a journal, a folder: a description of what is being made, and
for every region that is written a file without content, whose name tells the region and
the checksum of its voxels. Such a file is there or it is not; nothing of it can be cut
off. What lost its voxels to a power cut shows by the checksum.

Locally the store lies beside its place until it is finished; at a URL in its place,
without the documents by which a store is known. See `xdreg.stores.outputs`.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np

from xdreg.errors import StoreError
from xdreg.stores.locks import LOCK, Lock
from xdreg.stores.outputs import (
    MARK,
    Output,
    bring_back,
    check_target,
    filesystem,
    listed,
    partial_of,
    put_in_place,
    remote_place,
    remove_store,
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
    """Which regions of a store are written; it pickles, for workers to write to it.

    Parameters
    ----------
    address, storage_options
        Its folder: a local path or a URL.
    """

    def __init__(self, address: str, storage_options: StorageOptions = None) -> None:
        self._address, self._options = address, dict(storage_options or {})

    def __dask_tokenize__(self) -> object:
        """Identify by place."""
        return ("xdreg.Journal", self._address)

    def description(self) -> str | None:
        """Return what is being made here, None where nothing is."""
        files, place = filesystem(self._address, self._options)
        with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
            return str(files.cat_file(f"{place}/{_DESCRIPTION}").decode())
        return None

    def begin(self, description: str) -> None:
        """Say what is being made here."""
        files, place = filesystem(self._address, self._options)
        files.pipe_file(f"{place}/{_DESCRIPTION}", description.encode())

    def add(self, region: str, number: int) -> None:
        """Note that a region is written, and the checksum of its voxels."""
        files, place = filesystem(self._address, self._options)
        files.pipe_file(f"{place}/{region}-{number:08x}", b"")

    def entries(self) -> dict[str, int]:
        """Return the checksum of every region that is written."""
        files, place = filesystem(self._address, self._options)
        found = {}
        for entry in listed(files, place):
            region, dash, number = entry.rpartition("/")[2].rpartition("-")
            if dash:
                found[region] = int(number, 16)
        return found


@contextlib.contextmanager
def resumable_store(
    path: str | os.PathLike[str],
    description: str,
    *,
    overwrite: bool,
    storage_options: StorageOptions = None,
) -> Iterator[tuple[Output, Journal]]:
    """Write a Zarr store that appears when the body ends well, in one go or several.

    Parameters
    ----------
    path
        Local directory or URL.
    description
        All that decides about the bits of the result. What an earlier call left is
        gone on with if it had the same, and else removed.
    overwrite
        Replace a store that is there.
    storage_options
        For a URL, passed to fsspec.

    Yields
    ------
    output : Output
        Metadata may be laid out in it again; voxels that are there are kept.
    journal : Journal
        What is done, and to be told what is.

    Raises
    ------
    StoreError
        If something is there and ``overwrite`` is false, or it cannot be written.
    InputError
        If another process is at it.
    """
    address = as_address(path)
    with writing(address, "what is done is kept, the same call goes on from there"):
        if is_remote(address):
            with _remote(
                address.rstrip("/"), description, overwrite, storage_options
            ) as both:
                yield both
        else:
            with _local(Path(address).absolute(), description, overwrite) as both:
                yield both


@contextlib.contextmanager
def _local(
    target: Path, description: str, overwrite: bool
) -> Iterator[tuple[Output, Journal]]:
    partial = partial_of(target)
    bring_back(target)
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
    put_in_place(partial, target)


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
        try:
            if journal.description() != description:
                remove_store(files, place, names)
                journal.begin(description)
            yield output, journal
            output.finish()
            files.rm(f"{place}/{MARK}", recursive=True)
        except NotImplementedError as error:
            msg = f"{url} cannot be written: its protocol is for reading only"
            raise StoreError(msg) from error
