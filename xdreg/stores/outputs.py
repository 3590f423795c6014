"""Outputs that appear whole or not at all, and replace nothing unless asked to.

A local store is written beside its place and renamed once it is finished. At a URL,
where nothing can be renamed, the documents by which a store is known come last. What
cannot be finished is removed; what a killed process left is removed by the next.
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
from xdreg.stores.retrying import of_a_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    StorageOptions = Mapping[str, Any] | None

#: What makes a directory a Zarr store, in the order in which they are to appear.
_ROOT = (".zattrs", ".zmetadata", ".zarray", ".zgroup", "zarr.json")

#: Lies in a store at a URL until it is finished.
MARK = ".xdreg-unfinished"


class Output:
    """A store that is being written.

    Parameters
    ----------
    folder
        A local directory to lay out metadata in, and whatever is small.
    url, storage_options
        Where the store is to be, if that is not local.
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
        """Return an array whose metadata was laid out, where its voxels are to go."""
        if self._url is None:
            return zarr.open_array(self.folder / path, mode="r+")
        self._send(root=False)
        place = f"{self._url}/{path}"
        options = self._options or None  # Else refused where nobody takes them.
        return zarr.open_array(place, mode="r+", storage_options=options)

    def finish(self) -> None:
        """Send the rest, last what makes the store one, where it is not local."""
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
    """Write a Zarr store that appears when the body ends well.

    Parameters
    ----------
    path
        Local directory or URL.
    overwrite
        Replace a store that is there.
    storage_options
        For a URL, passed to fsspec.

    Yields
    ------
    Output

    Raises
    ------
    StoreError
        If something is there and ``overwrite`` is false, or it cannot be written.
    """
    address = as_address(path)
    with writing(address):
        if is_remote(address):
            with _remote(address.rstrip("/"), overwrite, storage_options) as output:
                yield output
        else:
            with _local(Path(address).absolute(), overwrite) as output:
                yield output


@contextlib.contextmanager
def writing(
    place: object, rest: str = "nothing half-written was left"
) -> Iterator[None]:
    """Turn what a full or lost disk or a server raises into an error with a remedy.

    Parameters
    ----------
    place
        What is written.
    rest
        What became of it, to end the message with.
    """
    try:
        yield
    except XdregError:
        raise
    except Exception as error:
        if not of_a_store(error):
            raise
        msg = (
            f"{place} cannot be written: {error}. See that there is room and that it "
            f"may be written to, then call again; {rest}"
        )
        raise StoreError(msg) from error


@contextlib.contextmanager
def _local(target: Path, overwrite: bool) -> Iterator[Output]:
    partial = partial_of(target)
    bring_back(target)
    check_target(target, overwrite=overwrite)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        output = Output(partial)
        yield output
        put_in_place(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def partial_of(target: Path) -> Path:
    """Return where a local store lies until it is finished."""
    return target.with_name(f".{target.name}.part")


def _previous_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def bring_back(target: Path) -> None:
    """Put back a store whose replacement a kill prevented, between two renames."""
    previous = _previous_of(target)
    if previous.exists() and not target.exists():
        previous.rename(target)


def put_in_place(partial: Path, target: Path) -> None:
    """Give a finished store its name, in place of what has it."""
    # A name may reach the disk before what it names does.
    sync_disks()
    previous = _previous_of(target)
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
        except NotImplementedError as error:
            msg = f"{url} cannot be written: its protocol is for reading only"
            raise StoreError(msg) from error
        except BaseException:
            with contextlib.suppress(Exception):
                remove_store(files, place, {MARK})
            raise


def remote_place(
    url: str, overwrite: bool, storage_options: StorageOptions
) -> tuple[Any, str, set[str]]:
    """Return the file system of a URL, the place there, and the names that it holds.

    Raises
    ------
    StoreError
        If they are not to be replaced, or the file system is not known.
    """
    try:
        files, place = filesystem(url, dict(storage_options or {}))
        names = {path.rpartition("/")[2] for path in listed(files, place)}
    except (ImportError, ValueError) as error:
        msg = f"{url} cannot be written: {error}; pip install 'xdreg[remote]'"
        raise StoreError(msg) from error
    # What a killed process left is no store, and nobody else's.
    if names and MARK not in names:
        if not overwrite:
            raise _exists(url)
        if not names & set(_ROOT):
            raise _no_store(url)
    return files, place, names


def remove_store(files: Any, place: str, names: set[str]) -> None:
    """Remove a store, first what makes it one."""
    if not names:
        return
    for name in _ROOT[::-1]:
        with contextlib.suppress(FileNotFoundError):
            files.rm_file(f"{place}/{name}")
    with contextlib.suppress(FileNotFoundError):
        files.rm(place, recursive=True)
    files.invalidate_cache()


def listed(files: Any, place: str) -> list[str]:
    """Return what lies at a place, nothing where there is no such place."""
    files.invalidate_cache()
    try:
        return [str(entry) for entry in files.ls(place, detail=False)]
    except FileNotFoundError:
        return []


def filesystem(url: str, options: dict[str, Any]) -> tuple[Any, str]:
    """Return the file system of a URL or path, and the place there."""
    import fsspec

    files, place = fsspec.core.url_to_fs(url, **options)
    return files, str(place).rstrip("/")


def check_target(target: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Refuse a local output that exists, or a folder that does not.

    Only a Zarr or N5 store, or an empty directory, is ever overwritten.

    Raises
    ------
    StoreError
        With the remedy.
    """
    target = Path(target)
    if target.exists() and not overwrite:
        raise _exists(target)
    if target.exists() and not _is_replaceable(target):
        raise _no_store(target)
    if not target.parent.exists():
        raise _no_folder(target.parent)


def check_file(target: Path, *, overwrite: bool) -> None:
    """Refuse a file that exists, what is no file, or a folder that does not exist.

    Raises
    ------
    StoreError
        With the remedy.
    """
    if target.exists() and not (overwrite and target.is_file()):
        raise _exists(target)
    if not target.parent.exists():
        raise _no_folder(target.parent)


@contextlib.contextmanager
def new_file(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Write a file that appears when the body ends well; yield where to write it."""
    check_file(target, overwrite=overwrite)
    # A tool tells the format by all suffixes: ".nii.gz".
    partial = target.with_name(f".part-{target.name}")
    with writing(target):
        try:
            yield partial
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


def _exists(target: object) -> StoreError:
    msg = f"{target} exists; choose another name, or overwrite it: overwrite=True"
    return StoreError(msg)


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
