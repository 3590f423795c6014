"""Locks on directories that end with their process, and temporary directories.

The kernel's lock on a file ends with the process that holds it, even by ``kill -9``.
Some shared file systems have no locks, or none between hosts. The file therefore also
names its owner, which touches it at intervals. An owner on another host counts as dead
if it has not done so for a while.
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
from typing import Any

import psutil

from xdreg.errors import InputError, StoreError
from xdreg.stores.posix import try_lock

#: Name of the lock's file in its directory.
LOCK = "lock"

#: Seconds between touches of the file, and seconds without one after which an owner on
#: another host counts as dead. Hosts' clocks may differ by less than that.
BEAT = 15.0
SILENCE = 120.0


class Lock:
    """An exclusive lock on a directory.

    Its file stays in the directory, empty when nobody holds the lock.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / LOCK
        self._fd: int | None = None

    def __enter__(self) -> Lock:
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            msg = f"{self.path.parent} cannot be locked: {error.strerror}"
            raise StoreError(msg) from error
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
        self._fd, self._released = fd, threading.Event()
        threading.Thread(
            target=self._touch_until, args=(self._released,), daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = None

    def _touch_until(self, released: threading.Event) -> None:
        """Show other hosts that the owner is alive."""
        while not released.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(self.path)


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


def _root() -> Path:
    global _own
    with _making:
        # A fork inherits the variable but needs its own directory.
        if _own is None or _own[1] != os.getpid():
            _sweep()
            path = Path(tempfile.mkdtemp(prefix="xdreg-"))
            lock = Lock(path).__enter__()
            _own = path, os.getpid()
            atexit.register(_remove, lock, *_own)
        return _own[0]


def _sweep() -> None:
    """Remove the directories of processes that have ended."""
    for path in Path(tempfile.gettempdir()).glob("xdreg-*"):
        # Some belong to others, or another process is removing them.
        with contextlib.suppress(OSError, InputError, StoreError):
            if (path / LOCK).stat().st_size and not path.is_symlink():
                with Lock(path):
                    shutil.rmtree(path, ignore_errors=True)
                # Windows does not remove the file of a held lock.
                shutil.rmtree(path, ignore_errors=True)


def _remove(lock: Lock, path: Path, pid: int) -> None:
    if pid == os.getpid():
        lock.__exit__()
        shutil.rmtree(path, ignore_errors=True)


_making = threading.Lock()
_own: tuple[Path, int] | None = None
