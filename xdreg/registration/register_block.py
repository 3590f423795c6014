"""The registration of one block, on a worker.

Functions here work with arrays, readers and grids, and never build graphs. A block
stores its patch in the work directory and returns diagnostics only, so no voxel passes
through the scheduler.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
import traceback
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from xdreg.engines.result import MethodResult, as_displacement
from xdreg.errors import (
    LONGEST,
    Interrupted,
    MethodTimeout,
    StoreError,
    UnreadableError,
    printable,
)
from xdreg.partition import MOVING_MARGIN, BlockStatus, Partition
from xdreg.registration.block_array import BlockArray, Remembering
from xdreg.registration.judge import RECORD, judge
from xdreg.registration.seals import belongs, seals_of
from xdreg.registration.window import Inputs, Window, read_window
from xdreg.registration.workdir import DAMAGED
from xdreg.stores.checked_arrays import counting_chunks
from xdreg.stores.files import replace_file
from xdreg.stores.identity import damaged_chunk

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import zarr
    from numpy.typing import NDArray

    from xdreg.grid import Grid
    from xdreg.stages import RegistrationMethod

#: Statuses after which the method runs again with safer options, if it has any.
TRIED_AGAIN = (
    BlockStatus.NOT_IMPROVED,
    BlockStatus.FOLDED,
    BlockStatus.REJECTED,
    BlockStatus.CRASHED,
)

#: Suffixes of a block's message: why it failed, and why it could not be read.
FAILED, UNREADABLE = ".txt", ".unreadable"

#: A larger share of unreadable blocks stops the run: the store is not available rather
#: than damaged, and more than a quarter of the field would be that of the stage before.
MOST_UNREADABLE = 0.25


@dataclass(frozen=True)
class BlockTask:
    """What the blocks of one stage share.

    Parameters
    ----------
    inputs
        The images and the displacement so far.
    partition
        The blocks.
    method, options, safer
        The function that registers, its options, and those of a second attempt.
    metric
        The similarity to judge by.
    patches, records, disagreement
        Where each block stores its update, its diagnostics, and its disagreement with
        the blend.
    field
        Where the blended displacement is stored.
    errors
        Folder of the blocks' messages.
    at_once
        Most blocks at once, None for all that the scheduler runs.
    """

    inputs: Inputs
    partition: Partition
    method: RegistrationMethod
    options: Mapping[str, Any]
    safer: Mapping[str, Any] | None
    metric: str
    patches: BlockArray
    records: BlockArray
    field: zarr.Array[Any]
    disagreement: BlockArray
    errors: Path
    at_once: int | None = None

    @property
    def stage(self) -> str:
        """Name of the stage's folder."""
        return self.errors.parent.name

    @property
    def stopped(self) -> Path:
        """A file that exists when no further block is to start."""
        return self.errors.parent / "stopped"

    def __dask_tokenize__(self) -> object:
        """Identify by where results are stored, and since when."""
        records = self.records.path
        since = (records / "zarr.json").stat().st_mtime_ns
        return ("xdreg.BlockTask", str(records), since)

    def remembering(self) -> BlockTask:
        """Return the task for steps that read each block with all its neighbours."""
        return replace(
            self,
            patches=Remembering(self.patches),
            records=Remembering(self.records),
        )

    def message(self, index: tuple[int, ...], suffix: str) -> Path:
        """Return the file of a block's message."""
        return self.errors / f"{'.'.join(map(str, index))}{suffix}"

    def say(self, index: tuple[int, ...], suffix: str, text: str) -> None:
        """Write a block's message."""
        content = printable(text, LONGEST).encode()
        replace_file(self.message(index, suffix), content)

    def unreadable(self) -> list[tuple[int, ...]]:
        """Return the blocks that could not be read, in order."""
        found = []
        for file in self.errors.glob(f"*{UNREADABLE}"):
            # Other files may lie there.
            with contextlib.suppress(ValueError):
                found.append(tuple(map(int, file.stem.split("."))))
        return sorted(found)


def register_block(index: tuple[int, ...], task: BlockTask) -> NDArray[np.float32]:
    """Register one block, store its patch and then its record; return the record.

    A block whose record is stored already does not run again.
    """
    check_directory(task)
    if task.stopped.exists():
        msg = "the run was stopped; run the same again with the same workdir"
        raise Interrupted(msg)
    stored = task.records.read(index)
    if stored is None or not belongs(stored, task.stage, index, task.patches):
        return _register(index, task)[0]
    return stored


