"""Users' methods in engine processes, where a crash costs one block."""

from __future__ import annotations

import functools
import importlib
import io
import pickle
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import cloudpickle
import psutil
import xarray as xr

from xdreg.coordinates import coordinates, grid_of
from xdreg.engines import processes
from xdreg.engines.result import as_displacement
from xdreg.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


#: A process may hold this share of the machine's memory, unless a limit is given.
SHARE_OF_MACHINE = 0.8


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickler of functions of a script or notebook, and of modules by name.

    Cloudpickle would copy the module itk, which has a class of its own, and break it.
    """

    def reducer_override(self, obj: Any) -> Any:
        """Return how to pickle an object."""
        if isinstance(obj, ModuleType) and sys.modules.get(obj.__name__) is obj:
            return importlib.import_module, (obj.__name__,)
        return super().reducer_override(obj)


@dataclass(frozen=True)
class _Packed:
    """A pickled method, which unpickles as the method before its time limit starts."""

    pickled: bytes

    def __reduce__(self) -> Any:
        return _unpack, (self.pickled,)


@dataclass(frozen=True)
class Isolated:
    """A method that runs in an engine process, called like the method itself.

    ``packed`` is the method, pickled. The default memory limit is `SHARE_OF_MACHINE`.
    """

    packed: bytes
    timeout: float | None
    memory_limit: int | None

    @classmethod
    def of(
        cls, method: Callable[..., Any], timeout: float | None, memory_limit: int | None
    ) -> Isolated:
        """Pack a method.

        Raises
        ------
        InputError
            If it does not pickle.
        """
        stream = io.BytesIO()
        try:
            _Pickler(stream, protocol=5).dump(method)
        # What a method holds may raise anything.
        except Exception as error:
            name = getattr(method, "__qualname__", type(method).__qualname__)
            msg = (
                f"the method {name} cannot be sent to a process: {error}. Open files, "
                "locks and devices inside the method, or run it in the worker's threads"
            )
            raise InputError(msg, isolated=False) from error
        return cls(stream.getvalue(), timeout, memory_limit)

    def __call__(
        self, fixed: xr.DataArray, moving: xr.DataArray, **options: Any
    ) -> xr.DataArray:
        """Register two images on one grid; see `xdreg.Custom`."""
        grid = grid_of(fixed)
        limit = self.memory_limit
        if limit is None:
            limit = int(SHARE_OF_MACHINE * psutil.virtual_memory().total)
        values = processes.call(
            f"{__name__}:apply",
            _Packed(self.packed),
            fixed,
            moving,
            options,
            timeout=self.timeout,
            memory_limit=limit,
        )
        dims = ("component", *grid.dims)
        return xr.DataArray(values, dims=dims, coords=coordinates(grid))


def load() -> None:
    """Import what xarray imports with its first array, outside the time limit."""
    xr.DataArray([0.0])


def apply(
    method: Callable[..., Any],
    fixed: xr.DataArray,
    moving: xr.DataArray,
    options: dict[str, Any],
) -> NDArray[Any]:
    """Run a method and sample its result, as ITK transforms do not pickle."""
    return as_displacement(method(fixed, moving, **options), grid_of(fixed))


@functools.lru_cache(maxsize=8)
def _unpack(packed: bytes) -> Any:
    # Once per process: a method may cache what it loads, such as a network.
    return pickle.loads(packed)
