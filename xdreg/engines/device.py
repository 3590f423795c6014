"""Turns at the GPU: one block at a time, whatever threads and processes share it."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from xdreg.errors import MethodError
from xdreg.numerics.devices import gpu_space
from xdreg.stores.posix import open_regular, try_lock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xdreg.numerics.arrays import ArraySpace

#: Seconds between looks at whether another process has ended its turn.
GLANCE = 0.01

_turn = threading.Lock()


def working_on(
    device: str,
) -> contextlib.AbstractContextManager[ArraySpace | None]:
    """Return a `turn` at a device, or a context of None for the CPU."""
    return contextlib.nullcontext() if device == "cpu" else turn()


@contextlib.contextmanager
def turn() -> Iterator[ArraySpace]:
    """Yield the array namespace of the GPU while nothing else works on it.

    Raises
    ------
    MethodError
        If the memory of the GPU is exhausted.
    """
    space = gpu_space()
    with _turn, _turn_of_processes(space.name):
        try:
            yield space
        except MemoryError as error:
            msg = f"the block takes more memory than the GPU has left: {error}"
            raise MethodError(msg, block_shape=...) from error
        finally:
            # Another process may have the next turn.
            space.free()


@contextlib.contextmanager
def _turn_of_processes(name: str) -> Iterator[None]:
    """Hold a lock on a file of this user; the system frees it if the process dies."""
    user = psutil.Process().username()
    file = re.sub(r"[^\w.-]", "_", f"xdreg-gpu-{user}-{name}")
    try:
        fd = open_regular(Path(tempfile.gettempdir(), file), os.O_RDWR | os.O_CREAT)
    except OSError:  # what is there is not ours: turns are for speed, not for results
        yield
        return
    try:
        while try_lock(fd) is False:
            time.sleep(GLANCE)
        yield
    finally:
        os.close(fd)