def read_patch(index: tuple[int, ...], task: BlockTask) -> NDArray[np.float32]:
    """Return the patch of a block that succeeded; register it again if damaged."""
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


def check_directory(task: BlockTask) -> None:
    """Raise if the run's directory does not exist.

    A host that does not see it, or lost the mount, would otherwise create its own.
    """
    if not task.errors.is_dir():
        msg = (
            f"{task.errors.parent} does not exist on {socket.gethostname()}: was a "
            "disk unmounted, or does this worker not see it? Once it exists, run the "
            "same again to go on; or name a directory that all workers see"
        )
        raise StoreError(msg, workdir=...)


def give_up_block(index: tuple[int, ...], task: BlockTask, text: str) -> None:
    """Record a block as crashed, with a message, unless it has a record."""
    if task.records.read(index) is not None:
        return
    task.say(index, FAILED, text)
    record = dict.fromkeys(RECORD, np.nan) | seals_of(task.stage, index, None)
    record["status"] = float(BlockStatus.CRASHED)
    task.records[index] = [record[name] for name in RECORD]


def _register(
    index: tuple[int, ...], task: BlockTask
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Register one block and store it; return its record and its padded patch."""
    began = time.perf_counter()
    partition = task.partition
    record = dict.fromkeys(RECORD, np.nan)
    patch_grid = partition.field_grid.window(partition.patch(index))
    with counting_chunks() as chunks:
        window = _read_block(index, task)
    record["missing_chunks"] = chunks.share
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
    record |= seals_of(task.stage, index, padded)
    record["status"] = float(status)
    record["seconds"] = time.perf_counter() - began
    values = np.array([record[name] for name in RECORD], np.float32)
    task.records[index] = values
    return values, padded


def _read_block(index: tuple[int, ...], task: BlockTask) -> Window | BlockStatus:
    """Read the window of a block, or return why there is nothing to register."""
    partition = task.partition
    margin = [
        MOVING_MARGIN * overlap * spacing
        for overlap, spacing in zip(
            partition.overlap, partition.grid.spacing, strict=True
        )
    ]
    try:
        return read_window(task.inputs, partition.window(index), margin)
    except UnreadableError as error:
        task.say(index, UNREADABLE, str(error))
        if error.chunk is not None:
            task.say(index, DAMAGED, json.dumps(damaged_chunk(error.chunk)))
        count = len(task.unreadable())
        if count > MOST_UNREADABLE * partition.size:
            msg = (
                f"{count} of {partition.size} blocks cannot be read, more than "
                f"{MOST_UNREADABLE:.0%}, so the run stops; the blocks that are done "
                "stay in the work directory. Call again once the store answers. The "
                f"last one was block {index}: {error}"
            )
            raise StoreError(msg) from error
        return BlockStatus.UNREADABLE


def _attempts(
    window: Window, patch_grid: Grid, task: BlockTask, index: tuple[int, ...]
) -> tuple[BlockStatus, NDArray[np.float32] | None, dict[str, float]]:
    """Run the method and judge its result; after a failure, with safer options."""
    attempts = [task.options] + ([] if task.safer is None else [task.safer])
    for number, options in enumerate(attempts, start=1):
        patch: NDArray[np.float32] | None = None
        verdict: dict[str, float] = {}
        status, update, reported = _run_method(window, task, options, index)
        if update is not None:
            status, patch, verdict = judge(window, update, patch_grid, task.metric)
        verdict |= reported
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
    """Return the method's update, and its own diagnostics by names in ``RECORD``."""
    fixed, moving = window.images()
    try:
        result = MethodResult.of(task.method(fixed, moving, **options))
        update = as_displacement(result, window.grid)
    except (Interrupted, KeyboardInterrupt):
        raise
    except MethodTimeout as error:
        status, text = BlockStatus.TIMEOUT, str(error)
    except BaseException as error:  # also SystemExit, of a method in this process
        text = "".join([*traceback.format_exception(error), f"block {index}"])
        status = BlockStatus.CRASHED
    else:
        return BlockStatus.SUCCESS, update, {"from_search": result.from_search}
    task.say(index, FAILED, text)
    return status, None, {}
