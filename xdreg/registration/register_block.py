"""What runs on a worker: registering one block, blending one field chunk.

Functions here see arrays, readers and grids; they never build graphs. A block leaves
its patch in the work directory and returns diagnostics only, so no voxels cross the
scheduler.
"""

from __future__ import annotations

import socket
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xdreg.engines.result import MethodResult, as_displacement
from xdreg.errors import Interrupted, MethodTimeout, StoreError, UnreadableError
from xdreg.partition import MOVING_MARGIN, BlockStatus, Partition
from xdreg.registration.block_array import BlockArray, Remembering
from xdreg.registration.judge import RECORD, judge
from xdreg.registration.window import Inputs, Window, masked_image, read_window

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import zarr
    from numpy.typing import NDArray

    from xdreg.grid import Grid


#: What is tried once more with safer options, where the method has any.
TRIED_AGAIN = (
    BlockStatus.NOT_IMPROVED,
    BlockStatus.FOLDED,
    BlockStatus.REJECTED,
    BlockStatus.CRASHED,
)


#: What the message of a block begins with that could not be read.
UNREADABLE = "unreadable:"

#: A larger share of blocks that cannot be read stops the run: the store is away rather
#: than damaged, and the stage before would fill more than a quarter of the field.
MOST_UNREADABLE = 0.25


@dataclass(frozen=True)
class BlockTask:
    """All that the blocks of one stage need; the same for every block."""

    inputs: Inputs
    partition: Partition
    method: Callable[..., Any]
    options: Mapping[str, Any]
    safer: Mapping[str, Any] | None
    metric: str
    patches: BlockArray
    records: BlockArray
    field: zarr.Array[Any]
    disagreement: BlockArray
    errors: Path

    @property
    def stopped(self) -> Path:
        """A file that appears when no further block is to begin."""
        return self.errors.parent / "stopped"

    def __dask_tokenize__(self) -> object:
        """Identify by where results go: a work directory holds one run."""
        return ("xdreg.BlockTask", str(self.patches.path))

    def remembering(self) -> BlockTask:
        """Return the task for steps that read each block with all its neighbours."""
        return replace(
            self,
            patches=Remembering(self.patches),
            records=Remembering(self.records),
        )


def register_block(index: tuple[int, ...], task: BlockTask) -> NDArray[np.float32]:
    """Register one block, store its patch and then its record; return the record.

    A block whose record is stored already is not run again.
    """
    check_there(task)
    if task.stopped.exists():
        msg = "the run was stopped; the same call with the same workdir goes on"
        raise Interrupted(msg)
    stored = read_record(index, task)
    return _register(index, task)[0] if stored is None else stored


def read_record(index: tuple[int, ...], task: BlockTask) -> NDArray[np.float32] | None:
    """Return a block's record; None where it has none that is whole."""
    return task.records.read(index)


def read_patch(index: tuple[int, ...], task: BlockTask) -> NDArray[np.float32]:
    """Return the patch of a block that succeeded.

    One that is damaged, by a power cut for example, is made again.
    """
    patch = task.patches.read(index)
    if patch is not None:
        return patch
    record, patch = _register(index, task)
    if patch is None:
        status = BlockStatus(int(record[0])).meaning
        msg = (
            f"the patch of block {index} in {task.errors.parent} is damaged, and the "
            f"block is {status} now that it was run again; use another workdir"
        )
        raise StoreError(msg)
    return patch


