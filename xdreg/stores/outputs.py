"""Outputs that appear whole or not at all, and overwrite nothing unless asked to.

A local store is written under another name and renamed once it is finished. At a URL,
where nothing can be renamed, the documents that make it a store are written last. An
unfinished output is removed, or if its process was killed, by the next process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zarr

from xdreg.errors import StoreError, XdregError
from xdreg.stores.paths import as_address, is_remote
from xdreg.stores.posix import sync_disks
from xdreg.stores.retrying import is_store_error

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    StorageOptions = Mapping[str, Any] | None

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
            return zarr.open_array(self.folder / path, mode="r+")
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
        store = _local(Path(address).absolute(), overwrite)
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
def _local(target: Path, overwrite: bool) -> Iterator[Output]:
    partial = partial_path(target)
    restore_previous(target)
    check_target(target, overwrite=overwrite)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        output = Output(partial)
        yield output
        publish(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def partial_path(target: Path) -> Path:
    """Return the path of a local store until it is finished."""
    return target.with_name(f".{target.name}.part")


def _previous_path(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def restore_previous(target: Path) -> None:
    """Restore a store whose replacement was killed between its two renames."""
    previous = _previous_path(target)
    if previous.exists() and not target.exists():
        previous.rename(target)


def publish(partial: Path, target: Path) -> None:
    """Rename a finished store, in place of an existing one."""
    # A name may reach the disk before its content.
    sync_disks()
    previous = _previous_path(target)
    shutil.rmtree(previous, ignore_errors=True)
    # Two renames: the old store is whole until the new one is.
    if target.exists():
        target.rename(previous)
    partial.rename(target)
    shutil.rmtree(previous, ignore_errors=True)


@contextlib.contextmanager
def _remote(
    url: str, overwrite: bool, storage_options: StorageOptions
) -> Iterator[Output]:
    files, place, names = remote_place(url, overwrite, storage_options)
    with tempfile.TemporaryDirectory(prefix="xdreg-") as scratch:
        output = Output(Path(scratch) / "store", url, storage_options)
        try:
            remove_store(files, place, names)
            files.pipe_file(f"{place}/{MARK}", b"")
            yield output
            output.finish()
            files.rm_file(f"{place}/{MARK}")
        except BaseException:
            with contextlib.suppress(Exception):
                remove_store(files, place, {MARK})
            raise


def remote_place(
    url: str, overwrite: bool, storage_options: StorageOptions
) -> tuple[Any, str, set[str]]:
    """Return the file system of a URL, the path in it, and the names found there."""
    try:
        files, place = filesystem(url, storage_options)
        names = set(list_names(files, place))
    except (ImportError, ValueError) as error:
        msg = f"{url} cannot be written: {error}; pip install 'xdreg[remote]'"
        raise StoreError(msg) from error
    # Marked ones are leftovers of a killed process.
    if names and MARK not in names:
        if not overwrite:
            raise _exists(url)
        if not names & set(_ROOT):
            raise _no_store(url)
    return files, place, names


def remove_store(files: Any, place: str, names: set[str]) -> None:
    """Remove a store, first the documents that make it one."""
    if not names:
        return
    for name in _ROOT[::-1]:
        with contextlib.suppress(FileNotFoundError):
            files.rm_file(f"{place}/{name}")
    with contextlib.suppress(FileNotFoundError):
        files.rm(place, recursive=True)
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


def filesystem(url: str, options: StorageOptions) -> tuple[Any, str]:
    """Return the file system of a URL or path, and the path in it."""
    import fsspec

    files, place = fsspec.core.url_to_fs(url, **(options or {}))
    return files, str(place).rstrip("/")


def check_target(target: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Raise if a local output exists, or its folder does not.

    Only a Zarr or N5 store, or an empty directory, is ever overwritten.
    """
    target = Path(target)
    if target.exists() and not overwrite:
        raise _exists(target)
    if target.exists() and not _is_replaceable(target):
        raise _no_store(target)
    if not target.parent.exists():
        raise _no_folder(target.parent)


def check_file(target: Path, *, overwrite: bool) -> None:
    """Raise if a file exists, is not a file, or its folder does not exist."""
    if target.exists() and not (overwrite and target.is_file()):
        raise _exists(target)
    if not target.parent.exists():
        raise _no_folder(target.parent)


@contextlib.contextmanager
def new_file(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Write a file that appears when the body succeeds; yield the path to write."""
    check_file(target, overwrite=overwrite)
    # Tools infer the format from all suffixes, as in ".nii.gz".
    partial = target.with_name(f".part-{target.name}")
    with writing(target):
        try:
            yield partial
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


def _exists(target: object) -> StoreError:
    msg = f"{target} exists; choose another name, or overwrite it"
    return StoreError(msg, overwrite=True)


def _no_folder(folder: Path) -> StoreError:
    return StoreError(f"the folder {folder} does not exist; make it first")


def _no_store(target: object) -> StoreError:
    msg = (
        f"{target} is not a Zarr store, so it is not overwritten; choose another name, "
        "or remove it yourself"
    )
    return StoreError(msg)


def _is_replaceable(target: Path) -> bool:
    names = {path.name for path in target.iterdir()} if target.is_dir() else {""}
    kinds = {"zarr.json", ".zgroup", ".zarray", "attributes.json"}
    return not names or bool(names & kinds)
