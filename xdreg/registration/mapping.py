"""The map over blocks: the only place where graphs of blocks are built.

A block is a number in a chunked array, mapped by `xarray.map_blocks`; no voxel passes
through the scheduler.
"""

from __future__ import annotations

import functools
import itertools
import pickle
import zlib
from types import FunctionType
from typing import TYPE_CHECKING, Any

import cloudpickle
import dask
import dask.array
import numpy as np
import xarray as xr
from dask.highlevelgraph import HighLevelGraph

from xdreg.graphs import MOST_TASKS, Opaque, shared

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask.typing import Key
    from numpy.typing import NDArray

    from xdreg.registration.register_block import BlockTask

    Graph = dict[Key, Any]
    BlockFunction = Callable[[tuple[int, ...], BlockTask], Any]


#: Blocks per axis that one task compares or blends, which takes milliseconds each.
TOGETHER = 2


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
        Called for a block that takes one worker of a cluster after the other down even
        when it runs alone, with what the scheduler says, before all others go on. After
        it ``function`` must return at once for that block. By default such a block ends
        the run.
    together
        Blocks per axis that one task runs at least: a task costs the scheduler, and
        xarray on the worker, several milliseconds.

    Returns
    -------
    (*counts, width) float32
    """
    partition = task.partition
    numbers = np.arange(partition.size).reshape(partition.counts)
    fewest = int(np.ceil((partition.size / MOST_TASKS) ** (1 / numbers.ndim)))
    together = max(together, fewest)
    # Of each attempt the tasks have other names: a scheduler remembers failures.
    attempts = itertools.count()
    run = functools.partial(_run, function, task, width)
    while True:
        try:
            return run(numbers, together, next(attempts))
        except Exception as error:
            suspects = _suspects(error, numbers, together)
            if give_up is None or not suspects:
                raise
            for number in suspects:
                # A worker that dies takes what waits there down with it.
                try:
                    run(np.full((1,) * numbers.ndim, number), 1, next(attempts))
                except Exception as again:
                    if not _killed_workers(again):
                        raise
                    index = np.unravel_index(number, partition.counts)
                    give_up(tuple(map(int, index)), task, str(again))


def _run(
    function: BlockFunction,
    task: BlockTask,
    width: int,
    numbers: NDArray[np.intp],
    together: int,
    attempt: int,
) -> NDArray[np.float32]:
    """Call a function for some blocks, ``together`` per axis in a task."""
    dims = tuple(f"block_{dim}" for dim in task.partition.grid.dims)
    blocks = xr.DataArray(dask.array.from_array(numbers, chunks=together), dims=dims)
    template = xr.DataArray(
        dask.array.empty(
            (*numbers.shape, width),
            dtype=np.float32,
            chunks=(together,) * len(dims) + (width,),
        ),
        dims=(*dims, "diagnostic"),
    )
    box = _boxed(shared(task, f"{function.__name__} {attempt}"))
    mapped = xr.map_blocks(
        _each,
        blocks,
        args=[xr.DataArray(box)],
        kwargs={"function": function},
        template=template,
    )
    chunks = _one_task_each(mapped.data, box, function.__name__)
    return np.asarray(chunks.compute(), np.float32)


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
    """Return the same array, each chunk of which is one task beside what all share.

    `xarray.map_blocks` makes five, and scheduler and workers hold kilobytes of each
    until the last block is done. They are called by ``name`` on a dashboard.
    """
    name = f"{name}-{dask.base.tokenize(mapped.name)}"
    graph, functions = _with_shared_functions(dict(mapped.__dask_graph__()), name)
    (boxed,) = dask.core.flatten(box.__dask_keys__())
    given = boxed, functions.key
    layer = {
        (name, *key[1:]): (_Chunk(_behind(key, graph, boxed), key, given), *given)
        for key in dask.core.flatten(mapped.__dask_keys__())
    }
    return dask.array.Array(
        HighLevelGraph.from_collections(name, layer, dependencies=[box, functions]),
        name,
        mapped.chunks,
        mapped.dtype,
    )


def _with_shared_functions(graph: Graph, name: str) -> tuple[Graph, Any]:
    """Return a graph that takes closures from a node, and the node.

    xarray's own function is one, which pickles to more than all else of a task.
    """
    calls = {k: task for k, task in graph.items() if isinstance(task, tuple) and task}
    heads = {task[0] for task in calls.values()}
    closures = [head for head in heads if isinstance(head, FunctionType)]
    node = dask.delayed(Opaque(closures, name), name=f"functions-{name}")
    lean = {
        key: (_call, node.key, closures.index(head), *arguments)
        for key, (head, *arguments) in calls.items()
        if head in closures
    }
    return graph | lean, node


def _call(functions: Opaque, number: int, *arguments: Any) -> Any:
    return functions.value[number](*arguments)


def _behind(key: Key, graph: Graph, given: Key) -> Graph:
    """Return what a graph does for a key, down to one whose value is given."""
    part, ahead = {}, {key}
    while ahead:
        step = ahead.pop()
        part[step] = graph[step]
        ahead |= dask.core.get_dependencies(graph, step) - part.keys() - {given}
    return part


class _Chunk:
    """A part of a graph as a function of the values that are given to it.

    Once pickled it stays so until it is called: a worker holds every task of a run
    till the last one is done.
    """

    def __init__(self, graph: Graph, key: Key, given: tuple[Key, ...]) -> None:
        self.graph, self.key, self.given = graph, key, given

    def __reduce__(self) -> tuple[Any, ...]:
        parts = self.graph, self.key, self.given
        return _PackedChunk, (zlib.compress(cloudpickle.dumps(parts), 1),)

    def __call__(self, *values: Any) -> Any:
        known = dict(zip(self.given, values, strict=True))
        return dask.get(self.graph | known, self.key)


class _PackedChunk:
    """A chunk, pickled and compressed."""

    def __init__(self, packed: bytes) -> None:
        self.packed = packed

    def __call__(self, *values: Any) -> Any:
        return _Chunk(*pickle.loads(zlib.decompress(self.packed)))(*values)


def _killed_workers(error: Exception) -> bool:
    return str(dask.utils.typename(type(error))).endswith(".KilledWorker")


def _suspects(error: Exception, numbers: NDArray[np.intp], together: int) -> list[int]:
    """Return the blocks of a task that a cluster gave up, having lost workers to it.

    None where what all blocks share took the workers down.
    """
    if not _killed_workers(error):
        return []
    # A block's key is a name and where the task stands in the array of blocks.
    key = error.args[0]
    if not isinstance(key, tuple) or len(key) <= numbers.ndim:
        return []
    place = key[1 : 1 + numbers.ndim]
    among = tuple(slice(i * together, (i + 1) * together) for i in place)
    return [int(number) for number in numbers[among].ravel()]


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
