"""Bytes of a Zarr store: whole, of a bounded size, and within a time limit."""

from __future__ import annotations

import asyncio
import json
import math
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import LocalStore, MemoryStore, ZipStore

from xdreg.errors import InputError, UnreadableError
from xdreg.stores import ome_checks
from xdreg.stores.retrying import retry_async

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from zarr.abc.store import ByteRequest, Store
    from zarr.core.buffer import Buffer, BufferPrototype

T = TypeVar("T")

#: Option of Dask's configuration: how long a chunk may take to come, retries included.
DEADLINE = "xdreg.read-deadline"

#: Seconds that it says unless it is set.
DEFAULT_SECONDS = 60.0

#: Bytes that may take that long. Larger chunks may take longer in proportion.
BYTES_IN_TIME = 2**26

#: Seconds after which the event loop looks at the time again. If native code holds up
#: the whole process, that counts as one look: the storage is not to blame.
_LOOK = 1.0


def read_deadline() -> float:
    """Return the seconds that a chunk may take to come, from Dask's configuration."""
    import dask.config  # takes as long as Zarr
    from dask.utils import parse_timedelta

    stored = dask.config.get(DEADLINE, DEFAULT_SECONDS)
    try:
        seconds = float(parse_timedelta(stored))
    except (AttributeError, TypeError, ValueError, KeyError):
        seconds = math.nan
    if not seconds > 0:
        msg = (
            f"{DEADLINE!r} in Dask's configuration is {stored!r}; expected a time "
            "above zero, in seconds or as in '2 minutes'"
        )
        raise InputError(msg)
    return seconds


def known_deadline() -> float | None:
    """Return `read_deadline`, or None as long as Dask is not imported.

    Until then no program can have set it, and most metadata come before it is needed.
    """
    return read_deadline() if "dask" in sys.modules else None


def is_remote_store(store: Store) -> bool:
    """Return whether another try may find other data in a store."""
    return not isinstance(store, LocalStore | MemoryStore | ZipStore)


async def persistently(
    read: Callable[[], Coroutine[Any, Any, T]],
    what: str,
    *,
    remote: bool,
    seconds: float | None,
    scale: float = 1.0,
) -> T:
    """Return what ``read`` returns, with retries, or raise in time.

    Without ``seconds``, `read_deadline` is asked for what does not come at once, and
    multiplied by ``scale``.

    Raises
    ------
    UnreadableError
        If it takes longer than ``seconds`` in all.
    """
    reading: Coroutine[Any, Any, T] | asyncio.Task[T] = retry_async(read, remote=remote)
    if seconds is None:
        reading = asyncio.ensure_future(reading)
        try:
            await asyncio.wait([reading], timeout=_LOOK)
            if reading.done():
                return reading.result()
            seconds = scale * read_deadline()
        except BaseException:
            reading.cancel()
            raise
    loop = asyncio.get_running_loop()
    left = math.ceil(seconds / _LOOK)
    step = seconds / left

    timer: asyncio.TimerHandle

    def look() -> None:
        nonlocal left, timer
        left -= 1
        if left < 0:
            limit.reschedule(loop.time())
        else:
            timer = loop.call_later(step, look)

    try:
        async with asyncio.timeout(None) as limit:
            look()
            try:
                return await reading
            finally:
                timer.cancel()
    except TimeoutError:
        if not limit.expired():
            raise
    msg = (
        f"{what} did not come within {seconds:g} s. If the storage is only slow, allow "
        "more before the image is opened, for example with "
        f"dask.config.set({{{DEADLINE!r}: '5 minutes'}})"
    )
    raise UnreadableError(msg)


async def fetch(
    store: Store,
    key: str,
    prototype: BufferPrototype,
    most: int,
    byte_range: ByteRequest | None = None,
) -> Buffer | None:
    """Return the bytes under a key, or a range of them; None if the key is missing.

    Raises
    ------
    ValueError
        If they are more than ``most``.
    OSError
        If they cannot be read.
    """
    found: Buffer | None
    if type(store) is LocalStore:
        path = f"{store.root}/{key}"
        values = await asyncio.to_thread(_read_file, path, most, byte_range)
        found = None if values is None else prototype.buffer.from_bytes(values)
    else:
        found = await store.get(key, prototype, byte_range)
    if found is not None:
        _check_length(len(found), most)
    return found


async def fetch_document(store: Store, key: str, seconds: float | None) -> Any:
    """Return a metadata document, an object of JSON; None if it is missing.

    ``seconds`` are those of `persistently`.

    Raises
    ------
    UnreadableError
        If it does not come in time.
    ValueError
        If it is no document, or too large to be one.
    """
    most = ome_checks.MOST_BYTES
    # No more is asked of a server.
    part = RangeByteRequest(0, most + 1)

    def read() -> Coroutine[Any, Any, Buffer | None]:
        return fetch(store, key, default_buffer_prototype(), most, part)

    found = await persistently(
        read, f"{store}/{key}", remote=is_remote_store(store), seconds=seconds
    )
    if found is None:
        return None
    content = json.loads(found.to_bytes())
    if not isinstance(content, dict):
        msg = f"{store}/{key} is {content!s:.80}; expected an object"
        raise ValueError(msg)
    return content


def _check_length(length: int, most: int) -> None:
    if length > most:
        msg = f"it has {length} bytes; expected at most {most}. It is not read"
        raise ValueError(msg)


def _read_file(path: str, most: int, byte_range: ByteRequest | None) -> bytes | None:
    """Return the bytes of a regular file, or a range of them; None without a file.

    Zarr takes a folder, and a link whose target is gone, for a missing file, and waits
    for ever where the file is a pipe.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        if Path(path).is_symlink():
            msg = f"{path} is a link to a file that is not there"
            raise FileNotFoundError(msg) from None
        return None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        msg = f"{path} is no regular file"
        raise ValueError(msg)
    with open(descriptor, "rb") as file:  # noqa: PTH123 (a descriptor)
        if isinstance(byte_range, RangeByteRequest):
            file.seek(min(byte_range.start, status.st_size))
            return file.read(min(byte_range.end - byte_range.start, most + 1))
        if isinstance(byte_range, SuffixByteRequest):
            file.seek(max(status.st_size - byte_range.suffix, 0))
        _check_length(status.st_size - file.tell(), most)
        return file.read()
