"""Reading again what may be read a moment later: bounded, and the same every time.

A busy server answers with an error, a line drops, a network disk blinks. What a file
says about itself does not change: damage and missing permission are not waited for.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from xdreg.errors import UnreadableError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

#: How often something is tried, and how many seconds are waited after the first time;
#: the wait doubles: three seconds in all, for what goes away by itself.
TRIES = 5
FIRST_WAIT = 0.2

#: Clients of remote stores raise exceptions of their own.
_CLIENTS = {"aiohttp", "botocore", "aiobotocore", "urllib3", "requests", "google"}

#: Statuses of HTTP that say: later.
_BUSY = (408, 425, 429)

_LASTING = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)


def lasts(error: Exception) -> bool:
    """Tell whether an error is an answer, which will be the same the next time."""
    status = getattr(error, "status", None)
    refused = isinstance(status, int) and 400 <= status < 500 and status not in _BUSY
    return refused or isinstance(error, _LASTING)


def of_a_store(error: Exception) -> bool:
    """Tell whether a disk, a server or its client raised an error."""
    if isinstance(error, OSError):
        return True
    return type(error).__module__.partition(".")[0] in _CLIENTS


def tried_again(read: Callable[[], T], *, remote: bool = False) -> T:
    """Read something, again after a while where that failed; at last raise its error.

    Parameters
    ----------
    read
        Reads it.
    remote
        Whether it travels: then what arrived may be damaged, and what is stored not.
    """
    wait = FIRST_WAIT
    for _ in range(TRIES - 1):
        try:
            return read()
        except (UnreadableError, MemoryError):
            raise
        except Exception as error:
            if lasts(error) or not (remote or of_a_store(error)):
                raise
        time.sleep(wait)
        wait *= 2
    return read()


def patiently(read: Callable[[], T], what: str, *, remote: bool = False) -> T:
    """Read a part of an image as `tried_again` does.

    Raises
    ------
    UnreadableError
        If it could not be read, with the name of what it is.
    """
    try:
        return tried_again(read, remote=remote)
    except (UnreadableError, MemoryError):
        raise
    # Stores, codecs and clients do not say what they raise.
    except Exception as error:
        text = str(error).strip() or "no message"
        msg = f"{what} cannot be read: {type(error).__name__}: {text}"
        raise UnreadableError(msg) from error
