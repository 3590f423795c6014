"""The check that a plan fits the memory of a run, and the blocks that would."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from dask.utils import format_bytes

from xdreg.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from xdreg.registration.plan import Plan

#: Blocks that are proposed have a multiple of so many voxels per axis.
_EVEN = 8


def check_memory(plan: Plan, in_blocks: Callable[[int], Plan]) -> None:
    """Raise if the memory is less than a plan takes with one block at a time.

    ``in_blocks`` returns the plan with blocks of at most so many voxels per axis.
    """
    memory = plan.resources.memory
    if memory is None or plan.blocks_at_once:
        return
    fits = None
    number, largest = max(enumerate(plan.stages), key=lambda s: s[1].memory)
    text = (
        f"memory={format_bytes(memory)!r} is less than the "
        f"{format_bytes(plan.peak_memory())} that this run takes with one block at "
        f"a time, most of it in stage {number} ({largest.options.name}, level "
        f"{largest.fixed_level})"
    )
    least = plan.peak_memory()
    shapes = range(max(largest.partition.block_shape) // _EVEN * _EVEN, 0, -_EVEN)
    with contextlib.suppress(InputError):  # blocks smaller than an overlap
        for shape in shapes:
            least = in_blocks(shape).peak_memory()
            if least <= memory:
                fits = shape
                break
    if fits is None:
        msg = f"{text}. No blocks are small enough; give at least"
        raise InputError(msg, memory=f"{-(-least // 10**6)} MB")
    own = getattr(largest.options, "block_shape", None) is not None
    msg = f"{text}. Blocks that fit{', given to that stage' * own}"
    raise InputError(msg, block_shape=fits)
