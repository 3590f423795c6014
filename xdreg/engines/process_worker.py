"""The inner side of an engine process, and the messages that both sides exchange.

A message is a count and lengths, a pickle (protocol 5), then the pickle's buffers.
Requests arrive on fd 0 and replies leave by a pipe of their own. A third pipe, the
lifeline, carries nothing: it closes when the parent is gone, however it went.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import pickle
import shutil
import signal
import struct
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xdreg.errors import MethodError, XdregError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Added to the process's standing with Linux's killer for lack of memory, so that it
#: takes this process, which costs one block, before the one that runs everything.
_OOM_SCORE = "500"


def pack(message: object) -> list[Any]:
    """Return a message as parts to be written one after the other."""
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    parts = [body, *(buffer.raw() for buffer in buffers)]
    lengths = [len(part) for part in parts]
    return [struct.pack(f"<{len(parts) + 1}Q", len(parts), *lengths), *parts]


def write(fd: int, parts: Sequence[Any]) -> None:
    """Write all parts of a message to a pipe."""
    for part in parts:
        rest = memoryview(part)
        while rest:
            rest = rest[os.write(fd, rest) :]


def read(fd: int) -> Any:
    """Read one message from a pipe; EOFError if the other side is gone."""
    (count,) = struct.unpack("<Q", _read_exactly(fd, 8))
    lengths = struct.unpack(f"<{count}Q", _read_exactly(fd, 8 * count))
    body, *buffers = [_read_exactly(fd, length) for length in lengths]
    return pickle.loads(body, buffers=buffers)


def _read_exactly(fd: int, length: int) -> bytearray:
    # Not bytes: an array made of a bytearray's memory is writable.
    result = bytearray(length)
    rest = memoryview(result)
    with io.FileIO(fd, closefd=False) as pipe:
        while rest:
            received = pipe.readinto(rest)
            if not received:
                raise EOFError
            rest = rest[received:]
    return result


def serve(replies: int, lifeline: int | None) -> None:
    """Answer requests on fd 0 until the parent closes it; the child's main loop."""
    # Ctrl-C reaches the whole terminal group, and a batch system's notice every process
    # of the job: the parent decides what they mean here. A block must not be taken for
    # one that crashed because its process heard of the end first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if lifeline is not None:
        _die_with_parent(lifeline)
    # Others than Linux have no such file.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    requests = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    directory = Path.cwd()
    loaded: set[str] = set()
    try:
        while True:
            reply = _answer(_receive(requests), replies, loaded)
            write(replies, reply)
    except (EOFError, BrokenPipeError):
        # The parent is gone or wants no more.
        shutil.rmtree(directory, ignore_errors=True)
        os._exit(0)


def _die_with_parent(lifeline: int) -> None:
    """End this process when the parent is gone, be it amid a call that never returns.

    On Linux the kernel does it, by the signal SIGIO, for native code may hold the GIL
    for good; elsewhere a thread.
    """
    if sys.platform == "linux":
        import fcntl

        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)

    def wait() -> None:
        # Nothing is ever written: it returns when the other end is closed.
        os.read(lifeline, 1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _receive(requests: int) -> tuple[Any, ...] | Exception:
    try:
        request: tuple[Any, ...] = read(requests)
    except (EOFError, OSError):
        raise
    except Exception as error:
        # The request is read in full, so the next one is in its place.
        return error
    return request


def _answer(
    request: tuple[Any, ...] | Exception, replies: int, loaded: set[str]
) -> list[Any]:
    try:
        if isinstance(request, Exception):
            raise request
        if request[0] == "load":
            _load(request[1], loaded)
            return pack(("result", None))
        _, function, args, kwargs = request
        module, name = function.split(":")
        _load(module, loaded)
        target = getattr(sys.modules[module], name)
        write(replies, pack(("loaded", None)))
        return pack(("result", target(*args, **kwargs)))
    except BrokenPipeError:
        raise
    except BaseException as error:
        return pack(("error", (_portable(error), traceback.format_exc())))


def _load(module: str, loaded: set[str]) -> None:
    if module in loaded:
        return
    load = getattr(importlib.import_module(module), "load", None)
    if callable(load) and load.__module__ == module:
        load()
    loaded.add(module)


def _portable(error: BaseException) -> XdregError:
    if isinstance(error, XdregError):
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # an exception's own pickling may raise anything
            return MethodError(str(error))
        return error
    return MethodError(f"{type(error).__name__}: {error}")
