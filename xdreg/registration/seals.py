"""Numbers at the end of a record by which files in each other's place are noticed.

A file of another block or stage has a sound checksum. A record therefore holds a number
of its block and stage, and the two halves of the checksum of the block's patch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from xdreg.registration.block_array import BlockArray, checksum_halves

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Their names, in order.
SEALS = ("place", "patch_high", "patch_low")


def seals_of(
    stage: str, index: tuple[int, ...], patch: NDArray[np.float32] | None
) -> dict[str, float]:
    """Return the numbers of a block with a patch, or without one, by name."""
    place = checksum_halves(f"{stage} {index}".encode())[1]
    halves = (math.nan,) * 2 if patch is None else checksum_halves(patch)
    return dict(zip(SEALS, (place, *halves), strict=True))


def belongs(
    record: NDArray[np.float32],
    stage: str,
    index: tuple[int, ...],
    patches: BlockArray,
) -> bool:
    """Return whether a record and the patch, if it is there, are those of a block."""
    place, *halves = record[-len(SEALS) :].tolist()
    stored = patches.mark(index)
    return place == seals_of(stage, index, None)["place"] and (
        stored is None or math.isnan(halves[0]) or stored == tuple(halves)
    )
