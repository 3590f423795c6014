"""A user's method in engine processes, so that its crash costs a block and no more."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cloudpickle
import psutil
import xarray as xr

from xdreg import processes
from xdreg.coordinates import coordinates, grid_of
from xdreg.tasks import as_displacement

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


#: A process may hold this share of the machine's memory, unless a limit is given.
SHARE_OF_MACHINE = 0.8


@dataclass(frozen=True)
class Isolated:
    """A method that runs in an engine process; called like the method itself.

    Parameters
    ----------
    packed
        The method, pickled so that functions of a script or notebook travel, too.
    timeout
        Seconds that a block may take.
    memory_limit
        Bytes that its process may hold; None for most of the machine's.
    """

    packed: bytes
    timeout: float | None
    memory_limit: int | None

    @classmethod
    def of(
        cls,
        method: Callable[..., Any],
        timeout: float | None,
        memory_limit: int | None,
    ) -> Isolated:
        """Pack a method."""
        return cls(cloudpickle.dumps(method), timeout, memory_limit)

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
            self.packed,
            fixed,
            moving,
            options,
            timeout=self.timeout,
            memory_limit=limit,
        )
        dims = ("component", *grid.dims)
        return xr.DataArray(values, dims=dims, coords=coordinates(grid))


def apply(
    packed: bytes, fixed: xr.DataArray, moving: xr.DataArray, options: dict[str, Any]
) -> NDArray[Any]:
    """Run a packed method; in the process, for an ITK transform does not pickle."""
    method = _unpacked.get(packed)
    if method is None:
        method = _unpacked[packed] = pickle.loads(packed)
    return as_displacement(method(fixed, moving, **options), grid_of(fixed))


# A method may keep what it loads, a network for example, from one block to the next.
_unpacked: dict[bytes, Any] = {}
