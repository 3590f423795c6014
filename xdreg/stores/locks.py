"""Locks on directories that end with their process, and temporary directories.

The kernel's lock on a file ends with the process that holds it, even by ``kill -9``.
Some shared file systems have no locks, or none between hosts. The file therefore also
names its owner, which touches it at intervals. An owner on another host counts as dead
if it has not done so for a while.

A fork of a process owns none of its locks.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from xdreg.errors import InputError, StoreError
from xdreg.stores.posix import (
    after_fork,
    belongs_to_user_or,
    empty_folder,
    open_regular,
    own_folder,
    try_lock,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Name of the lock's file in its directory.
LOCK = "lock"

#: Name of a file that only directories hold that are to be removed with their process,
#: with the directory's path. A copy may be meant to stay.
TEMPORARY = "temporary"

#: How names of directories of a process start, in the shared temporary directory.
_PREFIX = "xdreg-"

#: First bytes of the file while somebody holds the lock.
_FIRST = b'{"host": '

#: Seconds between touches of the file, and seconds without one after which an owner on
#: another host counts as dead. Hosts' clocks may differ by less than that.
BEAT = 15.0
SILENCE = 120.0


class Lock:
    """An exclusive lock on a directory.

    Its file stays in the directory, empty when nobody holds the lock. ``folder`` is the
    descriptor of the directory, if it was opened by `own_folder`.
    """

    def __init__(self, directory: Path, folder: int | None = None) -> None:
        self.path, self._folder = directory / LOCK, folder
        self._fd: int | None = None

    def __enter__(self) -> Lock:
        fd = _opened(self.path, self._folder)
        try:
            owner = _owner(fd)
            free = try_lock(fd)
            if free is False or (owner and _is_alive(owner, fd, locked=free is True)):
                who = "someone"
                if owner:
                    who = f"process {owner.get('pid')} on {owner.get('host')}"
                msg = (
                    f"{self.path.parent} is in use by {who}; wait for it, or use "
                    "another directory. An owner on another host that is gone is "
                    f"forgotten {SILENCE:g} s after its last sign of life"
                )
                raise InputError(msg)
            _write_owner(fd)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        _beating.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        _beating.discard(self)
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
            self.leave_to_parent()

    def touch(self) -> None:
        """Show other hosts that the owner is alive."""
        with contextlib.suppress(OSError):
            os.utime(self.path)

    def leave_to_parent(self) -> None:
        """Close the file, in a fork; the kernel's lock ends where the last one does."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class _Heart:
    """The thread that gives signs of life for all locks of this process."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: list[Lock] = []
        self._ended = threading.Event()
        self._started = False

    def add(self, lock: Lock) -> None:
        """Touch a lock at intervals."""
        with self._guard:
            self._locks.append(lock)
            if not self._started:
                self._ended, self._started = threading.Event(), True
                threading.Thread(
                    target=self._beat, args=(self._ended,), daemon=True
                ).start()

    def discard(self, lock: Lock) -> None:
        """Leave a lock alone; the thread ends with the last one."""
        with self._guard:
            if lock in self._locks:
                self._locks.remove(lock)
            if not self._locks:
                self._ended.set()
                self._started = False

    def leave_to_parent(self) -> None:
        """Give up all locks, in a fork."""
        for lock in self._locks:
            lock.leave_to_parent()

    def _beat(self, ended: threading.Event) -> None:
        while not ended.wait(BEAT):
            for lock in tuple(self._locks):
                lock.touch()


def _opened(path: Path, folder: int | None) -> int:
    """Open a lock's file, made if it is missing; raise if it is anything else."""
    try:
        place = path if folder is None else Path(path.name)
        fd = open_regular(place, os.O_RDWR | os.O_CREAT, folder=folder)
    except OSError as error:
        msg = f"{path.parent} cannot be locked: {LOCK}: {error.strerror}"
        if not os.path.lexists(path) or (path.is_file() and not path.is_symlink()):
            raise StoreError(msg) from error
        msg = f"{path} is {_kind_of(path)}, not the file of a lock; remove it"
        raise StoreError(msg) from error
    if not _is_lock(fd) or not belongs_to_user_or(path.parent.stat(), os.fstat(fd)):
        os.close(fd)
        msg = (
            f"{path} holds something else than a lock, or belongs to another user; "
            "remove it, or use another directory"
        )
        raise StoreError(msg)
    return fd


