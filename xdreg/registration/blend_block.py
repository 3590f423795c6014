"""The reduction around one block, on a worker: the patches there are blended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xdreg.errors import StoreError
from xdreg.numerics import kernels
from xdreg.partition import BlockStatus, shared_part
from xdreg.registration.block_array import checksum_halves, intact, store_window
from xdreg.registration.register_block import BlockTask, check_directory, read_patch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def blend_block(index: tuple[int, ...], task: BlockTask) -> float:
    """Blend the patches around one block's core and store the field there.

    The weights of the patches sum to one everywhere. A block that failed counts as a
    zero update, so the field eases back to the stage before. The update is composed
    with the displacement so far. Returns the disagreement: root mean square difference,
    in physical units, of the block's own patch and the blended update where other
    blocks contribute; NaN without any.
    """
    check_directory(task)
    core = task.partition.field_core(index)
    done = _stored(index, task, core)
    if done is not None:
        return done
    grid = task.partition.field_grid.window(core)
    update, own = _blended(index, task, core)
    reach = np.abs(update).reshape(grid.ndim, -1).max(axis=1)
    before = task.inputs.before.read_around(grid, reach)
    total = kernels.compose_displacements(update, grid, *before)
    store_window(task.field, (slice(0, grid.ndim), *core), total)
    mixed = task.partition.weights(index, core) < 1
    result = float("nan")
    if own is not None and mixed.any():
        squares = ((own - update) ** 2).sum(axis=0)[mixed]
        result = float(np.sqrt(squares.mean()))
    task.disagreement[index] = (result, *checksum_halves(total))
    return result


def _stored(
    index: tuple[int, ...], task: BlockTask, core: Sequence[slice]
) -> float | None:
    """Return the disagreement of a block that is blended and stored already."""
    done = task.disagreement.read(index)
    if done is None:
        return None
    field = intact(task.field, (slice(None), *core))
    # At the end of an axis a core has two chunks; either may be missing.
    if field is None or checksum_halves(field) != tuple(done[1:].tolist()):
        return None
    return float(done[0])


def _blended(
    index: tuple[int, ...], task: BlockTask, core: Sequence[slice]
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Return the blended update on a core, and the block's own if it succeeded."""
    partition = task.partition
    grid = partition.field_grid.window(core)
    update = np.zeros((grid.ndim, *grid.shape), np.float32)
    own = None
    for other in partition.neighbours(index):
        status = float(task.records[other][0])
        if np.isnan(status):
            msg = (
                f"the record of block {other} is missing in {task.errors.parent}; run "
                "the same again, which does that block anew"
            )
            raise StoreError(msg)
        part = shared_part(core, partition.patch(other))
        if status != BlockStatus.SUCCESS or part is None:
            continue
        common, outer, inner = part
        patch = read_patch(other, task)[(slice(None), *inner)]
        update[(slice(None), *outer)] += partition.weights(other, common) * patch
        if other == index:
            own = np.zeros_like(update)
            own[(slice(None), *outer)] = patch
    return update, own
