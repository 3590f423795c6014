"""The map over blocks: the only place where graphs of blocks are built.

A block is a number in a chunked array, mapped by `xarray.map_blocks`; no voxel passes
through the scheduler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask
import dask.array
import numpy as np
import xarray as xr

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from xdreg.tasks import BlockTask

    BlockFunction = Callable[[tuple[int, ...], BlockTask], Any]

#: Beyond so many blocks a task runs several: what the scheduler holds stays small. Each
#: block is still kept as it finishes.
MOST_TASKS = 10_000


class Opaque:
    """Hides a value from Dask, which would take dataclasses apart.

    Its token names the step, for `xarray.map_blocks` leaves the function out of its
    keys.
    """

    def __init__(self, value: Any, step: str) -> None:
        self.value, self.step = value, step

    def __dask_tokenize__(self) -> object:
        """Identify by step and content."""
        return ("xdreg.Opaque", self.step, dask.base.tokenize(self.value))


def map_over_blocks(
    function: BlockFunction, task: BlockTask, width: int, *, together: int = 1
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
    mapped = xr.map_blocks(
        _each,
        blocks,
        kwargs={"task": Opaque(task, function.__name__), "function": function},
        template=template,
    )
    return np.asarray(mapped.compute().values, np.float32)


def _each(numbers: xr.DataArray, task: Opaque, function: BlockFunction) -> xr.DataArray:
    """Run the blocks that a chunk of numbers names; name the block where one fails."""
    results = []
    for number in numbers.values.ravel():
        unravelled = np.unravel_index(int(number), task.value.partition.counts)
        index = tuple(int(i) for i in unravelled)
        try:
            results.append(function(index, task.value))
        except Exception as error:
            error.add_note(f"in {function.__name__}, block {index}")
            raise
    values = np.asarray(results, np.float32).reshape(*numbers.shape, -1)
    return xr.DataArray(values, dims=(*numbers.dims, "diagnostic"))
