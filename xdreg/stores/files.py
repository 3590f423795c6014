"""Files that are read whole and written atomically, whatever lies in their place."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

from xdreg.errors import StoreError

#: A pipe without a writer is opened at once. Windows has no such pipes.
_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def read_file(path: str | Path, most: int) -> bytes:
    """Return the content of a file, of a larger one the first ``most + 1`` bytes.

    Never waits, as reading a pipe would.

    Raises
    ------
    FileNotFoundError
        If there is nothing at the path.
    StoreError
        If there is something other than a file, or it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | _AT_ONCE)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                msg = (
                    f"{path} is a folder or a device, and a file is expected; move it "
                    "away, and run the same again"
                )
                raise StoreError(msg)
            parts = [os.read(descriptor, most + 1)]
            # One call reads a file, but may read less of a large one.
            while parts[-1] and (left := most + 1 - sum(map(len, parts))) > 0:
                parts.append(os.read(descriptor, left))
            return b"".join(parts)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, StoreError):
        raise
    except OSError as error:
        msg = (
            f"{path} cannot be read: {error.strerror}; mend that, or move what is "
            "there away, and run the same again"
        )
        raise StoreError(msg) from error


def read_end(path: str | Path, count: int) -> bytes | None:
    """Return the last bytes of a file; None if it is missing or shorter."""
    try:
        descriptor = os.open(path, os.O_RDONLY | _AT_ONCE)
    except FileNotFoundError:
        return None
    try:
        size = os.fstat(descriptor).st_size
        os.lseek(descriptor, max(size - count, 0), os.SEEK_SET)
        stored = os.read(descriptor, count)
    except OSError:  # a folder or a pipe
        return None
    finally:
        os.close(descriptor)
    return stored if len(stored) == count else None


def replace_file(path: Path, content: bytes) -> None:
    """Write a file atomically, from any number of processes and threads."""
    partial = path.parent / f".{path.name}.{os.getpid()}.{threading.get_ident()}"
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
