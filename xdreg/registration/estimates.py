"""Estimates of a stage's cost: memory of a block, bytes read and bytes stored.

The constants are measured peaks of whole runs, over windows of several sizes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from xdreg.partition import MOVING_MARGIN
from xdreg.registration.block_array import CHECKSUM_BYTES

if TYPE_CHECKING:
    from xdreg.grid import Grid
    from xdreg.partition import Partition

#: Bytes of a number of a displacement.
_FLOAT = 4

#: Bytes of a block's record and disagreement, with their checksums.
_DIAGNOSTICS = 72

#: Bytes of a worker of Dask between blocks: Python, libraries, kernels, and what it
#: remembers of its tasks. A new one holds 310 MB after its first block.
PROCESS_BYTES = 350_000_000

#: Additional bytes where kernels are to be compiled: the compiler stays.
COMPILER_BYTES = 100_000_000

#: Bytes of a block per voxel of its window, both images and engine included.
VOXEL_BYTES = 92

#: Additional bytes per voxel for self-similarity descriptors.
DESCRIPTOR_BYTES = 98

#: Bytes on a GPU per voxel of a block's window: before the finest level of a run, and
#: there, where the field is on every second voxel. Peaks of the engine's arrays, as
#: NumPy allocates them, and a fifth. CuPy and its kernels take about 0.5 GB more.
DEVICE_BYTES = {False: 200, True: 125}

#: Share of a GPU's memory that a block may take, and the size of the largest block by
#: default, which is limited by the memory of the host.
DEVICE_SHARE = 0.8
DEVICE_BLOCK = {2: 2048, 3: 256}

#: Default sizes of blocks on a GPU are multiples of this, in voxels.
DEVICE_STEP = 32

#: Factor where several threads run blocks: each keeps part of the memory it freed.
THREADED = 1.2

#: Bytes of the process in which elastix registers one block, without the images.
ENGINE_PROCESS_BYTES = 940_000_000

#: Bytes of the process in which a user's method runs, without the method's imports.
METHOD_PROCESS_BYTES = 200_000_000

#: Seconds of a core per voxel of a window, before the finest level and at it. Measured
#: from store to field on phantoms; what images hold, and cores, change it by a factor
#: of two.
VOXEL_SECONDS = {
    "lncc": (2.2e-6, 2.5e-6),
    "mind": (8e-6, 5e-6),
    "auto": (2.2e-6, 2.5e-6),
}

#: Seconds of a core per voxel of a linear stage, with its search of a pose.
LINEAR_SECONDS = 1.5e-5

#: Dask starts no task in a worker above the first share of its memory, and restarts a
#: worker above 0.95. The second leaves room for an estimate that is a little low.
PAUSED, MOST = 0.8, 0.9


def window_memory(partition: Partition, metric: str, *, elastix: bool) -> int:
    """Return the peak memory of one block in its worker, in bytes."""
    own = metric in ("mind", "auto") and not elastix
    per_voxel = VOXEL_BYTES + (DESCRIPTOR_BYTES if own else 0)
    return math.prod(partition.window_shape) * per_voxel


def own_process_memory(partition: Partition, *, elastix: bool, isolated: bool) -> int:
    """Return the peak memory of a block's own process, in bytes; 0 if it has none."""
    images = math.prod(partition.window_shape) * VOXEL_BYTES
    if elastix:
        return ENGINE_PROCESS_BYTES + images
    return METHOD_PROCESS_BYTES + images if isolated else 0


def block_memory(
    partition: Partition, metric: str, *, elastix: bool, isolated: bool
) -> int:
    """Return the peak memory of one block, in bytes, without `PROCESS_BYTES`.

    ``elastix`` and ``isolated`` state whether the engine is elastix, and whether the
    block has a process of its own.
    """
    window = window_memory(partition, metric, elastix=elastix)
    return window + own_process_memory(partition, elastix=elastix, isolated=isolated)


def device_memory(partition: Partition, *, finest: bool) -> int:
    """Return the peak memory of one block on a GPU, in bytes."""
    return math.prod(partition.window_shape) * DEVICE_BYTES[finest]


def largest_device_block(ndim: int, memory: int, overlap: int) -> int:
    """Return the size of the largest block by default, by the memory of a GPU."""
    window = (DEVICE_SHARE * memory / DEVICE_BYTES[False]) ** (1 / ndim)
    fits = int((window - 2 * overlap) // DEVICE_STEP) * DEVICE_STEP
    return min(max(fits, DEVICE_STEP), DEVICE_BLOCK[ndim])


def process_memory(blocks: float, *, compiles: bool) -> int:
    """Return the peak memory of a process that runs blocks, in bytes.

    ``blocks`` is the peak memory in it of the blocks that it runs at once. ``compiles``
    states whether kernels are to be compiled.
    """
    return round(PROCESS_BYTES + COMPILER_BYTES * compiles + blocks)


def worker_memory(blocks: float, *, compiles: bool) -> int:
    """Return the memory that a worker of Dask needs to finish, in bytes.

    The arguments are those of `process_memory`. Between blocks the worker must be below
    the share at which Dask gives it no more, and at its peak below that at which Dask
    restarts it.
    """
    idle = process_memory(0, compiles=compiles)
    return round(max(idle / PAUSED, (idle + blocks) / MOST))


def bytes_read(
    partition: Partition,
    fixed: np.dtype[Any],
    moving: np.dtype[Any],
    moving_grid: Grid,
) -> int:
    """Return the bytes that all blocks read from the two images.

    Notes
    -----
    Whole chunks are not counted, only windows. Windows of the moving image are assumed
    to be inside it and not deformed.
    """
    ratio = math.prod(np.divide(partition.grid.spacing, moving_grid.spacing).tolist())
    own = _voxels(partition, 1)
    other = _voxels(partition, 1 + MOVING_MARGIN) * ratio
    return int(own * fixed.itemsize + other * moving.itemsize)


def core_seconds(partition: Partition, metric: str, *, finest: bool) -> float:
    """Return the seconds of one core that local correlation takes for all blocks."""
    return _voxels(partition, 1) * VOXEL_SECONDS[metric][finest]


def patch_bytes(partition: Partition) -> int:
    """Return the size of a stage's patches in the work directory, in bytes."""
    patch = math.prod(partition.patch_shape) * partition.grid.ndim * _FLOAT
    return partition.size * (patch + CHECKSUM_BYTES)


def field_bytes(partition: Partition) -> int:
    """Return the size of a stage's field and diagnostics in the work directory."""
    # Chunks at the end are stored whole.
    axes = zip(partition.field_grid.shape, partition.field_chunks, strict=True)
    chunks = math.prod(-(-size // chunk) for size, chunk in axes)
    chunk = math.prod(partition.field_chunks) * partition.grid.ndim * _FLOAT
    return chunks * (chunk + CHECKSUM_BYTES) + partition.size * _DIAGNOSTICS


def _voxels(partition: Partition, overlaps: int) -> int:
    """Return the number of voxels of all blocks, with some overlaps on every side."""
    axes = zip(
        partition.grid.shape, partition.block_shape, partition.overlap, strict=True
    )
    return math.prod(_along(size, block, overlaps * o) for size, block, o in axes)


def _along(size: int, block: int, margin: int) -> int:
    """Return the summed length of all blocks with margins, clipped to an axis."""
    before = sum(margin - start for start in range(0, min(margin, size), block))
    last = max(size - block - margin, 0) // block * block
    after = sum(
        max(start + block + margin - size, 0) for start in range(last, size, block)
    )
    return -(-size // block) * (block + 2 * margin) - before - after
