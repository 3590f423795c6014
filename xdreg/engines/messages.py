"""The messages between an engine process and the process that started it.

A message is a header (a mark, its number, the count of its parts), the lengths of its
parts, a pickle (protocol 5), the pickle's buffers, and the mark again. A reply has the
number of its request. What else arrives in the pipe, for example because a method wrote
to a descriptor that is not its own, is `Malformed`.

Replies hold plain data: a method's result must not run code where it is unpickled.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import traceback
from typing import TYPE_CHECKING, Any

from xdreg import errors
from xdreg.errors import LONGEST, Interrupted, MethodError, XdregError, printable
from xdreg.stores import posix

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_MARK = b"\x00xdreg\r\n"
_HEADER = struct.Struct("<8sQQ")

#: Seconds between looks at whether the other side still runs.
_LOOK = 0.5

#: What a reply may be made of, by module.
_PLAIN = {
    "builtins": {"Ellipsis", "bytearray", "complex", "frozenset", "set", "slice"},
    "fractions": {"Fraction"},
    "numpy": {"dtype", "ndarray"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.numeric": {"_frombuffer"},
    "xdreg.grid": {"Grid"},
}

#: Types of the values of an error's remedy that are passed on.
_REMEDY = (bool, float, int, str, type(None), type(...))


class Malformed(Exception):
    """Bytes that are not the message which was expected."""


def pack(message: object) -> list[Any]:
    """Return the parts of a message."""
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    return [body, *(buffer.raw() for buffer in buffers)]


def unpack(parts: Sequence[bytearray]) -> Any:
    """Return the message of the parts of a request."""
    return pickle.loads(parts[0], buffers=parts[1:])


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return a type that does no harm."""
        if name not in _PLAIN.get(module, ()):
            msg = f"a reply must be plain data, not {module}.{name}"
            raise Malformed(msg)
        return super().find_class(module, name)


def unpack_reply(parts: Sequence[bytearray]) -> tuple[str, Any]:
    """Return the kind and value of a reply; raise `Malformed` if it is not one."""
    try:
        unpickler = _PlainUnpickler(io.BytesIO(parts[0]), buffers=parts[1:])
        kind, value = unpickler.load()
    except Malformed:
        raise
    except Exception as error:  # anything can come of damaged pickles
        raise Malformed(printable(error)) from error
    return kind, value


def describe(error: BaseException) -> tuple[str, str, dict[str, object], str]:
    """Return an exception as plain data: type, message, remedy and traceback.

    Exceptions of other libraries may not unpickle, or not have a text.
    """
    name, text = MethodError.__name__, printable(error)
    remedy: dict[str, object] = {}
    if not isinstance(error, XdregError) or isinstance(error, Interrupted):
        text = printable(f"{type(error).__name__}: {text}", LONGEST)
    else:
        kinds = (k for k in type(error).__mro__ if k.__module__ == errors.__name__)
        name = next(kinds).__name__
        if all(type(value) in _REMEDY for value in error.remedy.values()):
            text, remedy = error.message, dict(error.remedy)
    remote = "".join(traceback.format_exception(error))
    return name, text, remedy, printable(remote, LONGEST)


def restore(described: Sequence[Any], function: str) -> XdregError:
    """Return the exception that `describe` got from a function."""
    name, text, remedy, remote = described
    error: XdregError = getattr(errors, name)(text, **remedy)
    error.add_note(f"in an engine process, {function}:\n{remote}")
    return error


def write(
    fd: int,
    number: int,
    parts: Sequence[Any],
    running: Callable[[], bool] | None = None,
) -> None:
    """Write a message to a pipe.

    ``running`` states whether the reader runs; ``fd`` must not block then. A pipe stays
    open as long as any descendant of the reader has it.
    """
    lengths = struct.pack(f"<{len(parts)}Q", *(len(part) for part in parts))
    header = _HEADER.pack(_MARK, number, len(parts)) + lengths
    for part in (header, *parts, _MARK):
        rest = memoryview(part)
        while rest:
            try:
                rest = rest[os.write(fd, rest) :]
            except BlockingIOError:
                if running is None:
                    raise
                while not posix.wait_for_pipe(fd, _LOOK, write=True):
                    if not running():
                        raise BrokenPipeError from None


def read(
    fd: int, running: Callable[[], bool] | None = None
) -> tuple[int, list[bytearray]]:
    """Read the number and the parts of one message from a pipe.

    Raises EOFError if the other side is gone, by the pipe or by ``running``.
    """
    mark, number, count = _HEADER.unpack(_read_exactly(fd, _HEADER.size, running))
    if mark != _MARK:
        msg = f"expected a message, got {bytes(mark)!r}"
        raise Malformed(msg)
    try:
        lengths = struct.unpack(f"<{count}Q", _read_exactly(fd, 8 * count, running))
        parts = [_read_exactly(fd, length, running) for length in lengths]
    except (MemoryError, OverflowError, ValueError, struct.error) as error:
        raise Malformed(printable(error)) from error
    if not parts or _read_exactly(fd, len(_MARK), running) != _MARK:
        msg = "a message does not end where its header says"
        raise Malformed(msg)
    return number, parts


def _read_exactly(
    fd: int, length: int, running: Callable[[], bool] | None
) -> bytearray:
    # Not bytes: an array on the memory of a bytearray is writable.
    result = bytearray(length)
    rest = memoryview(result)
    with io.FileIO(fd, closefd=False) as pipe:
        while rest:
            if running is not None:
                while not posix.wait_for_pipe(fd, _LOOK):
                    # What it wrote before its end may have arrived meanwhile.
                    if not running() and not posix.wait_for_pipe(fd, 0):
                        raise EOFError
            received = pipe.readinto(rest)
            if not received:
                raise EOFError
            rest = rest[received:]
    return result
