"""Outlier rejection and failure reports for the blocks of a stage."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

import numpy as np

from xdreg.errors import MethodError, warn
from xdreg.partition import BlockStatus
from xdreg.registration.agreement import compare, outliers, tolerance
from xdreg.registration.block_array import BlockArray
from xdreg.registration.judge import RECORD
from xdreg.registration.mapping import map_over_blocks
from xdreg.registration.register_block import (
    FAILED,
    UNREADABLE,
    BlockTask,
    read_patch,
)
from xdreg.registration.workdir import DAMAGED, read_json, write_json
from xdreg.stores.files import read_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from xdreg.partition import Partition
    from xdreg.registration.workdir import WorkDirectory

#: A larger mean share of missing chunks causes a warning.
MOST_MISSING = 0.5

#: Longest message of a block that is shown, in bytes.
MOST_BYTES_OF_MESSAGE = 100_000

_log = logging.getLogger(__name__)


def forget_blocks(
    directory: WorkDirectory,
    number: int,
    partition: Partition,
    statuses: Sequence[BlockStatus],
) -> None:
    """Remove a stage's blocks of some statuses, and all that depends on them.

    Dependent files are removed first, so that a call interrupted here finds the blocks
    again.
    """
    folder = directory.stage(number)
    if not statuses or not (folder / "records").is_dir():
        return
    records = BlockArray(folder / "records", partition.counts, (len(RECORD),), np.nan)
    chosen = [index for index in records.done() if records[index][0] in statuses]
    if not chosen:
        return
    directory.forget_after(number)
    for index in chosen:
        name = ".".join(map(str, index))
        for suffix in (FAILED, UNREADABLE, DAMAGED):
            (folder / "errors" / f"{name}{suffix}").unlink(missing_ok=True)
        records.forget(index)


def forget_unreadable(task: BlockTask) -> None:
    """Forget the blocks that an earlier call could not read."""
    for index in task.unreadable():
        task.records.forget(index)
        task.message(index, UNREADABLE).unlink(missing_ok=True)


def warn_of_unreadable(
    records: NDArray[np.float32], stage: str, task: BlockTask
) -> None:
    """Warn of blocks whose ``records (*counts, …)`` say that they were unreadable."""
    status = records[..., 0]
    found = [
        tuple(map(int, index))
        for index in np.argwhere(status == BlockStatus.UNREADABLE)
    ]
    if not found:
        return
    text = _message(task.message(found[0], UNREADABLE))
    listed = ", ".join(map(str, found[:10])) + (" …" if len(found) > 10 else "")
    warn(
        f"{len(found)} of {status.size} blocks of {stage} could not be read: {listed}. "
        f"The first: {text}"
    )


def warn_of_missing(records: NDArray[np.float32], stage: str) -> None:
    """Warn if most of the chunks that blocks read are missing in their stores."""
    shares = records[..., RECORD.index("missing_chunks")]
    if not np.isfinite(shares).any() or np.nanmean(shares) <= MOST_MISSING:
        return
    warn(
        f"{np.nanmean(shares):.0%} of the chunks that {stage} read are missing in "
        "their stores, and hold the fill value; are both images complete?"
    )


def _message(file: Path | None) -> str:
    """Return what a block left in a file."""
    with contextlib.suppress(FileNotFoundError):
        if file is not None:
            stored = read_file(file, MOST_BYTES_OF_MESSAGE)
            return stored.decode(errors="backslashreplace").strip()
    return "no message was left"


def reject_outliers(
    records: NDArray[np.float32], task: BlockTask, file: Path
) -> NDArray[np.float32]:
    """Mark the blocks that contradict their neighbours as rejected.

    ``records (*counts, len(RECORD))`` are changed in place and where they are stored.
    The verdict is stored in ``file`` before them, so that a run which is interrupted in
    between finds the same blocks again. Returns the difference of each block from its
    neighbours, ``(*counts)`` float32, in voxels.
    """
    stored = read_json(file)
    if stored is None:
        stored = _verdict(records, task)
        write_json(file, stored)
    for index in map(tuple, stored["rejected"]):
        records[index][RECORD.index("status")] = BlockStatus.REJECTED
        task.records[index] = records[index]
    return np.array(stored["difference"], np.float32)


def compare_block(index: tuple[int, ...], task: BlockTask) -> NDArray[np.float32]:
    """Compare a block with its neighbours, see `agreement.compare`."""
    return compare(
        index,
        task.partition,
        lambda block: float(task.records[block][0]),
        lambda block: read_patch(block, task),
    )


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
        gaps = map_over_blocks(compare_block, task.remembering(), width, short=True)
        status, before, after = (
            records[..., RECORD.index(name)]
            for name in ("status", "similarity_before", "similarity_after")
        )
        rejected, difference = outliers(status, gaps, after - before, most)
    return {
        "rejected": np.argwhere(rejected).tolist(),
        "difference": difference.tolist(),
    }


def check_any_succeeded(
    records: NDArray[np.float32], stage: str, task: BlockTask, *, last: bool
) -> None:
    """Raise `MethodError` if methods failed and no block succeeded; else warn of that.

    A coarse stage that improves nothing is normal, so it is only logged.
    """
    status = records[..., 0]
    failed = np.isin(status, (BlockStatus.CRASHED, BlockStatus.TIMEOUT))
    if (status == BlockStatus.SUCCESS).any():
        return
    if failed.any():
        first = min(task.errors.glob(f"*{FAILED}"), default=None)
        text = _message(first)
        # The last line but notes states the error.
        lines = [
            v for v in text.splitlines() if v.strip() and not v.startswith("block ")
        ]
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