def _kind_of(path: Path) -> str:
    if path.is_symlink():
        return "a symbolic link"
    return "a folder" if path.is_dir() else "a pipe or a device"


def _is_lock(fd: int) -> bool:
    """Return whether a file may be written as a lock; a hard link may be any file.

    What a power cut left is the start of an owner's name, or zeros.
    """
    text = os.read(fd, 4096).strip(b"\0")
    return text.startswith(_FIRST) or _FIRST.startswith(text)


def _owner(fd: int) -> dict[str, Any]:
    os.lseek(fd, 0, os.SEEK_SET)
    try:
        owner = json.loads(os.read(fd, 4096) or b"{}")
    except ValueError:  # half-written
        return {}
    return owner if isinstance(owner, dict) else {}


def _write_owner(fd: int) -> None:
    owner = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
    }
    os.ftruncate(fd, 0)
    os.lseek(fd, 0, os.SEEK_SET)
    os.write(fd, json.dumps(owner).encode())


def _is_alive(owner: dict[str, Any], fd: int, *, locked: bool) -> bool:
    """Return whether an owner is alive; ``locked`` if this process has the lock now."""
    if owner.get("host") != socket.gethostname():
        return time.time() - os.fstat(fd).st_mtime < SILENCE
    if locked:
        return False
    try:
        started = psutil.Process(owner["pid"]).create_time()
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False
    # Another process may have got its number.
    return bool(abs(started - owner.get("started", 0)) < 1)


def temporary_directory(prefix: str) -> Path:
    """Make a directory that is removed when this Python process ends.

    All of them are in one directory. Those of killed processes are removed too.
    """
    return Path(tempfile.mkdtemp(prefix=prefix, dir=_root()))


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Make a temporary directory that is removed in the end."""
    path = temporary_directory("scratch-")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _root() -> Path:
    global _own
    with _making:
        # A fork inherits the variable but needs its own directory.
        if _own is None or _own[1] != os.getpid():
            _sweep()
            path = Path(tempfile.mkdtemp(prefix=_PREFIX))
            mark_temporary(path)
            lock = Lock(path).__enter__()
            _own = path, os.getpid()
            atexit.register(_remove, lock, *_own)
        return _own[0]


def mark_temporary(path: Path) -> None:
    """Mark a directory as one that is to be removed with its process."""
    (path / TEMPORARY).write_bytes(os.fsencode(os.path.realpath(path)))


def _is_marked(path: Path, folder: int | None) -> bool:
    mark = path / TEMPORARY if folder is None else Path(TEMPORARY)
    fd = open_regular(mark, os.O_RDONLY, folder=folder)
    with os.fdopen(fd, "rb") as file:
        return file.read(4096) == os.fsencode(os.path.realpath(path))


def _sweep() -> None:
    """Remove this user's directories of processes that have ended."""
    with os.scandir(tempfile.gettempdir()) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(_PREFIX)]
    for name in names:
        # Some belong to others, or another process is removing them.
        with contextlib.suppress(OSError, InputError, StoreError):
            _sweep_one(Path(tempfile.gettempdir(), name))


def _sweep_one(path: Path) -> None:
    with own_folder(path) as folder:
        lock = path / LOCK if folder is None else LOCK
        used = os.stat(lock, dir_fd=folder, follow_symlinks=False).st_size
        if not (used and _is_marked(path, folder)):
            return
        with Lock(path, folder):
            empty_folder(path, folder)
    # Windows does not remove the file of a held lock.
    (path / LOCK).unlink(missing_ok=True)
    path.rmdir()


def _remove(lock: Lock, path: Path, pid: int) -> None:
    if pid == os.getpid():
        lock.__exit__()
        shutil.rmtree(path, ignore_errors=True)


def _start_anew() -> None:
    """Forget what a fork has from its parent: its thread is not there."""
    global _beating, _making
    _beating.leave_to_parent()
    _beating, _making = _Heart(), threading.Lock()


_making = threading.Lock()
_own: tuple[Path, int] | None = None
_beating = _Heart()
after_fork(_start_anew)
