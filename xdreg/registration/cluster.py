"""The cluster that blocks run on, if a client of Dask is active."""

from __future__ import annotations

import asyncio
from typing import Any

import dask

from xdreg.errors import InputError

#: Seconds to wait for an answer of the scheduler.
PATIENCE = 8.0


def active_client() -> Any:
    """Return the client of the cluster on which blocks will run; None without one."""
    try:
        get = dask.base.get_scheduler()
    except RuntimeError as error:  # asynchronous, and this is its own thread
        msg = (
            f"{error}. Call in another thread: await asyncio.to_thread(xdreg.register, "
            "fixed, moving)"
        )
        raise InputError(msg) from error
    client = getattr(get, "__self__", None)
    return client if hasattr(client, "nthreads") else None


def workers_of(client: Any) -> list[dict[str, Any]]:
    """Return what the scheduler of a client knows of its workers.

    Nothing if it does not answer.
    """
    # An asynchronous client's own methods would return coroutines here.
    asked = asyncio.run_coroutine_threadsafe(
        client.scheduler.identity(n_workers=-1), client.loop.asyncio_loop
    )
    try:
        workers = asked.result(PATIENCE)["workers"]
    except Exception:  # the run itself finds out what the matter is
        return []
    return [{"address": name, **worker} for name, worker in workers.items()]
