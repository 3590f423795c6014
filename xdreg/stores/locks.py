"""Who works in a directory: locks that end with their process, temporary directories.

The kernel's lock on a file ends with the process that holds it, be it by ``kill -9``.
Some shared file systems know no locks, or none between hosts. So the file also names
its owner, whose process touches it while it lives: on another host it is taken to be
dead once it has not done so for a while.
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

#: Name of the lock's file in the directory that it is for.
LOCK = "lock"

#: Seconds between signs of life, and without one after which an owner on another host
#: counts as dead. Clocks of hosts may differ by less than that.
BEAT = 15.0
SILENCE = 120.0


class Lock:
    """The right to work in a directory, for one owner at a time.

    Parameters
    ----------
    directory
        Where the lock's file lies; it stays there, empty when nobody holds it.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / LOCK
        self._fd: int | None = None

    def __enter__(self) -> Lock:
        """Take it.

        Raises
        ------
        InputError
            If someone else holds it.
        StoreError
            If the directory cannot be written to.
        """
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            msg = f"{self.path.parent} cannot be locked: {error.strerror}"
            raise StoreError(msg) from error
        try:
            owner = _owner(fd)
            free = try_lock(fd)
            if free is False or (owner and _lives(owner, fd, sure=free is True)):
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
        """Give it back."""
        _beating.remove(self)
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = None

    def beat(self) -> None:
        """Give a sign of life."""
        with contextlib.suppress(OSError):
            os.utime(self.path)


class _Heart:
    """One thread that gives a sign of life for every lock that is held."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: set[Lock] = set()
        self._started = False

    def add(self, lock: Lock) -> None:
        with self._lock:
            self._held.add(lock)
            if not self._started:
                threading.Thread(target=self._beat, daemon=True).start()
                self._started = True

    def remove(self, lock: Lock) -> None:
        with self._lock:
            self._held.discard(lock)

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT)
            with self._lock:
                for lock in self._held:
                    lock.beat()


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


def _lives(owner: dict[str, Any], fd: int, *, sure: bool) -> bool:
    """Tell whether an owner is still there; ``sure`` if this host's locks said no."""
    if owner.get("host") != socket.gethostname():
        return time.time() - os.fstat(fd).st_mtime < SILENCE
    if sure:
        return False
    try:
        started = psutil.Process(owner["pid"]).create_time()
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False
    # Another process may have been given its number.
    return bool(abs(started - owner.get("started", 0)) < 1)


def temporary_directory(prefix: str) -> Path:
    """Make a directory that is removed when this Python ends.

    It lies in one directory for all of this process. What processes left behind that
    were killed is removed on the way.
    """
    return Path(tempfile.mkdtemp(prefix=prefix, dir=_root()))


def _root() -> Path:
    global _own
    with _making:
        # A fork shares the variable and not the directory.
        if _own is None or _own[1] != os.getpid():
            _sweep()
            path = Path(tempfile.mkdtemp(prefix="xdreg-"))
            lock = Lock(path).__enter__()
            _own = path, os.getpid()
            atexit.register(_remove, lock, *_own)
        return _own[0]


def _sweep() -> None:
    """Remove directories whose processes are gone."""
    for path in Path(tempfile.gettempdir()).glob("xdreg-*"):
        # Those of others, or that another process removes at this moment.
        with contextlib.suppress(OSError, InputError, StoreError):
            if (path / LOCK).stat().st_size and not path.is_symlink():
                with Lock(path):
                    shutil.rmtree(path, ignore_errors=True)
                # Windows keeps the file of a lock that is held.
                shutil.rmtree(path, ignore_errors=True)


def _remove(lock: Lock, path: Path, pid: int) -> None:
    if pid == os.getpid():
        lock.__exit__()
        shutil.rmtree(path, ignore_errors=True)


_beating = _Heart()
_making = threading.Lock()
_own: tuple[Path, int] | None = None
