"""The workers of a cluster: whether there are any, and whether they may work.

Dask gives a worker no task while its process takes more than a share of its memory
(``distributed.worker.memory.pause``). A run whose workers are all paused waits, and
nothing but the scheduler knows why.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

from dask.utils import format_bytes

from xdreg.errors import warn
from xdreg.registration.cluster import active_client, workers_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Seconds between looks at the workers. Two in a row that find all of them paused are
#: told to the user.
LOOK = 8.0

#: Seconds between looks at what they still run.
_GLANCE = 0.1


def check_workers() -> None:
    """Warn if the cluster has no workers; a new one may have none yet."""
    client = active_client()
    if client is not None and not client.nthreads():
        warn(
            "the cluster has no workers yet, and the run waits for them; see "
            "client.cluster, or close the client to run on this machine"
        )


@contextlib.contextmanager
def watched_workers(needed: Callable[[int], int]) -> Iterator[None]:
    """Warn, while the body runs, if it waits because all workers are paused.

    ``needed`` returns the memory that a worker of so many threads needs.
    """
    client = active_client()
    if client is None:
        yield
        return
    ended = threading.Event()

    def watch() -> None:
        paused = 0
        while not ended.wait(LOOK):
            workers = workers_of(client)
            paused = paused + 1 if workers and all(map(_is_stuck, workers)) else 0
            if paused == 2:
                warn(_report(workers, needed))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        # A scheduler that does not answer must not hold up the run's own error.
        thread.join(1)


def _is_stuck(worker: dict[str, Any]) -> bool:
    """Return whether a worker is paused and has finished what it had begun."""
    running = worker["metrics"].get("task_counts", {}).get("executing", 0)
    return worker["status"] == "paused" and not running


def _report(workers: list[dict[str, Any]], needed: Callable[[int], int]) -> str:
    first, others = workers[0], len(workers) - 1
    threads = first["nthreads"]
    return (
        f"the run waits: Dask has paused worker {first['address']}"
        + (f" and the other {others}" if others else "")
        + f", whose process takes {format_bytes(first['metrics']['memory'])} of its "
        f"memory_limit of {format_bytes(first['memory_limit'])}. This plan asks for "
        f"{format_bytes(needed(threads))} for its {threads} threads. Interrupt, and "
        "call again with workers of more memory or fewer threads, or a smaller "
        "block_shape; with a workdir, finished blocks are kept"
    )


def wait_for_rest(name: str) -> None:
    """Wait until workers have ended the running blocks of a map that failed.

    Dask forgets the tasks of the map, but those that have begun go on. One of them
    could kill the worker on which another block is tried alone.
    """
    client = active_client()
    if client is None or client.asynchronous:
        return
    while any(client.run(_runs, name, on_error="ignore").values()):
        time.sleep(_GLANCE)


def _runs(name: str, dask_worker: Any) -> bool:
    """Return whether a worker runs tasks of a map."""
    running = list(dask_worker.state.executing)
    return any(name in str(task.key) for task in running)