def _register(
    index: tuple[int, ...], task: BlockTask
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Register one block and store it; return its record and, padded, its patch."""
    began = time.perf_counter()
    partition = task.partition
    record = dict.fromkeys(RECORD, np.nan)
    patch_slices = partition.patch(index)
    patch_grid = partition.field_grid.window(patch_slices)
    window = _read_block(index, task)
    padded = None
    if isinstance(window, BlockStatus):
        status = window
    else:
        status, patch, verdict = _attempts(window, patch_grid, task, index)
        record.update(verdict)
        if status is BlockStatus.SUCCESS:
            padded = np.zeros(task.patches.shape, np.float32)
            padded[(slice(None), *(slice(0, n) for n in patch_grid.shape))] = patch
            task.patches[index] = padded
    record["status"] = float(status)
    record["seconds"] = time.perf_counter() - began
    values = np.array([record[name] for name in RECORD], np.float32)
    task.records[index] = values
    return values, padded


def check_there(task: BlockTask) -> None:
    """Refuse to work where the run's directory is not, or is not any more.

    A host that does not see it, or lost the mount, would begin one of its own.
    """
    if not task.errors.is_dir():
        msg = (
            f"{task.errors.parent} is not there on {socket.gethostname()}: was a disk "
            "unmounted, or does this worker not see it? Once it is there, run the same "
            "again to go on; or name a directory that all workers see"
        )
        raise StoreError(msg, workdir=...)


def _read_block(index: tuple[int, ...], task: BlockTask) -> Window | BlockStatus:
    """Read what a block is registered on, or keep why that cannot be read."""
    partition = task.partition
    margin = [
        MOVING_MARGIN * o * s
        for o, s in zip(partition.overlap, partition.grid.spacing, strict=True)
    ]
    try:
        return read_window(task.inputs, partition.window(index), margin)
    except UnreadableError as error:
        name = ".".join(map(str, index))
        (task.errors / f"{name}.txt").write_text(f"{UNREADABLE} {error}")
        found = unreadable(task.errors)
        if len(found) > MOST_UNREADABLE * partition.size:
            msg = (
                f"{len(found)} of {partition.size} blocks cannot be read, more than "
                f"{MOST_UNREADABLE:.0%}, so the run stops; the blocks that are done "
                "stay in the work directory. Call again once the store answers. The "
                f"last one was block {index}: {error}"
            )
            raise StoreError(msg) from error
        return BlockStatus.UNREADABLE


def unreadable(errors: Path) -> list[tuple[int, ...]]:
    """Return the blocks whose message says that they could not be read, in order."""
    found = []
    for file in errors.glob("*.txt"):
        with file.open() as lines:
            if lines.read(len(UNREADABLE)) == UNREADABLE:
                found.append(tuple(int(part) for part in file.stem.split(".")))
    return sorted(found)


def _attempts(
    window: Window, patch_grid: Grid, task: BlockTask, index: tuple[int, ...]
) -> tuple[BlockStatus, NDArray[np.float32] | None, dict[str, float]]:
    """Run the method and judge it; if that fails once more, with safer options."""
    attempts = [task.options] + ([] if task.safer is None else [task.safer])
    for number, options in enumerate(attempts, start=1):
        patch: NDArray[np.float32] | None = None
        verdict: dict[str, float] = {}
        status, update, told = _run_method(window, task, options, index)
        if update is not None:
            status, patch, verdict = judge(window, update, patch_grid, task.metric)
        verdict |= told
        verdict["attempts"] = float(number)
        if status not in TRIED_AGAIN:
            break
    return status, patch, verdict


def _run_method(
    window: Window,
    task: BlockTask,
    options: Mapping[str, Any],
    index: tuple[int, ...],
) -> tuple[BlockStatus, NDArray[np.float32] | None, dict[str, float]]:
    """Return what a method found, and what it tells of how, by names in ``RECORD``."""
    fixed_values, moving_values = window.fixed, window.moving
    if window.others:
        fixed_values = np.stack([fixed_values, *(c.fixed for c in window.others)])
        moving_values = np.stack([moving_values, *(c.moving for c in window.others)])
    fixed = masked_image(fixed_values, window.fixed_mask, window.grid)
    moving = masked_image(moving_values, window.moving_mask, window.grid)
    try:
        result = MethodResult.of(task.method(fixed, moving, **options))
        update = as_displacement(result, window.grid)
    except Interrupted:
        raise
    except MethodTimeout as error:
        status, text = BlockStatus.TIMEOUT, str(error)
    except Exception as error:
        error.add_note(f"block {index}")
        status, text = BlockStatus.CRASHED, "".join(traceback.format_exception(error))
    else:
        return BlockStatus.SUCCESS, update, {"from_search": result.from_search}
    _keep_error(index, task, text)
    return status, None, {}


def _keep_error(index: tuple[int, ...], task: BlockTask, text: str) -> None:
    name = ".".join(map(str, index))
    (task.errors / f"{name}.txt").write_text(text)


def give_up_block(index: tuple[int, ...], task: BlockTask, text: str) -> None:
    """Record a block as crashed, unless it is done, with what is known of it."""
    if read_record(index, task) is not None:
        return
    _keep_error(index, task, text)
    record = np.full(len(RECORD), np.nan, np.float32)
    record[RECORD.index("status")] = BlockStatus.CRASHED
    task.records[index] = record
