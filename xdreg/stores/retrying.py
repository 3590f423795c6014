"""Bounded, reproducible retries of reads that may succeed a moment later.

A server may be busy, a connection or a network disk may drop out. Damaged or forbidden
files stay so, and are not tried again.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, TypeVar

from xdreg.errors import UnreadableError, XdregError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

#: Number of tries, and seconds to wait after the first. The wait doubles: 3 s in all.
TRIES = 5
FIRST_WAIT = 0.2

#: Packages that access remote stores and raise exceptions of their own.
_CLIENTS = {"aiohttp", "botocore", "aiobotocore", "urllib3", "requests", "google"}

#: Client errors of HTTP that may pass: timeout, too early, too many requests.
_BUSY = (408, 425, 429)

_LASTING = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)


def is_permanent(error: Exception) -> bool:
    """Return whether another try would raise the same error."""
    status = getattr(error, "status", None)
    refused = isinstance(status, int) and 400 <= status < 500 and status not in _BUSY
    return refused or isinstance(error, _LASTING)


def is_store_error(error: Exception) -> bool:
    """Return whether an error came from a disk, a server or its client."""
    if isinstance(error, OSError):
        return True
    return type(error).__module__.partition(".")[0] in _CLIENTS


def may_pass(error: Exception, *, remote: bool) -> bool:
    """Return whether another try may succeed after an error.

    From a remote store, every error may pass: data may arrive damaged though it is
    stored whole.
    """
    if isinstance(error, XdregError | MemoryError) or is_permanent(error):
        return False
    return remote or is_store_error(error)


def retry(read: Callable[[], T], *, remote: bool = False) -> T:
    """Return what ``read`` returns, calling it again after errors that may pass."""
    for wait in _waits():
        try:
            return read()
        except Exception as error:
            if not may_pass(error, remote=remote):
                raise
        time.sleep(wait)
    return read()


async def retry_async(
    read: Callable[[], Coroutine[Any, Any, T]], *, remote: bool = False
) -> T:
    """Return what ``read`` returns, as `retry` does."""
    for wait in _waits():
        try:
            return await read()
        except Exception as error:
            if not may_pass(error, remote=remote):
                raise
        await asyncio.sleep(wait)
    return await read()


def _waits() -> list[float]:
    return [FIRST_WAIT * 2**i for i in range(TRIES - 1)]


def retry_read(read: Callable[[], T], what: str, *, remote: bool = False) -> T:
    """Read a part of an image as `retry` does; if it fails, raise `UnreadableError`."""
    try:
        return retry(read, remote=remote)
    except (UnreadableError, MemoryError):
        raise
    # Stores, codecs and clients do not document what they raise.
    except Exception as error:
        text = str(error).strip() or "no message"
        msg = f"{what} cannot be read: {type(error).__name__}: {text}"
        raise UnreadableError(msg) from error
