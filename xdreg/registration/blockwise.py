"""One stage in blocks: map, agreement of neighbours, and blend or reduction."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING

import numpy as np

from xdreg.engines import processes
from xdreg.errors import MethodError, warn
from xdreg.fields.reader import FieldReader
from xdreg.numerics import kernels
from xdreg.partition import BlockStatus
from xdreg.registration.agreement import outliers, tolerance
from xdreg.registration.blend_block import blend_block, compare_block
from xdreg.registration.block_array import BlockArray
from xdreg.registration.judge import RECORD
from xdreg.registration.mapping import TOGETHER, map_over_blocks
from xdreg.registration.reductions import reduce_blocks
from xdreg.registration.register_block import (
    FAILED,
    UNREADABLE,
    BlockTask,
    give_up_block,
    register_block,
)
from xdreg.registration.state import State
from xdreg.registration.workdir import open_array, read_json, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from xdreg.registration.planned_stage import PlannedStage
    from xdreg.registration.state import Diagnostics, Shared

_log = logging.getLogger(__name__)


def run_blockwise(
    shared: Shared, number: int, stage: PlannedStage, state: State, *, last: bool
) -> tuple[State, Diagnostics]:
    """Run a stage in blocks, or what is missing of it.

    Parameters
    ----------
    shared
        What the stages of the run share.
    number
        Position of the stage.
    stage
        The stage.
    state
        The displacement before it.
    last
        Whether no stage follows.

    Returns
    -------
    state : State
        The displacement after it.
    diagnostics : dict
        By name, ``(*counts)``.
    """
    folder = shared.directory.stage(number)
    shared.directory.forget(number, shared.retry)
    task = _block_task(shared, folder, stage, state)
    if not (folder / "agreement.json").exists():
        _forget_unreadable(task)
    task.stopped.unlink(missing_ok=True)
    label = f"{number} {stage.options.name} level {stage.fixed_level}"
    stop = functools.partial(_stop, task, stage)
    with shared.lines.watch(label, stage.partition.size, task.records, stop):
        records = map_over_blocks(register_block, task, len(RECORD), give_up_block)
    name = f"stage {number} ({stage.options.name})"
    _warn_of_unreadable(records, name, task)
    difference = _reject_outliers(records, task, folder / "agreement.json")
    _check_any_succeeded(records, name, task, last=last)
    if stage.reduction is None:
        disagreement = map_over_blocks(
            blend_block, task.remembering(), 1, together=TOGETHER
        )[..., 0]
        state = State(FieldReader(task.field, stage.partition.field_grid), None)
    else:
        try:
            state, records, disagreement = _reduce(
                shared, stage, state, task, records, folder
            )
        except Exception as error:
            error.add_note(f"in the reduction of {name}")
            raise
    shared.directory.discard_patches(number)
    diagnostics = {name: records[..., i] for i, name in enumerate(RECORD)}
    diagnostics["disagreement"] = disagreement
    diagnostics["neighbour_difference"] = difference
    return state, diagnostics


def _block_task(
    shared: Shared, folder: Path, stage: PlannedStage, state: State
) -> BlockTask:
    """Return what the blocks of a stage share; make their arrays in its folder."""
    (folder / "errors").mkdir(parents=True, exist_ok=True)
    partition = stage.partition
    counts, ndim = partition.counts, partition.grid.ndim
    options = stage.block_options(shared.fixed, shared.moving)
    levels = stage.fixed_level, stage.moving_level
    return BlockTask(
        inputs=shared.inputs(*levels, state, whole=False),
        partition=partition,
        method=stage.isolated_method,
        options=options,
        safer=stage.safer_options(options),
        metric=stage.metric,
        patches=BlockArray(
            folder / "patches", counts, (ndim, *partition.patch_shape), 0
        ),
        records=BlockArray(folder / "records", counts, (len(RECORD),), np.nan),
        field=open_array(
            folder / "field",
            (ndim, *partition.field_grid.shape),
            (ndim, *partition.field_chunks),
            np.nan,
        ),
        disagreement=BlockArray(folder / "disagreement", counts, (), np.inf),
        errors=folder / "errors",
    )


def _stop(task: BlockTask, stage: PlannedStage) -> None:
    """Start no further block, and end those that run in processes."""
    task.stopped.touch()
    if stage.isolated:
        processes.shutdown()


def _reduce(
    shared: Shared,
    stage: PlannedStage,
    state: State,
    task: BlockTask,
    records: NDArray[np.float32],
    folder: Path,
) -> tuple[State, NDArray[np.float32], NDArray[np.float32]]:
    """Reduce the blocks to one transform, applied before the displacement so far.

    Returns
    -------
    state : State
        The displacement after the stage.
    records : (*counts, len(RECORD))
        With the blocks rejected that the transform was made without.
    residual : (*counts), physical units
        By how much the transform misses each block.
    """
    if not (records[..., 0] == BlockStatus.SUCCESS).any():
        return state, records, np.full(records.shape[:-1], np.nan, np.float32)
    found = reduce_blocks(task, records, stage.reduction, folder)
    records = records.copy()
    records[found.rejected, RECORD.index("status")] = BlockStatus.REJECTED
    if found.update.ndim == 2:
        state = state.preceded(found.update, shared.fixed.grid)
        return state, records, found.residual
    grid = task.partition.field_grid
    reach = np.abs(found.update).reshape(grid.ndim, -1).max(axis=1)
    before = state.reader.read_around(grid, reach)
    task.field[:] = kernels.compose_displacements(found.update, grid, *before)
    return State(FieldReader(task.field, grid), None), records, found.residual


def _forget_unreadable(task: BlockTask) -> None:
    """Forget the blocks that an earlier call could not read."""
    for index in task.unreadable():
        task.records.forget(index)
        task.message(index, UNREADABLE).unlink()


def _warn_of_unreadable(
    records: NDArray[np.float32], stage: str, task: BlockTask
) -> None:
    """Warn of blocks that could not be read.

    Parameters
    ----------
    records : (*counts, len(RECORD))
        Diagnostics of all blocks.
    stage
        Name of the stage.
    task
        What its blocks share.
    """
    status = records[..., 0]
    found = [
        tuple(map(int, index))
        for index in np.argwhere(status == BlockStatus.UNREADABLE)
    ]
    if not found:
        return
    message = task.message(found[0], UNREADABLE)
    text = message.read_text() if message.exists() else "no message was left"
    listed = ", ".join(map(str, found[:10])) + (" …" if len(found) > 10 else "")
    warn(
        f"{len(found)} of {status.size} blocks of {stage} could not be read: {listed}. "
        f"The first: {text.strip()}"
    )


def _reject_outliers(
    records: NDArray[np.float32], task: BlockTask, file: Path
) -> NDArray[np.float32]:
    """Mark the blocks that contradict their neighbours as rejected.

    The verdict is stored before the records that it changes, so that a run which is
    interrupted in between finds the same blocks again.

    Parameters
    ----------
    records : (*counts, len(RECORD))
        Diagnostics of all blocks; changed in place, and where they are stored.
    task
        What the blocks share.
    file
        Where the verdict is stored.

    Returns
    -------
    (*counts) float32
        Difference of each block from its neighbours, in voxels.
    """
    stored = read_json(file)
    if stored is None:
        stored = _verdict(records, task)
        write_json(file, stored)
    for index in map(tuple, stored["rejected"]):
        records[index][RECORD.index("status")] = BlockStatus.REJECTED
        task.records[index] = records[index]
    return np.array(stored["difference"], np.float32)


def _verdict(records: NDArray[np.float32], task: BlockTask) -> dict[str, list[object]]:
    """Return which blocks are rejected, and their differences, as JSON holds them."""
    partition, most = task.partition, tolerance(task.partition)
    for index in map(tuple, np.argwhere(records[..., 0] == BlockStatus.REJECTED)):
        # A block with a patch was rejected by an earlier verdict that is lost.
        if task.patches.read(index) is not None:
            records[index][0] = BlockStatus.SUCCESS
            task.records[index] = records[index]
    difference = np.full(partition.counts, np.nan, np.float32)
    rejected = np.zeros(partition.counts, bool)
    if most > 0:
        width = 3**partition.grid.ndim
        gaps = map_over_blocks(
            compare_block, task.remembering(), width, together=TOGETHER
        )
        status, before, after = (
            records[..., RECORD.index(name)]
            for name in ("status", "similarity_before", "similarity_after")
        )
        rejected, difference = outliers(status, gaps, after - before, most)
    return {
        "rejected": np.argwhere(rejected).tolist(),
        "difference": difference.tolist(),
    }


def _check_any_succeeded(
    records: NDArray[np.float32], stage: str, task: BlockTask, *, last: bool
) -> None:
    """Raise if methods failed and no block succeeded; warn if none contributes.

    A coarse stage that improves nothing is normal, so it is only logged.

    Raises
    ------
    MethodError
        With the message of the first block.
    """
    status = records[..., 0]
    failed = np.isin(status, (BlockStatus.CRASHED, BlockStatus.TIMEOUT))
    if (status == BlockStatus.SUCCESS).any():
        return
    if failed.any():
        first = min(task.errors.glob(f"*{FAILED}"), default=None)
        text = first.read_text().strip() if first else "no message was left"
        # The last line but notes states the error.
        lines = [v for v in text.splitlines() if not v.startswith("block ")]
        reason = lines[-1] if lines else text
        msg = (
            f"all {int(failed.sum())} blocks of {stage} failed; the first said: "
            f"{reason}"
        )
        error = MethodError(msg)
        error.add_note(text)
        raise error
    if not last and (status == BlockStatus.NOT_IMPROVED).all():
        _log.info("no block of %s improves on the stage before", stage)
        return
    found = sorted({BlockStatus(int(v)).meaning for v in status.ravel()})
    warn(
        f"no block of {stage} contributes, they are {', '.join(found)}; the field "
        "is that of the stage before. Check the images' positions and masks"
    )
