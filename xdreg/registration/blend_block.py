"""Work on a block and its neighbours: comparison and blending of patches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xdreg.errors import StoreError
from xdreg.numerics import kernels
from xdreg.partition import BlockStatus, shared_part
from xdreg.registration.agreement import compare
from xdreg.registration.block_array import store_window
from xdreg.registration.register_block import BlockTask, check_there, read_patch
from xdreg.registration.workdir import intact

if TYPE_CHECKING:
    from numpy.typing import NDArray


def compare_block(index: tuple[int, ...], task: BlockTask) -> NDArray[np.float32]:
    """Compare a block with its neighbours, see `agreement.compare`."""
    return compare(
        index,
        task.partition,
        lambda block: float(task.records[block][0]),
        lambda block: read_patch(block, task),
    )


def blend_block(index: tuple[int, ...], task: BlockTask) -> float:
    """Blend the patches around one block's core and store the field there.

    Partition-of-unity weights; a block that failed counts as a zero update, so the
    field eases back to the stage before. The update is composed with the field so far.

    Returns
    -------
    float
        Disagreement: root mean square difference, in physical units, of the block's own
        patch and the blended update where other blocks contribute; NaN without any.
    """
    check_there(task)
    partition = task.partition
    core = partition.field_core(index)
    done = task.disagreement.read(index)
    if done is not None:
        stored = intact(task.field, (slice(None), *core))
        # At the end of an axis a core has two chunks; either may be missing.
        if stored is None or not np.isfinite(stored).all():
            done = None
    if done is not None:
        return float(done)
    grid = partition.field_grid.window(core)
    update = np.zeros((grid.ndim, *grid.shape), np.float32)
    own = np.zeros_like(update)
    succeeded = False
    for other in partition.neighbours(index):
        status = float(task.records[other][0])
        if np.isnan(status):
            msg = (
                f"the record of block {other} is gone from {task.errors.parent}; run "
                "the same again, which does that block anew"
            )
            raise StoreError(msg)
        if status != BlockStatus.SUCCESS:
            continue
        part = shared_part(core, partition.patch(other))
        if part is None:
            continue
        shared, outer, inner = part
        patch = read_patch(other, task)[(slice(None), *inner)]
        update[(slice(None), *outer)] += partition.weights(other, shared) * patch
        if other == index:
            own[(slice(None), *outer)] = patch
            succeeded = True
    reach = np.abs(update).reshape(grid.ndim, -1).max(axis=1)
    before, before_grid = task.inputs.before.read_around(grid, reach)
    total = kernels.compose_displacements(update, grid, before, before_grid)
    store_window(task.field, (slice(0, grid.ndim), *core), total)
    mixed = partition.weights(index, core) < 1
    result = float("nan")
    if succeeded and mixed.any():
        squares = ((own - update) ** 2).sum(axis=0)[mixed]
        result = float(np.sqrt(squares.mean()))
    task.disagreement[index] = result
    return result
