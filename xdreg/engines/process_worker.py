"""The inner side of an engine process: its main loop, and how it survives its methods.

Requests arrive on fd 0, replies leave by a pipe of their own; see `messages`. A third
pipe, the lifeline, carries nothing. It closes when the parent is gone.

A method may do to this process what it likes. What it changed is put back before the
next request, as far as that is possible without doubt. Otherwise the process ends, and
the next request has another.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from xdreg.engines.messages import Malformed, describe, pack, read, unpack, write
from xdreg.stores import posix

#: Exit code of a process that cannot reply, and of a fork that left its method.
_UNUSABLE = 70


class _Pipes:
    """The pipes of this process, which a method may close and its forks inherit."""

    def __init__(self, requests: int, replies: int) -> None:
        self._pid = os.getpid()
        self._requests, self._replies = requests, replies
        self._known = {fd: _identity(fd) for fd in (0, 1, 2, requests, replies)}
        posix.after_fork(self._leave_to_parent)

    def receive(self) -> tuple[int, list[bytearray]]:
        """Read a request."""
        return read(self._requests)

    def send(self, number: int, parts: list[Any]) -> None:
        """Write a reply; end this process if it cannot, or if it is a fork."""
        if os.getpid() != self._pid:
            # The method forked, and the child came back from it.
            os._exit(_UNUSABLE)
        if not self._has(self._replies):
            if self._has(2):
                os.write(2, b"the method closed descriptors that are not its own")
            os._exit(_UNUSABLE)
        write(self._replies, number, parts)

    @property
    def intact(self) -> bool:
        """Whether the pipes and the standard streams are open, and what they were."""
        return all(map(self._has, self._known))

    def _has(self, fd: int) -> bool:
        # Its number may be that of a file of the method now.
        return _identity(fd) == self._known[fd]

    def _leave_to_parent(self) -> None:
        """Close the pipes in a fork, so that the parent sees when this process ends.

        The fork ends at a signal, as that of any other process.
        """
        posix.heed_signals()
        for fd in (self._requests, self._replies):
            if self._has(fd):
                os.close(fd)


def _identity(fd: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino


class _Surroundings:
    """What methods change for all that follow in this process."""

    def __init__(self) -> None:
        self.directory = Path.cwd()
        self._streams: list[Any] = [sys.stdin, sys.stdout, sys.stderr]

    def restore(self) -> None:
        """Put back the directory, the streams and the handling of signals."""
        self.directory.mkdir(parents=True, exist_ok=True)
        os.chdir(self.directory)
        for fd, stream in enumerate(self._streams):
            if stream.closed:
                mode = "w" if fd else "r"
                self._streams[fd] = open(  # noqa: SIM115
                    fd, mode, closefd=False, errors="backslashreplace"
                )
        sys.stdin, sys.stdout, sys.stderr = self._streams
        faulthandler.cancel_dump_traceback_later()
        posix.leave_signals_to_parent()


def serve(replies: int, parent: int, lifeline: int | None) -> None:
    """Answer requests on fd 0 until the parent closes it: the child's main loop."""
    posix.end_with_parent(parent, lifeline)
    # This process costs one block, its parent the whole run.
    posix.die_before_parent()
    requests = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    pipes, surroundings = _Pipes(requests, replies), _Surroundings()
    loaded: set[str] = set()
    try:
        while pipes.intact:
            surroundings.restore()
            number, parts = pipes.receive()
            pipes.send(number, _answer(number, parts, pipes, loaded))
    except (EOFError, BrokenPipeError, Malformed):
        # The parent is gone or closed the pipe.
        shutil.rmtree(surroundings.directory, ignore_errors=True)
    os._exit(0)


def _answer(
    number: int, parts: list[bytearray], pipes: _Pipes, loaded: set[str]
) -> list[Any]:
    try:
        request = unpack(parts)
        if request[0] == "load":
            _load(request[1], loaded)
            return pack(("result", None))
        _, function, args, kwargs = request
        module, name = function.split(":")
        _load(module, loaded)
        target = getattr(sys.modules[module], name)
    except BaseException as error:
        return pack(("error", describe(error)))
    pipes.send(number, pack(("loaded", None)))
    try:
        return pack(("result", target(*args, **kwargs)))
    except BaseException as error:
        return pack(("error", describe(error)))


def _load(module: str, loaded: set[str]) -> None:
    if module in loaded:
        return
    load = getattr(importlib.import_module(module), "load", None)
    if callable(load) and load.__module__ == module:
        load()
    loaded.add(module)
