"""One stage in blocks: map, agreement of neighbours, and blend or reduction."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from xdreg.engines import processes
from xdreg.fields.reader import FieldReader
from xdreg.numerics import kernels
from xdreg.partition import BlockStatus
from xdreg.registration.blend_block import blend_block
from xdreg.registration.block_array import BlockArray, check_chunks, open_array
from xdreg.registration.devices import block_resources
from xdreg.registration.judge import RECORD
from xdreg.registration.landmark_start import constrained
from xdreg.registration.mapping import map_over_blocks
from xdreg.registration.outcome import (
    check_any_succeeded,
    forget_blocks,
    forget_unreadable,
    reject_outliers,
    warn_of_missing,
    warn_of_unreadable,
)
from xdreg.registration.reductions import reduce_blocks
from xdreg.registration.register_block import (
    BlockTask,
    give_up_block,
    register_block,
)
from xdreg.registration.state import State
from xdreg.stores.checked_arrays import checked

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from xdreg.registration.planned_stage import PlannedStage
    from xdreg.registration.state import Diagnostics, Shared


def run_blockwise(
    shared: Shared, number: int, stage: PlannedStage, state: State, *, last: bool
) -> tuple[State, Diagnostics]:
    """Run a stage in blocks, or what is missing of it.

    Returns the displacement after it and the diagnostics of its blocks by name, each
    ``(*counts)``. ``last`` states whether no stage follows.
    """
    folder = shared.directory.stage(number)
    forget_blocks(shared.directory, number, stage.partition, shared.retry)
    state, more = constrained(stage, shared, state)
    task = _block_task(shared, folder, stage, state, more)
    if not (folder / "agreement.json").exists():
        forget_unreadable(task)
    task.stopped.unlink(missing_ok=True)
    label = f"{number} {stage.options.name} level {stage.fixed_level}"
    stop = functools.partial(_stop, task, stage)
    with shared.lines.watch(label, stage.partition.size, task.records, stop):
        needed = block_resources(task.options.get("device", "cpu"))
        records = map_over_blocks(
            register_block, task, len(RECORD), give_up_block, resources=needed
        )
    name = f"stage {number} ({stage.options.name})"
    warn_of_unreadable(records, name, task)
    warn_of_missing(records, name)
    difference = reject_outliers(records, task, folder / "agreement.json")
    check_any_succeeded(records, name, task, last=last)
    if stage.reduction is None:
        disagreement = map_over_blocks(blend_block, task.remembering(), 1, short=True)[
            ..., 0
        ]
        state = State(
            FieldReader(checked(task.field), stage.partition.field_grid), None
        )
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
    shared: Shared,
    folder: Path,
    stage: PlannedStage,
    state: State,
    more: dict[str, Any],
) -> BlockTask:
    """Return what the blocks of a stage share; make their arrays in its folder.

    ``more`` are further options of the method.
    """
    (folder / "errors").mkdir(parents=True, exist_ok=True)
    partition = stage.partition
    counts, ndim = partition.counts, partition.grid.ndim
    threads = shared.threads_of_one(partition.size)
    options = stage.block_options(shared.fixed, shared.moving, threads) | more
    levels = stage.fixed_level, stage.moving_level
    field = open_array(
        folder / "field",
        (ndim, *partition.field_grid.shape),
        (ndim, *partition.field_chunks),
        np.nan,
    )
    check_chunks(folder / "field")
    inputs = shared.inputs(*levels, state, whole=False)
    return BlockTask(
        inputs=replace(inputs, device=options.get("device", "cpu")),
        partition=partition,
        method=stage.isolated_method,
        options=options,
        safer=stage.safer_options(options),
        metric=stage.metric,
        patches=BlockArray(
            folder / "patches", counts, (ndim, *partition.patch_shape), 0
        ),
        records=BlockArray(folder / "records", counts, (len(RECORD),), np.nan),
        field=field,
        disagreement=BlockArray(folder / "disagreement", counts, (3,), np.inf),
        errors=folder / "errors",
        at_once=shared.at_once,
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

    Returns the displacement after the stage, the records with the blocks rejected that
    the transform was made without, and by how much the transform misses each block, in
    physical units.
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
    return State(FieldReader(checked(task.field), grid), None), records, found.residual
