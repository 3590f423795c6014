"""Warm, replaceable engine processes for methods that hold the GIL or can crash.

`call` runs a function by its name in another process while the calling thread waits
without the GIL. One process serves one call at a time, so as many run as threads call.
A process that dies, or that is killed for taking too long, costs its own call only; the
next call starts another.

A module may define ``load()``: it runs once per process, before the module's first call
and outside its time limit.

The children are plain subprocesses, not `multiprocessing`'s: those re-import the user's
script, which then needs a main guard, and cannot start from Dask's daemonic workers.
A message is a count and lengths, a pickle (protocol 5), then the pickle's buffers.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import io
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xdreg.errors import InputError, MethodCrash, MethodError, MethodTimeout, XdregError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Seconds that a process may take to start and load a module: itk from a cold disk on a
#: busy machine took 20.
LOAD_LIMIT = 300.0

#: Bytes kept of what a process prints, to be shown should it crash.
TAIL_BYTES = 4096

#: Seconds that idle processes get to leave by themselves at `shutdown`.
_GRACE = 1.0

_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1",
}

# Moves the pipe away from fd 1 before any import, so that no print can reach it.
_BOOTSTRAP = (
    "import os; replies = os.dup(1); os.dup2(2, 1); "
    "from xdreg.processes import _serve; _serve(replies)"
)


def call(
    function: str, /, *args: Any, timeout: float | None = None, **kwargs: Any
) -> Any:
    """Run a function in a warm process and return its result.

    Parameters
    ----------
    function
        ``"module:function"``, importable in a fresh Python.
    *args, **kwargs
        Its arguments; they must pickle.
    timeout : float, second, optional
        How long the function may run, starting and loading excluded.

    Returns
    -------
    object
        What the function returned.

    Raises
    ------
    MethodCrash
        If the process died.
    MethodTimeout
        If the function ran longer than ``timeout``; its process is killed.
    MethodError
        If the function raised anything but an `XdregError`, which is raised as it is.

    Examples
    --------
    >>> call("math:hypot", 3, 4)
    5.0
    """
    if function.count(":") != 1:
        msg = f"name the function as 'module:function', got {function!r}"
        raise InputError(msg)
    request = _pack(("call", function, args, kwargs))
    pool = _pool
    process = pool.take()
    try:
        kind, value = process.run(request, function, timeout)
    except BaseException:
        # Also on KeyboardInterrupt: the reply to come belongs to nobody.
        process.stop()
        raise
    finally:
        pool.release(process)
    if kind == "error":
        error, remote = value
        error.add_note(f"in an engine process, {function}:\n{remote}")
        raise error
    return value


def prepare(count: int, module: str) -> None:
    """Start processes and let them load a module while the caller goes on.

    Parameters
    ----------
    count
        How many processes should be there, busy ones included.
    module
        What each idle one imports (and loads).
    """
    _pool.prepare(count, module)


def shutdown() -> None:
    """Stop every process; a later `call` starts new ones."""
    _pool.shutdown()


class _Process:
    """One child and the pipes to it."""

    def __init__(self) -> None:
        self.directory = tempfile.mkdtemp(prefix="xdreg-engine-")
        path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
        self.popen = subprocess.Popen(
            [sys.executable, "-c", _BOOTSTRAP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=self.directory,
            env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": path},
        )
        self.loaded: set[str] = set()
        self._unread = 0
        self._expired = False
        self._tail = b""
        self._drain = threading.Thread(target=self._keep_tail, daemon=True)
        self._drain.start()

    @property
    def alive(self) -> bool:
        """Whether the process can take another call."""
        return not self._expired and self.popen.poll() is None

    def preload(self, module: str) -> None:
        """Ask for a module; the answer is read before the next call's."""
        if module in self.loaded:
            return
        # A process that is dead already is found out, and replaced, when it is taken.
        with contextlib.suppress(OSError):
            _write(self.popen.stdin.fileno(), _pack(("load", module)))  # type: ignore[union-attr]
            self.loaded.add(module)
            self._unread += 1

    def run(
        self, request: Sequence[Any], function: str, timeout: float | None
    ) -> tuple[str, Any]:
        """Send a request and return the kind and value of its reply."""
        try:
            with self._limit(LOAD_LIMIT):
                _write(self.popen.stdin.fileno(), request)  # type: ignore[union-attr]
                while self._unread:
                    self._read()
                    self._unread -= 1
                kind, value = self._read()
            if kind == "loaded":
                self.loaded.add(function.split(":")[0])
                with self._limit(timeout):
                    kind, value = self._read()
        except (EOFError, OSError) as error:
            raise self._obituary(function, timeout) from error
        return kind, value

    def stop(self) -> None:
        """Kill the process, if need be, and clear up after it."""
        with contextlib.suppress(OSError):
            self.popen.kill()
        self.popen.wait()
        self._drain.join(timeout=_GRACE)
        self.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def close(self) -> None:
        """Close this end of the pipes; the process leaves when it is idle."""
        for pipe in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]

    def _read(self) -> tuple[str, Any]:
        reply: tuple[str, Any] = _read(self.popen.stdout.fileno())  # type: ignore[union-attr]
        return reply

    def _keep_tail(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while text := os.read(self.popen.stderr.fileno(), 65536):  # type: ignore[union-attr]
                self._tail = (self._tail + text)[-TAIL_BYTES:]

    @contextlib.contextmanager
    def _limit(self, seconds: float | None) -> Iterator[None]:
        if seconds is None:
            yield
            return
        timer = threading.Timer(seconds, self._expire)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _expire(self) -> None:
        self._expired = True
        self.popen.kill()

    def _obituary(self, function: str, timeout: float | None) -> MethodError:
        try:
            code = self.popen.wait(timeout=_GRACE)
        except subprocess.TimeoutExpired:
            # It closed its pipe and lives on.
            self.popen.kill()
            code = self.popen.wait()
        self._drain.join(timeout=_GRACE)
        if self._expired:
            limit = LOAD_LIMIT if timeout is None else timeout
            return MethodTimeout(
                f"{function} was stopped after {limit:g} s; allow more time, or give "
                "it a smaller image or fewer iterations"
            )
        tail = self._tail.decode(errors="replace").strip() or "nothing"
        return MethodCrash(
            f"{function} took its process down ({_cause(code)}); the last that the "
            f"process printed: {tail}"
        )


class _Pool:
    """The processes of this Python process, and which of them are idle."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: set[_Process] = set()
        self._idle: list[_Process] = []

    def take(self) -> _Process:
        """Return a process that no other thread uses."""
        dead = []
        try:
            with self._lock:
                # The last one in is the warmest.
                while self._idle:
                    process = self._idle.pop()
                    if process.alive:
                        return process
                    self._all.discard(process)
                    dead.append(process)
                return self._start()
        finally:
            for process in dead:
                process.stop()

    def release(self, process: _Process) -> None:
        """Take a process back."""
        with self._lock:
            # One that `shutdown` has removed meanwhile must not come back.
            if process in self._all and process.alive:
                self._idle.append(process)
                return
            self._all.discard(process)
        process.stop()

    def prepare(self, count: int, module: str) -> None:
        """Have ``count`` processes and let the idle ones load a module."""
        with self._lock:
            self._idle.extend(self._start() for _ in range(count - len(self._all)))
            for process in self._idle:
                process.preload(module)

    def shutdown(self) -> None:
        """Stop all processes, idle ones gently."""
        with self._lock:
            processes, self._all = self._all, set()
            idle, self._idle = self._idle, []
        for process in idle:
            process.popen.stdin.close()  # type: ignore[union-attr]
        for process in idle:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.popen.wait(timeout=_GRACE)
        for process in processes:
            process.stop()

    def forget(self) -> None:
        """Let go of processes that belong to the parent of this fork."""
        for process in self._all:
            process.close()

    def _start(self) -> _Process:
        process = _Process()
        self._all.add(process)
        return process


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def _pack(message: object) -> list[Any]:
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    parts = [body, *(buffer.raw() for buffer in buffers)]
    lengths = [len(part) for part in parts]
    return [struct.pack(f"<{len(parts) + 1}Q", len(parts), *lengths), *parts]


def _write(fd: int, parts: Sequence[Any]) -> None:
    for part in parts:
        rest = memoryview(part)
        while rest:
            rest = rest[os.write(fd, rest) :]


def _read(fd: int) -> Any:
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


def _serve(replies: int) -> None:
    """Answer requests on fd 0 until the parent closes it; the child's main loop."""
    # Ctrl-C reaches the whole terminal group; the parent decides what it means here.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    directory = Path.cwd()
    loaded: set[str] = set()
    try:
        while True:
            reply = _answer(_receive(requests), replies, loaded)
            _write(replies, reply)
    except (EOFError, BrokenPipeError):
        # The parent is gone or wants no more.
        shutil.rmtree(directory, ignore_errors=True)
        os._exit(0)


def _receive(requests: int) -> tuple[Any, ...] | Exception:
    try:
        request: tuple[Any, ...] = _read(requests)
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
            return _pack(("result", None))
        _, function, args, kwargs = request
        module, name = function.split(":")
        _load(module, loaded)
        target = getattr(sys.modules[module], name)
        _write(replies, _pack(("loaded", None)))
        return _pack(("result", target(*args, **kwargs)))
    except BrokenPipeError:
        raise
    except BaseException as error:
        return _pack(("error", (_portable(error), traceback.format_exc())))


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


def _forget_after_fork() -> None:
    global _pool
    _pool.forget()
    _pool = _Pool()


_pool = _Pool()
atexit.register(shutdown)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
