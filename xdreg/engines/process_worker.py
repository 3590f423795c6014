"""The inner side of an engine process, and the messages between both sides.

A message consists of a count, the lengths of its parts, a pickle (protocol 5) and the
pickle's buffers. Requests arrive on fd 0, replies leave by a pipe of their own. A third
pipe, the lifeline, carries nothing. It closes when the parent is gone.
"""

from __future__ import annotations

import importlib
import io
import os
import pickle
import shutil
import struct
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xdreg.errors import MethodError, XdregError
from xdreg.stores import posix

if TYPE_CHECKING:
    from collections.abc import Sequence


def pack(message: object) -> list[Any]:
    """Return the parts of a message, to be written in order."""
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
    """Read one message from a pipe; raise EOFError if the other side is gone."""
    (count,) = struct.unpack("<Q", _read_exactly(fd, 8))
    lengths = struct.unpack(f"<{count}Q", _read_exactly(fd, 8 * count))
    body, *buffers = [_read_exactly(fd, length) for length in lengths]
    return pickle.loads(body, buffers=buffers)


def _read_exactly(fd: int, length: int) -> bytearray:
    # Not bytes: an array on the memory of a bytearray is writable.
    result = bytearray(length)
    rest = memoryview(result)
    with io.FileIO(fd, closefd=False) as pipe:
        while rest:
            received = pipe.readinto(rest)
            if not received:
                raise EOFError
            rest = rest[received:]
    return result


def serve(replies: int, parent: int, lifeline: int | None) -> None:
    """Answer requests on fd 0 until the parent closes it: the child's main loop."""
    posix.leave_signals_to_parent()
    posix.end_with_parent(parent, lifeline)
    # This process costs one block, its parent the whole run.
    posix.die_before_parent()
    requests = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    directory = Path.cwd()
    loaded: set[str] = set()
    try:
        while True:
            reply = _answer(_receive(requests), replies, loaded)
            write(replies, reply)
    except (EOFError, BrokenPipeError):
        # The parent is gone or closed the pipe.
        shutil.rmtree(directory, ignore_errors=True)
        os._exit(0)


def _receive(requests: int) -> tuple[Any, ...] | Exception:
    try:
        request: tuple[Any, ...] = read(requests)
    except (EOFError, OSError):
        raise
    except Exception as error:
        # The request was read in full, so the next one can be read.
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
