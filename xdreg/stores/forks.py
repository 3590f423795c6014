"""What a fork has of Dask from its parent, and cannot use.

Dask keeps its threads and its client for later. The threads are not there after a fork,
so what waits for them waits forever. Zarr, fsspec and numcodecs look after theirs.
"""

from __future__ import annotations

import threading

import dask
import dask.threaded

from xdreg.stores.posix import after_fork


def _start_anew() -> None:
    """Give this process threads of its own, also in place of the parent's cluster."""
    dask.threaded.default_pool = None
    dask.threaded.pools.clear()
    dask.threaded.pools_lock = threading.Lock()
    if dask.config.get("scheduler", None) == "dask.distributed":
        # Not by `dask.config.set`, whose lock a thread of the parent may have held.
        dask.config.config["scheduler"] = "threads"


after_fork(_start_anew)
