"""The map over blocks: the only place where graphs of blocks are built.

A block is a number in a chunked array, mapped by `xarray.map_blocks`; no voxel passes
through the scheduler.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import dask
import dask.array
import numpy as np
import xarray as xr
from dask.highlevelgraph import HighLevelGraph

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from xdreg.tasks import BlockTask

    Key = tuple[Any, ...]
    Graph = dict[Key, Any]
    BlockFunction = Callable[[tuple[int, ...], BlockTask], Any]

#: Beyond so many blocks a task runs several: what the scheduler holds stays small. Each
#: block is still kept as it finishes.
MOST_TASKS = 10_000


class _Opaque:
    """Hides a value from Dask, which would take dataclasses apart.

    Its token names the step, for `xarray.map_blocks` leaves the function out of its
    keys.
    """

    def __init__(self, value: Any, step: str) -> None:
        self.value, self.step = value, step

    def __dask_tokenize__(self) -> object:
        """Identify by step and content."""
        return ("xdreg.shared", self.step, dask.base.tokenize(self.value))


def shared(value: Any, step: str) -> Any:
    """Return a node of a graph, a `dask.delayed.Delayed`, that holds a value.

    All tasks that use it depend on the one node, so that a worker receives it once: it
    may hold whole images, where those are in memory.

    Parameters
    ----------
    value
        Anything that has a token and pickles.
    step
        What it is used for.
    """
    return dask.delayed(_value_of, pure=True)(_Opaque(value, step))


def _value_of(opaque: _Opaque) -> Any:
    return opaque.value


def has_workers() -> bool:
    """Tell whether the active scheduler has anyone to work; a cluster may not yet."""
    client = getattr(dask.base.get_scheduler(), "__self__", None)
    if client is None or not hasattr(client, "nthreads") or client.asynchronous:
        return True
    return bool(client.nthreads())


def map_over_blocks(
    function: BlockFunction,
    task: BlockTask,
    width: int,
    give_up: Callable[[tuple[int, ...], BlockTask, str], None] | None = None,
    *,
    together: int = 1,
) -> NDArray[np.float32]:
    """Call a function for every block, on the active scheduler.

    Parameters
    ----------
    function
        Module-level function of a block's index and ``task``, which returns numbers.
    task
        What the blocks share.
    width
        How many numbers.
    give_up
        Called for a block that took one worker of a cluster after the other down, with
        what the scheduler says, before all others go on. After it ``function`` must
        return at once for that block. By default such a block ends the run.
    together
        Blocks per axis that one task runs at least: a task costs the scheduler, and
        xarray on the worker, several milliseconds.

    Returns
    -------
    (*counts, width) float32
    """
    partition = task.partition
    dims = tuple(f"block_{dim}" for dim in partition.grid.dims)
    numbers = np.arange(partition.size).reshape(partition.counts)
    fewest = int(np.ceil((partition.size / MOST_TASKS) ** (1 / len(dims))))
    together = max(together, fewest)
    blocks = xr.DataArray(dask.array.from_array(numbers, chunks=together), dims=dims)
    template = xr.DataArray(
        dask.array.empty(
            (*partition.counts, width),
            dtype=np.float32,
            chunks=(together,) * len(dims) + (width,),
        ),
        dims=(*dims, "diagnostic"),
    )
    attempt = 0
    while True:
        box = _boxed(shared(task, f"{function.__name__} {attempt}"))
        mapped = xr.map_blocks(
            _each,
            blocks,
            args=[xr.DataArray(box)],
            kwargs={"function": function},
            template=template,
        )
        chunks = _one_task_each(mapped.data, box, function.__name__)
        try:
            return np.asarray(chunks.compute(), np.float32)
        except Exception as error:
            killers = _killers(error, partition.counts, together)
            if give_up is None or not killers:
                raise
            for index in killers:
                give_up(index, task, str(error))
        attempt += 1


def _boxed(node: Any) -> dask.array.Array:
    """Return a node's value as an array without dimensions, which xarray passes on."""
    box = dask.delayed(_box, pure=True)(node)
    return dask.array.from_delayed(box, (), dtype=object)


def _box(value: Any) -> NDArray[Any]:
    box = np.empty((), object)
    box[()] = value
    return box


def _one_task_each(
    mapped: dask.array.Array, box: dask.array.Array, name: str
) -> dask.array.Array:
    """Return the same array, each chunk of which is one task that depends on the box.

    `xarray.map_blocks` makes five, and scheduler and workers hold kilobytes of each
    until the last block is done. They are called by ``name`` on a dashboard.
    """
    graph = dict(mapped.__dask_graph__())
    (given,) = dask.core.flatten(box.__dask_keys__())
    name = f"{name}-{dask.base.tokenize(mapped.name)}"
    layer = {
        (name, *key[1:]): (_Chunk(_behind(key, graph, given), key, given), given)
        for key in dask.core.flatten(mapped.__dask_keys__())
    }
    return dask.array.Array(
        HighLevelGraph.from_collections(name, layer, dependencies=[box]),
        name,
        mapped.chunks,
        mapped.dtype,
    )


def _behind(key: Key, graph: Graph, given: Key) -> Graph:
    """Return what a graph does for a key, down to one whose value is given."""
    part, ahead = {}, {key}
    while ahead:
        step = ahead.pop()
        part[step] = graph[step]
        ahead |= dask.core.get_dependencies(graph, step) - part.keys() - {given}
    return part


class _Chunk:
    """A part of a graph as a function of the value that is given to it."""

    def __init__(self, graph: Graph, key: Key, given: Key) -> None:
        self.graph, self.key, self.given = graph, key, given

    def __call__(self, value: Any) -> Any:
        return dask.get(self.graph | {self.given: value}, self.key)


def _killers(
    error: Exception, counts: Sequence[int], together: int
) -> list[tuple[int, ...]]:
    """Return the blocks of a task that a cluster gave up, having lost workers to it."""
    if not dask.utils.typename(type(error)).endswith(".KilledWorker"):
        return []
    # A key is a name and where the task stands in the array of blocks.
    _, *place = error.args[0]
    ranges = [
        range(i * together, min((i + 1) * together, n))
        for i, n in zip(place, counts, strict=False)
    ]
    return list(itertools.product(*ranges))


def _each(
    numbers: xr.DataArray, boxed: xr.DataArray, function: BlockFunction
) -> xr.DataArray:
    """Run the blocks that a chunk of numbers names; name the block where one fails."""
    task: BlockTask = boxed.item()
    results = []
    for number in numbers.values.ravel():
        unravelled = np.unravel_index(int(number), task.partition.counts)
        index = tuple(int(i) for i in unravelled)
        try:
            results.append(function(index, task))
        except Exception as error:
            error.add_note(f"in {function.__name__}, block {index}")
            raise
    values = np.asarray(results, np.float32).reshape(*numbers.shape, -1)
    return xr.DataArray(values, dims=(*numbers.dims, "diagnostic"))
