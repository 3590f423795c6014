"""What a run may use of this machine: threads and memory."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask
from dask.system import CPU_COUNT

from xdreg.errors import InputError
from xdreg.registration.cluster import active_client
from xdreg.stages import checked_bytes

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Resources:
    """Threads, and bytes of memory, that a run may use of this machine.

    None stands for all threads, and for memory that is not looked at.
    """

    workers: int | None = None
    memory: int | None = None

    @classmethod
    def of(cls, workers: Any, memory: Any) -> Resources:
        """Return what a user gave, checked."""
        whole = isinstance(workers, int) and not isinstance(workers, bool)
        if workers is not None and not (whole and workers > 0):
            msg = f"workers must be a whole number above zero, got {workers!r}"
            raise InputError(msg)
        found = cls(workers, checked_bytes(memory, "memory"))
        found.check_scheduler()
        return found

    @property
    def threads(self) -> int:
        """The number of threads."""
        return int(self.workers or dask.config.get("num_workers", None) or CPU_COUNT)

    def check_scheduler(self) -> None:
        """Raise if blocks will run where these limits do not hold."""
        if self == ALL:
            return
        if active_client() is not None:
            where = (
                "the client's cluster, whose own workers have threads and a memory "
                "limit (threads_per_worker, memory_limit)"
            )
        elif dask.config.get("pool", None) is not None:
            where = "the pool of threads that is set in Dask"
        else:
            return
        msg = (
            "workers and memory are limits on this machine, and blocks run in "
            f"{where}; leave one out"
        )
        raise InputError(msg)

    def blocks_at_once(self, peak: Callable[[int], int]) -> int:
        """Return how many blocks may run at once, 0 if none fits.

        ``peak`` returns the memory of so many.
        """
        if self.memory is None:
            return self.threads
        counts = range(1, self.threads + 1)
        return bisect.bisect_right(counts, self.memory, key=peak)


#: No limits.
ALL = Resources()
