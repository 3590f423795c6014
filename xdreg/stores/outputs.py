"""Outputs that appear whole or not at all, and overwrite nothing unless asked to.

A local output is made in a folder next to it (`xdreg.stores.unfinished`) and renamed
once it is finished. At a URL, where nothing can be renamed, the documents that make it
a store are written last. An unfinished output is removed, or if its process was killed,
by the next process. What is overwritten is one image or field, and nothing else
(`xdreg.stores.ownership`). A link to an output stays, and what it leads to is replaced.
"""

from __future__ import annotations

import contextlib
import glob
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zarr

from xdreg.errors import StoreError, XdregError
from xdreg.stores.locks import scratch
from xdreg.stores.ownership import (
    ORPHANS,
    UNFINISHED,
    Owned,
    first_foreign,
    owned,
)
from xdreg.stores.paths import as_address, filesystem, is_remote, local_path
from xdreg.stores.retrying import is_store_error
from xdreg.stores.unfinished import (
    UnfinishedStore,
    claimed,
    foreign_in,
    previous_path,
    publish,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from xdreg.stores.paths import StorageOptions

#: Documents that make a directory a Zarr store, in the order in which to write them.
_ROOT = (".zattrs", ".zmetadata", ".zarray", ".zgroup", "zarr.json")

#: Marks a store at a URL as unfinished.
MARK = ".xdreg-unfinished"


class Output:
    """A store while it is written, locally or at a URL.

    Metadata and small arrays are written to ``folder``, a local directory.
    """

    def __init__(
        self,
        folder: Path,
        url: str | None = None,
        storage_options: StorageOptions = None,
    ) -> None:
        self.folder, self._url = folder, url
        self._options = dict(storage_options or {})
        self._sent: set[Path] = set()

    def array(self, path: str) -> zarr.Array[Any]:
        """Return an array that exists in ``folder``, to write its voxels."""
        if self._url is None:
            return zarr.open_array(UnfinishedStore(self.folder), path=path, mode="r+")
        self._send(root=False)
        place = f"{self._url}/{path}"
        options = self._options or None  # some stores refuse an empty dict
        return zarr.open_array(place, mode="r+", storage_options=options)

    def finish(self) -> None:
        """Upload the remaining documents, those of the root last."""
        if self._url is not None:
            self._send(root=False)
            self._send(root=True)

    def _send(self, *, root: bool) -> None:
        files, place = filesystem(str(self._url), self._options)
        chosen = [
            path
            for path in self.folder.rglob("*")
            if path.is_file()
            and (path.parent == self.folder) == root
            and path not in self._sent
        ]
        self._sent.update(chosen)
        names = {name: number for number, name in enumerate(_ROOT)}
        for path in sorted(chosen, key=lambda path: names.get(path.name, -1)):
            name = path.relative_to(self.folder).as_posix()
            files.pipe_file(f"{place}/{name}", path.read_bytes())


@contextlib.contextmanager
def new_store(
    path: str | os.PathLike[str],
    *,
    overwrite: bool,
    storage_options: StorageOptions = None,
) -> Iterator[Output]:
    """Write a Zarr store that appears when the body succeeds."""
    address = as_address(path)
    if is_remote(address):
        store = _remote(address.rstrip("/"), overwrite, storage_options)
    else:
        store = _local(address, overwrite)
    with writing(address), store as output:
        yield output


@contextlib.contextmanager
def writing(
    place: object, rest: str = "nothing half-written was left"
) -> Iterator[None]:
    """Raise errors of disks and servers as `StoreError`; ``rest`` ends the remedy."""
    try:
        yield
    except XdregError:
        raise
    except Exception as error:
        if isinstance(error, NotImplementedError) and is_remote(str(place)):
            msg = f"{place} cannot be written: its protocol is for reading only"
            raise StoreError(msg) from error
        if not is_store_error(error):
            raise
        msg = (
            f"{place} cannot be written: {error}. See that there is room and that it "
            f"may be written to, then try again; {rest}"
        )
        raise StoreError(msg) from error


@contextlib.contextmanager
def _local(address: str, overwrite: bool) -> Iterator[Output]:
    with local_output(address, overwrite=overwrite) as (part, finish):
        made = part / uuid.uuid4().hex[:16]
        yield Output(made)
        finish(made)


@contextlib.contextmanager
def local_output(
    address: str, *, overwrite: bool, keep: bool = False
) -> Iterator[tuple[Path, Callable[[Path], None]]]:
    """Claim a local output; yield the folder to make it in, and what publishes it."""
    target = local_target(address)
    if os.path.lexists(previous_path(target)):
        with claimed(target):  # restores what was to be replaced
            pass
    check_target(address, overwrite=overwrite)

    def finish(made: Path) -> None:
        # Again: it may have changed in the meantime.
        check_target(address, overwrite=overwrite)
        publish(made, target, part)

    with claimed(target, keep=keep) as part:
        yield part, finish


@contextlib.contextmanager
def _remote(
    url: str, overwrite: bool, storage_options: StorageOptions
) -> Iterator[Output]:
    files, place = remote_place(url, overwrite, storage_options)
    with scratch() as folder:
        output = Output(folder / "store", url, storage_options)
        try:
            remove_store(files, place)
            files.pipe_file(f"{place}/{MARK}", b"")
            yield output
            output.finish()
            files.rm_file(f"{place}/{MARK}")
        except BaseException:
            with contextlib.suppress(Exception):
                remove_store(files, place, UNFINISHED)
            raise


def remote_place(
    url: str, overwrite: bool, storage_options: StorageOptions
) -> tuple[Any, str]:
    """Return the file system of a URL and the path in it; raise if it is in use."""
    try:
        files, place = filesystem(url, storage_options)
        names = set(list_names(files, place))
    except (ImportError, ValueError) as error:
        msg = f"{url} cannot be written: {error}; pip install 'xdreg[remote]'"
        raise StoreError(msg) from error
    if not names:
        return files, place
    found = _remote_names(files, place)
    # Marked ones are leftovers of a killed process.
    left = MARK in names or first_foreign(found, ORPHANS) is None
    if not left and not overwrite:
        raise _exists(url)
    foreign = first_foreign(found, _remote_own(files, place, found))
    if foreign is not None:
        raise _no_store(url, foreign)
    return files, place


def _remote_names(files: Any, place: str) -> list[str]:
    """Return the paths of all files below a place."""
    below = len(place.strip("/")) + 1
    files.invalidate_cache()
    found = sorted(str(name).strip("/")[below:] for name in files.find(place))
    return [name for name in found if name]


def _remote_own(files: Any, place: str, names: Sequence[str]) -> Owned | None:
    left = any(name.partition("/")[0] == MARK for name in names)
    if left or first_foreign(names, ORPHANS) is None:
        return UNFINISHED

    def read(name: str) -> bytes | None:
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            return bytes(files.cat_file(f"{place}/{name}"))
        return None

    return owned(read)


def remove_store(files: Any, place: str, own: Owned | None = None) -> None:
    """Remove the files of a store, first the documents that make it one.

    ``own`` are its files; by default what its documents say.
    """
    names = _remote_names(files, place)
    if not names:
        return
    own = own or _remote_own(files, place, names)
    mine = [name for name in names if first_foreign([name], own) is None]
    for name in _ROOT[::-1]:
        if name in mine:
            files.rm_file(f"{place}/{name}")
    if len(mine) == len(names) and not glob.has_magic(place):
        with contextlib.suppress(FileNotFoundError):
            files.rm(place, recursive=True)
    else:
        for name in mine:
            with contextlib.suppress(FileNotFoundError):
                files.rm_file(f"{place}/{name}")
    files.invalidate_cache()


def list_names(files: Any, place: str) -> list[str]:
    """Return the names in a folder, none if it does not exist."""
    files.invalidate_cache()
    try:
        return [
            str(entry).rpartition("/")[2] for entry in files.ls(place, detail=False)
        ]
    except FileNotFoundError:
        return []


def check_target(target: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Raise if a local output exists, or its folder cannot be made.

    Only an image or field and its own files, or an empty folder, is ever overwritten.
    """
    address = as_address(target)
    place = local_target(address)
    if str(place).encode(errors="replace").decode() != str(place):
        msg = (
            f"{address} cannot be written: the writer of OME-Zarr takes no path that "
            "is not UTF-8; rename the folder, or write elsewhere"
        )
        raise StoreError(msg)
    exists = place.exists() or previous_path(place).exists()
    if exists and not overwrite:
        raise _exists(address)
    if place.exists():
        foreign = foreign_in(place) if place.is_dir() else ""
        if foreign is not None:
            raise _no_store(address, foreign)
    else:
        _check_parents(place)


def check_file(target: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Raise if a file exists, is not a file, or its folder cannot be made."""
    address = as_address(target)
    place = local_target(address)
    if place.exists() and not place.is_file():
        msg = f"{address} exists and is no regular file; choose another name"
        raise StoreError(msg)
    if place.exists() and not overwrite:
        raise _exists(address)
    _check_parents(place)


@contextlib.contextmanager
def new_file(target: str | os.PathLike[str], *, overwrite: bool) -> Iterator[Path]:
    """Write a file that appears when the body succeeds; yield the path to write."""
    check_file(target, overwrite=overwrite)
    named, place = local_path(as_address(target)), local_target(as_address(target))
    with writing(target), claimed(place) as part:
        folder = part / "file"
        folder.mkdir(exist_ok=True)
        # Tools infer the format from all suffixes, as in ".nii.gz".
        partial = folder / named.name
        yield partial
        check_file(target, overwrite=overwrite)
        partial.replace(place)


def local_target(address: str) -> Path:
    """Return where a local output lies, which may be named by a link."""
    target = local_path(address)
    if not address or not target.name:
        msg = f"{address or 'an empty path'} cannot be written; name a file or folder"
        raise StoreError(msg)
    real = Path(os.path.realpath(target))
    if target.is_symlink() and not real.exists():
        msg = f"{address} is a link to {real}, which does not exist; remove the link"
        raise StoreError(msg)
    return real


def _exists(target: object) -> StoreError:
    msg = f"{target} exists; choose another name, or overwrite it"
    return StoreError(msg, overwrite=True)


def _check_parents(place: Path) -> None:
    """Raise if the folder of an output, which is made with it, is something else."""
    there = (folder for folder in place.parents if os.path.lexists(folder))
    found = next(there, place.parent)
    if not found.is_dir():
        msg = f"{place} cannot be written: {found} is no folder; choose another place"
        raise StoreError(msg)


def _no_store(target: object, foreign: str) -> StoreError:
    what = f"holds {foreign!r}, which no image or field there accounts for"
    if not foreign:
        what = "is a file"
    msg = (
        f"{target} is not a Zarr store of one image or field, so it is not "
        f"overwritten: it {what}; choose another name, or remove it yourself"
    )
    return StoreError(msg)
