"""The hidden folder next to a local output in which it is made.

::

    .NAME.part          belongs to this user, who alone may enter it
        lock            held while an output is made
        …               the output; moved to its place once it is whole
        removed         what is being removed
    .NAME.old           the earlier output, while the new one takes its place
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zarr.storage import LocalStore

from xdreg.errors import StoreError
from xdreg.stores.locks import LOCK, Lock
from xdreg.stores.ownership import (
    LITTER,
    first_foreign,
    local_names,
    local_reader,
    owned,
)
from xdreg.stores.posix import own_folder, sync_disks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zarr.core.buffer import Buffer

#: Folder for what is removed, and for a file that is not finished.
_REMOVED = "removed"

#: All names in the folder. Earlier versions made a store in the folder itself.
_KNOWN = re.compile(
    rf"{LOCK}|{_REMOVED}|file|(?:journal-)?[0-9a-f]{{16}}|\.xdreg-unfinished"
    r"|zarr\.json|\.z(?:group|attrs|metadata)|scale\d+|coordinateTransformations"
    rf"|xdreg(?:_inverse)?|attributes\.json|(?:inv)?dfield|{LITTER.pattern}"
)


class UnfinishedStore(LocalStore):
    """A local store that fails once its folder is gone, where Zarr makes it again.

    When a computation fails, other tasks of it still run and write, here and on other
    machines.
    """

    async def _open(self, *, mode: Any = None) -> None:
        self._ensure_open_sync()

    def _ensure_open_sync(self) -> None:
        if not self.root.exists():
            msg = f"{self.root} does not exist"
            raise FileNotFoundError(msg)
        self._is_open = True

    async def set(self, key: str, value: Buffer) -> None:
        """Write a value as Zarr does, but make no folder above the store's own."""
        self._check_writable()
        await asyncio.to_thread(self._put, key, value)

    def set_sync(self, key: str, value: Buffer) -> None:
        """Write a value without an event loop."""
        self._check_writable()
        self._put(key, value)

    def _put(self, key: str, value: Buffer) -> None:
        path = self.root / key
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
        try:
            file = partial.open("wb")
        except FileNotFoundError:
            for parent in [*path.relative_to(self.root).parents][-2::-1]:
                with contextlib.suppress(FileExistsError):
                    (self.root / parent).mkdir()
            file = partial.open("wb")
        try:
            with file:
                file.write(value.as_buffer_like())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def partial_path(target: Path) -> Path:
    """Return the folder in which a local output is made."""
    return target.with_name(f".{target.name}.part")


def previous_path(target: Path) -> Path:
    """Return the path of an earlier output while the new one takes its place."""
    return target.with_name(f".{target.name}.old")


@contextlib.contextmanager
def claimed(target: Path, *, keep: bool = False) -> Iterator[Path]:
    """Make and lock the folder for an output; remove what an earlier process left.

    It is removed in the end, with ``keep`` only once the body succeeds.
    """
    part = partial_path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        part.mkdir(mode=0o700)
    _check_left(part)
    with Lock(part):
        _restore(target, part)
        try:
            yield part
        except BaseException:
            if not keep:
                _remove(part)
            raise
        _remove(part)
    # Windows does not remove the file of a held lock.
    shutil.rmtree(part, ignore_errors=True)


def _check_left(part: Path) -> None:
    """Raise if a folder for an output is not one that this user's processes left."""
    try:
        with own_folder(part):
            names = sorted(entry.name for entry in part.iterdir())
    except OSError as error:
        msg = f"{part} is needed to write, and {error.strerror}; remove it"
        raise StoreError(msg) from error
    foreign = next((name for name in names if not _KNOWN.fullmatch(name)), None)
    if foreign is not None:
        msg = f"{part} is needed to write, and holds {foreign!r}; move or remove it"
        raise StoreError(msg)


def _restore(target: Path, part: Path) -> None:
    """Undo or finish a replacement that was killed between its renames."""
    previous = previous_path(target)
    if not os.path.lexists(previous):
        return
    try:
        with own_folder(previous):
            foreign = foreign_in(previous)
    except OSError as error:
        msg = f"{previous} is needed to write, and {error.strerror}; remove it"
        raise StoreError(msg) from error
    if foreign is not None:
        msg = f"{previous} is needed to write, and holds {foreign!r}; move or remove it"
        raise StoreError(msg)
    if os.path.lexists(target):
        discard(previous, part)
    else:
        previous.rename(target)


def foreign_in(store: Path) -> str | None:
    """Return the first entry of a folder that is not part of the output there.

    None also of an empty folder.
    """
    return first_foreign(local_names(store), owned(local_reader(store)))


def discard(path: Path, part: Path) -> None:
    """Remove a folder, which tasks of a failed computation may still write to.

    Under another name it takes no more files, see `UnfinishedStore`.
    """
    removed = part / _REMOVED
    shutil.rmtree(removed, ignore_errors=True)
    if os.path.lexists(path):
        path.rename(removed)
    shutil.rmtree(removed, ignore_errors=True)


def _remove(part: Path) -> None:
    for entry in [*part.iterdir()]:
        if entry.name not in (LOCK, _REMOVED):
            with contextlib.suppress(OSError):
                discard(entry, part)
    shutil.rmtree(part, ignore_errors=True)


def publish(made: Path, target: Path, part: Path) -> None:
    """Rename a finished output, in place of an existing one."""
    # A name may reach the disk before its content.
    sync_disks()
    previous = previous_path(target)
    # Two renames: the old output is whole until the new one is.
    replaced = target.exists()
    if replaced:
        target.rename(previous)
    try:
        made.rename(target)
    except BaseException:
        if replaced:
            previous.rename(target)
        raise
    if replaced:
        discard(previous, part)
