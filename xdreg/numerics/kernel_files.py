"""Compiled kernels, and the files that keep their machine code between processes.

Numba's own files have two faults that give wrong numbers or end a process. An index
names the files of a function's signatures by number, so two processes that compile at
once can name one file for two signatures, and code then runs on arrays of another type
(numba issue 4807). And code is kept when a function of another file that it calls has
changed (issue 1833), as by an upgrade. Here a file is named by all that its code was
made of: the kernel, the kernels that it calls, its options, the types of its arguments,
the processor and the version of Numba. So no index is needed, and nothing is stale.
"""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import sys
import uuid
from functools import cached_property
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any

import numba
from numba.core import caching
from numba.core.dispatcher import Dispatcher

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

#: Bytes of a SHA-256 digest, with which a file begins.
_DIGEST = 32

#: Types of globals whose values Numba compiles into a kernel.
_CONSTANT = (bool, int, float, complex, str, tuple)


def kernel(
    *,
    fastmath: Collection[str] = (),
    error_model: str = "python",
    forceinline: bool = False,
) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that compiles a function without the GIL.

    Machine code is kept beside the module, or where ``NUMBA_CACHE_DIR`` says; where no
    folder can be written to, each process compiles for itself. The options are those
    of `numba.njit`. All are given to it: one that is left out a kernel takes over from
    the kernel that is compiled as it is first called, and the bits depend on that.

    A kernel with `fastmath` that others call needs `forceinline`. Else a process that
    compiles the caller has two copies of it, and uses another one than a process that
    loads the caller; each copy may be rounded in its own way.
    """
    options = {
        "fastmath": set(fastmath) or False,
        "error_model": error_model,
        "forceinline": forceinline,
    }

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher: Any = numba.njit(nogil=True, **options)(function)
        with contextlib.suppress(RuntimeError):  # where Numba finds no folder
            dispatcher._cache = _KernelCache(dispatcher)
        return dispatcher

    return decorate


def is_stored(dispatcher: Any) -> bool:
    """Return whether code of a kernel is kept for any types of its arguments."""
    cache = dispatcher._cache
    return isinstance(cache, _KernelCache) and cache.files.exist()


class _KernelCache(caching.FunctionCache):  # type: ignore[misc]
    """Numba's cache of a function, with files of its own."""

    def __init__(self, dispatcher: Any) -> None:
        super().__init__(dispatcher.py_func)
        self.files = self._cache_file = _Files(Path(self.cache_path), dispatcher)

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the code for a signature, if the folder can be written to."""
        with contextlib.suppress(OSError):
            super().save_overload(sig, data)


class _Files:
    """The files of one kernel in a folder, a file for each signature and processor."""

    def __init__(self, folder: Path, dispatcher: Any) -> None:
        function = dispatcher.py_func
        python = f"py{sys.version_info.major}{sys.version_info.minor}{sys.abiflags}"
        name = f"{function.__module__}.{function.__qualname__}".replace("<", "")
        self._prefix = f"{name.replace('>', '')}.{python}-"
        self._folder, self._dispatcher = folder, dispatcher

    def exist(self) -> bool:
        """Return whether there is a file of this code."""
        return any(self._folder.glob(f"{self._prefix}{self._source}-*.nbc"))

    def load(self, key: Any) -> Any:
        """Return what was saved, or None; a damaged file counts as none."""
        try:
            data = self._path(key).read_bytes()
        except OSError:
            return None
        digest, data = data[:_DIGEST], data[_DIGEST:]
        if hashlib.sha256(data).digest() != digest:
            return None
        return pickle.loads(data)

    def save(self, key: Any, compiled: Any) -> None:
        """Write a file at once, and remove those of other sources."""
        data = caching.dumps(compiled)
        path = self._path(key)
        part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:16]}")
        try:
            part.write_bytes(hashlib.sha256(data).digest() + data)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        for other in self._folder.glob(f"{self._prefix}*.nbc"):
            if not other.name.startswith(f"{self._prefix}{self._source}-"):
                other.unlink(missing_ok=True)

    def flush(self) -> None:
        """Remove the files of the kernel."""
        for file in self._folder.glob(f"{self._prefix}*.nbc"):
            file.unlink(missing_ok=True)

    def _path(self, key: Any) -> Path:
        """Return the file for types and processor, as Numba's `key` tells them."""
        return self._folder / f"{self._prefix}{self._source}-{_short(repr(key))}.nbc"

    @cached_property
    def _source(self) -> str:
        """A short hash of the kernel and all that it calls."""
        return _short("\n".join(_sources(self._dispatcher, set())))


def _short(text: str) -> str:
    text = f"{numba.__version__} {text}"
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _sources(dispatcher: Any, seen: set[Any]) -> Iterator[str]:
    """Yield what defines a kernel and, once, each kernel that it calls."""
    function = dispatcher.py_func
    seen.add(function)
    yield f"{function.__qualname__} {_options(dispatcher)}"
    for code in _codes(function.__code__):
        constants = [c for c in code.co_consts if not isinstance(c, CodeType)]
        yield f"{code.co_code.hex()} {constants} {code.co_names} {code.co_varnames}"
        for name in code.co_names:
            value = function.__globals__.get(name)
            if isinstance(value, Dispatcher):
                if value.py_func not in seen:
                    yield from _sources(value, seen)
            elif isinstance(value, _CONSTANT):
                yield f"{name} = {value!r}"


def _options(dispatcher: Any) -> list[Any]:
    options = sorted(dispatcher.targetoptions.items())
    return [(k, sorted(v) if isinstance(v, set) else v) for k, v in options]


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Yield the code of a function and of the functions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
