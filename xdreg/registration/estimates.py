"""What a stage costs before it runs: memory of a block, bytes read from the images.

The constants are measured: peaks of whole runs, over windows of several sizes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from xdreg.partition import MOVING_MARGIN

if TYPE_CHECKING:
    from xdreg.grid import Grid
    from xdreg.partition import Partition

_FLOAT = 4

#: Bytes that every chunk of the work directory carries more.
_CHECKSUM = 4

#: Bytes of a block's record and disagreement, with their checksums.
_DIAGNOSTICS = 64

#: Bytes of a process before any block runs: Python, libraries, kernels. Where it must
#: compile those first it takes up to 80 MB more.
PROCESS_BYTES = 350_000_000

#: Bytes that a block takes per voxel of its window, both images and engine included.
VOXEL_BYTES = 95

#: Times as much where several threads run blocks, for each keeps part of what it freed.
THREADED = 1.2

#: More, for descriptors of self-similarity.
DESCRIPTOR_BYTES = 90

#: Bytes of the process in which elastix registers one block.
ENGINE_PROCESS_BYTES = 900_000_000

#: Bytes of the process in which a user's method does, without what it imports.
METHOD_PROCESS_BYTES = 200_000_000


def block_memory(
    partition: Partition, metric: str, *, elastix: bool, isolated: bool
) -> int:
    """Return the peak memory of one block, in bytes, beside `PROCESS_BYTES`.

    Parameters
    ----------
    partition
        How the stage cuts the fixed image.
    metric
        What it compares by; of ``"auto"`` the larger.
    elastix
        Whether elastix registers, in a process of its own.
    isolated
        Whether the block has such a process, be it for elastix or a user's method.
    """
    voxels = math.prod(partition.window_shape)
    own = metric in ("mind", "auto") and not elastix
    per_voxel = VOXEL_BYTES + (DESCRIPTOR_BYTES if own else 0)
    process = ENGINE_PROCESS_BYTES if elastix else METHOD_PROCESS_BYTES
    return voxels * per_voxel + (process if isolated else 0)


def bytes_read(
    partition: Partition,
    fixed: np.dtype[Any],
    moving: np.dtype[Any],
    moving_grid: Grid,
) -> int:
    """Return what all blocks read of the two images, chunk rounding left out.

    Parameters
    ----------
    partition
        How the stage cuts the fixed image.
    fixed, moving
        Data types of the two images.
    moving_grid
        The moving image's level. Its windows are taken to lie inside it, undeformed.
    """
    ratio = math.prod(np.divide(partition.grid.spacing, moving_grid.spacing).tolist())
    own = _voxels(partition, 1)
    other = _voxels(partition, 1 + MOVING_MARGIN) * ratio
    return int(own * fixed.itemsize + other * moving.itemsize)


def patch_bytes(partition: Partition) -> int:
    """Return what the patches of a stage take in the work directory, in bytes."""
    count = math.prod(partition.counts)
    patch = math.prod(partition.patch_shape) * partition.grid.ndim * _FLOAT
    return count * (patch + _CHECKSUM)


def field_bytes(partition: Partition) -> int:
    """Return what a stage takes in the work directory beside its patches, in bytes."""
    # Chunks at the end are stored whole.
    chunks = math.prod(
        -(-size // chunk)
        for size, chunk in zip(
            partition.field_grid.shape, partition.field_chunks, strict=True
        )
    )
    chunk = math.prod(partition.field_chunks) * partition.grid.ndim * _FLOAT
    blocks = math.prod(partition.counts)
    return chunks * (chunk + _CHECKSUM) + blocks * _DIAGNOSTICS


def _voxels(partition: Partition, overlaps: int) -> int:
    """Return the voxels of all blocks with so many overlaps on every side."""
    count: int = math.prod(
        sum(
            min(start + block + overlaps * overlap, size)
            - max(start - overlaps * overlap, 0)
            for start in range(0, size, block)
        )
        for block, overlap, size in zip(
            partition.block_shape, partition.overlap, partition.grid.shape, strict=True
        )
    )
    return count
