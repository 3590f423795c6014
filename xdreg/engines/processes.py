"""Warm, replaceable engine processes for methods that hold the GIL or can crash.

`call` runs a function by its name in another process while the calling thread waits
without the GIL. A process serves one call at a time, so there is one process per
calling thread. A process that dies, or that is killed at its time or memory limit,
costs its own call only. The next call starts another. A process that served other calls
before may die of what they left behind, for example a thread, so its call runs once
more in a new process. Processes end with the process that started them, even if that
one is killed, and with them the children of a method.

A module may define ``load()``. It runs once per process, before the module's first call
and outside the time limit.

The children are plain subprocesses, not those of `multiprocessing`, which re-import the
user's script, so that it needs a main guard, and which Dask's daemonic workers may not
start. They run `xdreg.engines.process_worker`.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from dask.utils import format_bytes

from xdreg.engines.messages import (
    Malformed,
    pack,
    read,
    restore,
    unpack_reply,
    write,
)
from xdreg.errors import (
    InputError,
    Interrupted,
    MethodCrash,
    MethodTimeout,
    printable,
)
from xdreg.stores import posix
from xdreg.stores.locks import temporary_directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Seconds that a process may take to start and load a module. Loading itk from a cold
#: disk on a busy machine took 20.
LOAD_LIMIT = 300.0

#: Bytes of a process's output that the message of a crash shows.
TAIL_BYTES = 4096

#: Seconds between checks of the memory of a process that has a limit. A process fills a
#: few GB/s, so it exceeds its limit by a few hundred MB at most.
_LOOK = 0.05

#: Seconds that idle processes get to exit at `shutdown`.
_GRACE = 1.0

_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1",
}

# Moves the pipe away from fd 1 before any import, so that no print reaches it.
_BOOTSTRAP = (
    "import os; replies = os.dup(1); os.dup2(2, 1); "
    "from xdreg.engines.process_worker import serve; "
    "serve(replies, {parent}, {lifeline})"
)


def call(
    function: str,
    /,
    *args: Any,
    timeout: float | None = None,
    memory_limit: int | None = None,
    **kwargs: Any,
) -> Any:
    """Run a function in a warm process and return its result.

    ``function`` is ``"module:function"``, importable in a fresh Python. Arguments must
    pickle. Limits are in seconds, without starting and loading, and in bytes.

    Raises
    ------
    MethodCrash
        If the process died, or was killed for exceeding ``memory_limit``.
    MethodTimeout
        If the function ran longer than ``timeout``. Its process is killed.
    MethodError
        If the function raised anything but an `XdregError`, which is passed on.
    Interrupted
        If `shutdown` stopped the process, which says nothing about the function.
    """
    if function.count(":") != 1:
        msg = f"name the function as 'module:function', got {function!r}"
        raise InputError(msg)
    request = pack(("call", function, args, kwargs))
    pool, process = _pool, _pool.take()
    while True:
        try:
            kind, value = process.run(request, function, timeout, memory_limit)
            break
        except BaseException as error:
            # Also on KeyboardInterrupt: no later call may read the pending reply.
            process.stop()
            if not (process.perhaps_harmed and isinstance(error, MethodCrash)):
                raise
        finally:
            pool.release(process)
        process = pool.take(new=True)
    if kind == "error":
        raise restore(value, function)
    return value


def prepare(count: int, module: str) -> None:
    """Start processes up to ``count``; make the idle ones load a module meanwhile."""
    _pool.prepare(count, module)


def shutdown() -> None:
    """Stop all processes; a later `call` starts new ones."""
    _pool.shutdown()


class _Process:
    """One child and the pipes to it."""

    def __init__(self) -> None:
        self.directory = temporary_directory("engine-")
        path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
        theirs, self._lifeline = posix.make_lifeline()
        start = _BOOTSTRAP.format(parent=os.getpid(), lifeline=theirs)
        # Typed for its pipes, which are there.
        self.popen: Any = subprocess.Popen(
            [sys.executable, "-c", start],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=self.directory,
            env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": path},
            pass_fds=() if theirs is None else (theirs,),
            **posix.IN_OWN_GROUP,
        )
        if theirs is not None:
            os.close(theirs)
        requests: Any = self.popen.stdin
        posix.unblock(requests.fileno())
        self.loaded: set[str] = set()
        #: Whether the process died by itself after it had served other calls.
        self.perhaps_harmed = False
        self._calls = 0
        self._numbers = itertools.count(1)
        # Requests whose replies were not read.
        self._unread: list[int] = []
        # Why this side killed the process, if it did so.
        self._verdict: Exception | None = None
        self._tail = b""
        self._drain = threading.Thread(target=self._keep_tail, daemon=True)
        self._drain.start()

    @property
    def alive(self) -> bool:
        """Whether the process can take another call."""
        if self._verdict is not None or not self._runs():
            return False
        # Nothing may be in the pipe but replies that are expected.
        return bool(self._unread) or not posix.wait_for_pipe(
            self.popen.stdout.fileno(), 0
        )

    def preload(self, module: str) -> None:
        """Request a module; the reply is read before that of the next call."""
        if module in self.loaded:
            return
        # A dead process is replaced when it is taken.
        with contextlib.suppress(OSError):
            self._unread.append(self._send(pack(("load", module))))
            self.loaded.add(module)

    def run(
        self,
        request: Sequence[Any],
        function: str,
        timeout: float | None,
        memory_limit: int | None,
    ) -> tuple[str, Any]:
        """Send a request and return the kind and value of its reply."""
        self._calls += 1
        try:
            with self._limits(function, LOAD_LIMIT, None):
                number = self._send(request)
                while self._unread:
                    self._receive(self._unread.pop(0))
                kind, value = self._receive(number)
            if kind == "loaded":
                self.loaded.add(function.split(":")[0])
                with self._limits(function, timeout, memory_limit):
                    kind, value = self._receive(number)
        except (EOFError, OSError, Malformed) as error:
            raise self._failure(function, error) from error
        return kind, value

    def _send(self, request: Sequence[Any]) -> int:
        """Send a request and return its number."""
        number = next(self._numbers)
        write(self.popen.stdin.fileno(), number, request, self._runs)
        return number

    def _receive(self, number: int) -> tuple[str, Any]:
        """Return the kind and value of the reply to a request."""
        found, parts = read(self.popen.stdout.fileno(), self._runs)
        if found != number:
            msg = f"expected the reply to request {number}, got that to {found}"
            raise Malformed(msg)
        return unpack_reply(parts)

    def _runs(self) -> bool:
        return self.popen.poll() is None

    def interrupt(self) -> None:
        """Kill the process; a call in progress raises `Interrupted`."""
        self._verdict = Interrupted("the engine processes were shut down")
        self._kill()
        self.popen.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def stop(self) -> None:
        """Kill the process and remove its directory."""
        self._kill()
        self.popen.wait()
        self._drain.join(timeout=_GRACE)
        self.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def close(self) -> None:
        """Close this end of the pipes; the process exits when it is idle."""
        for pipe in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            with contextlib.suppress(OSError):
                pipe.close()
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None

    def _kill(self) -> None:
        """Kill the process, and the children that methods left with it."""
        if self._runs():
            posix.kill_group(self.popen)

    def _keep_tail(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while text := os.read(self.popen.stderr.fileno(), 65536):
                self._tail = (self._tail + text)[-TAIL_BYTES:]

    @contextlib.contextmanager
    def _limits(
        self, function: str, seconds: float | None, memory: int | None
    ) -> Iterator[None]:
        """Kill the process if the body exceeds a time or memory limit."""
        if seconds is None and memory is None:
            yield
            return
        ended = threading.Event()
        guard = threading.Thread(
            target=self._guard, args=(ended, function, seconds, memory), daemon=True
        )
        guard.start()
        try:
            yield
        finally:
            ended.set()
            guard.join()

    def _guard(
        self,
        ended: threading.Event,
        function: str,
        seconds: float | None,
        memory: int | None,
    ) -> None:
        deadline = None if seconds is None else time.monotonic() + seconds
        while self._verdict is None:
            if deadline is not None and time.monotonic() >= deadline:
                self._verdict = MethodTimeout(
                    f"{function} was stopped after {seconds:g} s; allow more time, or "
                    "give it a smaller image or fewer iterations"
                )
            elif memory is not None and self._memory() > memory:
                self._verdict = MethodCrash(
                    f"{function} was stopped for taking more than its memory limit of "
                    f"{format_bytes(memory)}; give it smaller blocks, or raise "
                    "memory_limit"
                )
            else:
                left = None if deadline is None else max(deadline - time.monotonic(), 0)
                if memory is not None:
                    left = _LOOK if left is None else min(_LOOK, left)
                if ended.wait(left):
                    return
        self._kill()

    def _memory(self) -> int:
        try:
            return int(psutil.Process(self.popen.pid).memory_info().rss)
        except psutil.Error:  # It is gone, and the pipe closes.
            return 0

    def _failure(self, function: str, error: Exception) -> Exception:
        """Return why a call got no reply; end the process."""
        cause = None
        if isinstance(error, Malformed) and self._verdict is None:
            cause = f"what it sent is not a reply: {error}"
            self._kill()
        try:
            code = self.popen.wait(timeout=_GRACE)
        except subprocess.TimeoutExpired:
            # It closed its pipe but still runs.
            self._kill()
            code = self.popen.wait()
        # Children that the method left.
        posix.kill_group(self.popen)
        self._drain.join(timeout=_GRACE)
        if self._verdict is not None:
            return self._verdict
        by_itself = cause is not None or code != posix.KILLED
        self.perhaps_harmed = self._calls > 1 and by_itself
        if cause is None:
            cause = posix.describe_exit(code)
            if code == posix.KILLED:
                # If this process is about to be killed too, it must not blame the
                # block.
                time.sleep(_GRACE)
                cause += ", perhaps for lack of memory"
        tail = printable(self._tail.decode(errors="backslashreplace").strip())
        return MethodCrash(
            f"{function} took its process down ({cause}); the last that the "
            f"process printed: {tail or 'nothing'}"
        )


class _Pool:
    """The processes of this Python process, and which of them are idle."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: set[_Process] = set()
        self._idle: list[_Process] = []

    def take(self, *, new: bool = False) -> _Process:
        """Return an idle process, or a new one."""
        dead = []
        try:
            with self._lock:
                # The process released last is the warmest.
                while self._idle and not new:
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
        """Return a process to the pool."""
        with self._lock:
            # `shutdown` may have removed it meanwhile.
            if process in self._all and process.alive:
                self._idle.append(process)
                return
            self._all.discard(process)
        process.stop()

    def prepare(self, count: int, module: str) -> None:
        """Start processes up to ``count``; make the idle ones load a module."""
        with self._lock:
            self._idle.extend(self._start() for _ in range(count - len(self._all)))
            for process in self._idle:
                process.preload(module)

    def shutdown(self) -> None:
        """Stop all processes; let idle ones exit by themselves."""
        with self._lock:
            processes, self._all = self._all, set()
            idle, self._idle = self._idle, []
        for process in idle:
            process.popen.stdin.close()
        for process in idle:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.popen.wait(timeout=_GRACE)
        for process in idle:
            process.stop()
        # The threads that wait for these close their pipes.
        for process in processes - set(idle):
            process.interrupt()

    def forget(self) -> None:
        """Close the pipes to processes of the parent of this fork."""
        for process in self._all:
            process.close()

    def _start(self) -> _Process:
        process = _Process()
        self._all.add(process)
        return process


def _forget_after_fork() -> None:
    global _pool
    _pool.forget()
    _pool = _Pool()


_pool = _Pool()
atexit.register(shutdown)
posix.after_fork(_forget_after_fork)
