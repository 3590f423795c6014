"""What comes of a stage's blocks: some are rejected, and what failed is told."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

import numpy as np

from xdreg.errors import MethodError
from xdreg.partition import BlockStatus
from xdreg.registration import register_block as tasks
from xdreg.registration.agreement import outliers, tolerance
from xdreg.registration.blend_block import compare_block
from xdreg.registration.judge import RECORD
from xdreg.registration.mapping import TOGETHER, map_over_blocks
from xdreg.registration.workdir import read_json, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from xdreg.registration.register_block import BlockTask

_log = logging.getLogger(__name__)


def forget_unreadable(task: BlockTask, verdict: Path) -> None:
    """Forget what could not be read in a stage that was not finished.

    Parameters
    ----------
    task
        The stage's.
    verdict
        File of `reject_outliers`, which a finished stage has.
    """
    if verdict.exists():
        return
    for index in tasks.unreadable(task.errors):
        task.records.forget(index)
        name = ".".join(map(str, index))
        (task.errors / f"{name}.txt").unlink()


def tell_unreadable(records: NDArray[np.float32], stage: str, errors: Path) -> None:
    """Warn of blocks that could not be read.

    Parameters
    ----------
    records : (*counts, len(RECORD))
        Of all blocks.
    stage
        What to call the stage.
    errors
        Where the blocks' messages are.
    """
    status = records[..., 0]
    found = [
        tuple(map(int, index))
        for index in np.argwhere(status == BlockStatus.UNREADABLE)
    ]
    if not found:
        return
    first = errors / f"{'.'.join(map(str, found[0]))}.txt"
    text = first.read_text() if first.exists() else "no message was left"
    listed = ", ".join(map(str, found[:10])) + (" …" if len(found) > 10 else "")
    warnings.warn(
        f"{len(found)} of {status.size} blocks of {stage} could not be read: {listed}. "
        f"The first: {text.removeprefix(tasks.UNREADABLE).strip()}",
        stacklevel=6,
    )


def reject_outliers(
    records: NDArray[np.float32], task: BlockTask, verdict: Path
) -> NDArray[np.float32]:
    """Mark the blocks that their neighbours contradict.

    The verdict is stored before the records that it changes, so that a run which
    ends in between finds the same blocks again.

    Parameters
    ----------
    records : (*counts, len(RECORD))
        Of all blocks; changed in place, and where they are stored.
    task
        The stage's.
    verdict
        File to keep it in.

    Returns
    -------
    (*counts) float32
        By how much each block differs from its neighbours, physical units.
    """
    partition, most = task.partition, tolerance(task.partition)
    stored = read_json(verdict)
    if stored is None:
        for index in map(tuple, np.argwhere(records[..., 0] == BlockStatus.REJECTED)):
            # By an earlier verdict, which is gone: else it would have no patch.
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
        stored = {
            "rejected": np.argwhere(rejected).tolist(),
            "difference": difference.tolist(),
        }
        write_json(verdict, stored)
    for index in map(tuple, stored["rejected"]):
        records[index][RECORD.index("status")] = BlockStatus.REJECTED
        task.records[index] = records[index]
    return np.array(stored["difference"], np.float32)


def check_any(
    records: NDArray[np.float32], stage: str, errors: Path, *, last: bool
) -> None:
    """Stop where blocks failed in the method and none succeeded; else warn.

    Parameters
    ----------
    records, stage, errors
        As for `tell_unreadable`.
    last
        Whether no stage follows: a coarse one that has nothing to improve is none to
        worry about.

    Raises
    ------
    MethodError
        With what the first block said.
    """
    status = records[..., 0]
    failed = np.isin(status, (BlockStatus.CRASHED, BlockStatus.TIMEOUT))
    if (status == BlockStatus.SUCCESS).any():
        return
    if failed.any():
        first = next(iter(sorted(errors.glob("*.txt"))), None)
        text = first.read_text().strip() if first else "no message was left"
        # The last line but notes says what happened.
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
    warnings.warn(
        f"no block of {stage} contributes, they are {', '.join(found)}; the field "
        "is that of the stage before. Check the images' positions and masks",
        stacklevel=6,
    )
