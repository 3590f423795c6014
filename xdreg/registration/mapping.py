"""The map over blocks: the only place where graphs of blocks are built.

A block is a number in a chunked array, mapped by `xarray.map_blocks`. No voxel passes
through the scheduler.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any

import dask
import dask.array
import numpy as np
import xarray as xr

from xdreg.registration.workers import wait_for_rest
from xdreg.stores.graphs import shared

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from xdreg.registration.register_block import BlockTask

    BlockFunction = Callable[[tuple[int, ...], BlockTask], Any]

#: Largest number of tasks of a map. Beyond it a task runs several blocks, so that the
#: graph stays small: `xarray.map_blocks` makes five small tasks of each. Every block is
#: still stored when it ends.
MOST_TASKS = 1_000

#: The same where a block takes milliseconds, less than its task.
MOST_SHORT_TASKS = 50


def map_over_blocks(
    function: BlockFunction,
    task: BlockTask,
    width: int,
    give_up: Callable[[tuple[int, ...], BlockTask, str], None] | None = None,
    *,
    short: bool = False,
    resources: Mapping[str, int] | None = None,
) -> NDArray[np.float32]:
    """Call a function for every block, on the active scheduler.

    Parameters
    ----------
    function
        Module-level function of a block's index and ``task``, which returns ``width``
        numbers.
    give_up
        Called with the scheduler's message for a block that kills the workers of a
        cluster even when it runs alone. After it ``function`` must return at once for
        that block. By default such a block ends the run.
    short
        Whether a block takes milliseconds.
    resources
        What a worker of a cluster must have for a block, by name.

    Returns
    -------
    (*counts, width) float32
    """
    partition = task.partition
    most = MOST_SHORT_TASKS if short else MOST_TASKS
    numbers, per_task = np.arange(partition.size), -(-partition.size // most)
    attempts = itertools.count()
    run = functools.partial(_run, function, task, width, resources)
    while True:
        try:
            results = run(numbers, per_task, next(attempts))
        except Exception as error:
            suspects = _suspects(error, numbers, per_task)
            if give_up is None or not suspects:
                raise
            for number in suspects:
                # A worker that dies may have held other blocks: each is tried alone.
                try:
                    run(np.array([number]), 1, next(attempts))
                except Exception as again:
                    if not _killed_workers(again):
                        raise
                    give_up(_index(number, task), task, str(again))
        else:
            return results.reshape(*partition.counts, width)


def _run(
    function: BlockFunction,
    task: BlockTask,
    width: int,
    resources: Mapping[str, int] | None,
    numbers: NDArray[np.intp],
    per_task: int,
    attempt: int,
) -> NDArray[np.float32]:
    """Call a function for some blocks, ``per_task`` in each Dask task."""
    blocks = xr.DataArray(
        dask.array.from_array(numbers, chunks=per_task),
        dims="block",
        name=function.__name__,  # shown on a dashboard
    )
    template = xr.DataArray(
        dask.array.empty(
            (numbers.size, width), dtype=np.float32, chunks=(per_task, width)
        ),
        dims=("block", "diagnostic"),
    )
    # Each attempt has keys of its own: a scheduler remembers failures.
    node = shared(task, f"{function.__name__} {attempt}")
    mapped = xr.map_blocks(
        run_blocks,
        blocks,
        args=[_without_dims(node)],
        kwargs={"function": function},
        template=template,
    )
    # Annotations of the graph would not outlast its optimisation.
    needed = {"resources": dict(resources)} if resources else {}
    try:
        done = mapped.compute(num_workers=task.at_once, **needed)
        return np.asarray(done.values, np.float32)
    except Exception as error:
        if _killed_workers(error):
            wait_for_rest(mapped.data.name)
        raise


def _without_dims(node: Any) -> xr.DataArray:
    """Return a delayed value as an array without dims, which every task is given."""
    boxed = dask.delayed(_boxed, pure=True)(node)
    return xr.DataArray(dask.array.from_delayed(boxed, (), dtype=object))


def _boxed(value: Any) -> NDArray[Any]:
    box = np.empty((), object)
    box[()] = value
    return box


def run_blocks(
    numbers: xr.DataArray, boxed: xr.DataArray, function: BlockFunction
) -> xr.DataArray:
    """Run the blocks of one Dask task; a failure is noted with the block's index."""
    task: BlockTask = boxed.item()
    results = []
    for number in numbers.values:
        index = _index(number, task)
        try:
            results.append(function(index, task))
        except Exception as error:
            error.add_note(f"in {function.__name__}, block {index}")
            raise
    values = np.asarray(results, np.float32).reshape(numbers.size, -1)
    return xr.DataArray(values, dims=("block", "diagnostic"))


def _index(number: int, task: BlockTask) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(number), task.partition.counts))


def _killed_workers(error: Exception) -> bool:
    return str(dask.utils.typename(type(error))).endswith(".KilledWorker")


def _suspects(error: Exception, numbers: NDArray[np.intp], per_task: int) -> list[int]:
    """Return the blocks of the task that killed a cluster's workers.

    Returns no block where the value that all tasks share killed them.
    """
    if not _killed_workers(error):
        return []
    # The key of a task is a name and the position of its chunk of blocks.
    key = error.args[0]
    if not isinstance(key, tuple) or len(key) < 2:
        return []
    first = int(key[1]) * per_task
    return [int(number) for number in numbers[first : first + per_task]]
