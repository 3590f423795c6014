"""Reductions other than the blend: one transform from the results of all blocks.

A reduction gets the results of all blocks of a stage, one at a time, and returns the
update that is applied before the field so far: a homogeneous matrix, an ITK transform
or a displacement.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from xdreg.engines.result import as_displacement
from xdreg.grid import checked_matrix
from xdreg.numerics import kernels
from xdreg.numerics.consensus import find_consensus, fit_linear
from xdreg.partition import BlockStatus
from xdreg.registration.judge import RECORD
from xdreg.registration.mapping import map_over_blocks
from xdreg.registration.register_block import read_patch
from xdreg.registration.workdir import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from xdreg.grid import Grid
    from xdreg.registration.register_block import BlockTask
    from xdreg.stages import Kind

    Reduction = Kind | Callable[[Iterator["BlockResult"]], Any]

#: Approximate number of points of a block's update to which its linear part is fitted.
POINTS = 4096

#: Blocks with a smaller residual than this, in voxels, always agree with the consensus.
TOLERANCE_VOXELS = 0.5

#: Least weight of a block in a consensus; the weight is its similarity.
LEAST_WEIGHT = 1e-3


@dataclass(frozen=True)
class BlockResult:
    """The result of one block.

    Parameters
    ----------
    index
        Index of the block along each axis.
    status
        A word such as ``"success"``; with any other there is no displacement.
    core
        Grid of the block's voxels, without overlap.
    image
        Grid of the whole fixed image, at the level of the stage.
    grid
        Grid of ``displacement``, which extends into the overlap.
    displacement : array (component, [z], y, x) or None, physical units
        The block's update on ``grid``, from fixed points to the points at which the
        field so far is evaluated.
    similarity
        Similarity of the images in the block after the update.
    """

    index: tuple[int, ...]
    status: str
    core: Grid
    image: Grid
    grid: Grid
    displacement: NDArray[np.float32] | None
    similarity: float

    def fit(self, kind: Kind) -> NDArray[np.float64]:
        """Return the linear part of the update, ``(ndim + 1, ndim + 1)``.

        NaN where the block has none.
        """
        if self.displacement is None:
            return np.full((self.grid.ndim + 1,) * 2, np.nan)
        steps = max(round((self.grid.size / POINTS) ** (1 / self.grid.ndim)), 1)
        part = (slice(None, None, steps),) * self.grid.ndim
        points = kernels.grid_points(self.grid).reshape(*self.grid.shape, -1)[part]
        moves = np.moveaxis(self.displacement, 0, -1)[part]
        points, moves = (v.reshape(-1, self.grid.ndim) for v in (points, moves))
        return fit_linear(points, points + moves, np.ones(len(points)), kind)


@dataclass(frozen=True)
class Reduced:
    """The update of a stage, and how the blocks agree with it.

    Parameters
    ----------
    update : (ndim + 1, ndim + 1) or (ndim, *field_grid.shape)
        A matrix, or a displacement on the stage's field grid.
    rejected : (*counts) bool
        Blocks that were left out because they disagree.
    residual : (*counts), physical units
        Distance between the update and each block's own, NaN where it is not known.
    """

    update: NDArray[Any]
    rejected: NDArray[np.bool_]
    residual: NDArray[np.float32]


def reduce_blocks(
    task: BlockTask, records: NDArray[np.float32], reduction: Reduction, folder: Path
) -> Reduced:
    """Reduce the blocks of a stage to one transform.

    ``reduction`` is the kind of linear transform for a consensus, which is stored in
    ``folder``, or a function of the results. ``records`` are ``(*counts, numbers)``.
    """
    if isinstance(reduction, str):
        return _consensus(task, records, reduction, folder / "consensus.json")
    counts = task.partition.counts
    none = np.zeros(counts, bool), np.full(counts, np.nan, np.float32)
    return Reduced(_as_update(reduction(results(task, records)), task), *none)


def results(task: BlockTask, records: NDArray[np.float32]) -> Iterator[BlockResult]:
    """Yield the result of every block, one at a time."""
    for index in np.ndindex(task.partition.counts):
        yield _result(index, task, records[index])


def corner_moves(index: tuple[int, ...], task: BlockTask) -> NDArray[np.float32]:
    """Return the displacements of a block's core corners; NaN if it has no update."""
    found = _result(index, task, task.records[index])
    corners = core_corners(found.core)
    matrix = found.fit("affine")
    moved = corners @ matrix[:-1, :-1].T + matrix[:-1, -1]
    return (moved - corners).astype(np.float32).ravel()


def core_corners(core: Grid) -> NDArray[np.float64]:
    """Return the outermost voxel centres of a core, ``(2 ** ndim, ndim)``."""
    ends = itertools.product(*((0, n - 1) for n in core.shape))
    return core.index_to_physical(list(ends))


def _result(
    index: tuple[int, ...], task: BlockTask, record: NDArray[np.float32]
) -> BlockResult:
    partition = task.partition
    status = BlockStatus(int(record[RECORD.index("status")]))
    grid = partition.field_grid.window(partition.patch(index))
    displacement = None
    if status is BlockStatus.SUCCESS:
        inside = (slice(None), *(slice(0, n) for n in grid.shape))
        displacement = read_patch(index, task)[inside]
    return BlockResult(
        index,
        status.meaning,
        partition.grid.window(partition.core(index)),
        partition.grid,
        grid,
        displacement,
        float(record[RECORD.index("similarity_after")]),
    )


def _consensus(
    task: BlockTask, records: NDArray[np.float32], kind: Kind, file: Path
) -> Reduced:
    """Return the stored consensus of the blocks, or find and store it."""
    partition = task.partition
    counts, ndim = partition.counts, partition.grid.ndim
    stored = read_json(file)
    if stored is None:
        moves = map_over_blocks(corner_moves, task, ndim * 2**ndim)
        cores = (partition.grid.window(partition.core(i)) for i in np.ndindex(counts))
        corners = np.stack([core_corners(core) for core in cores])
        weights = records[..., RECORD.index("similarity_after")].ravel()
        found = find_consensus(
            corners,
            corners + moves.reshape(corners.shape),
            np.maximum(np.nan_to_num(weights), LEAST_WEIGHT),
            kind=kind,
            tolerance=TOLERANCE_VOXELS * float(np.mean(partition.grid.spacing)),
        )
        known = np.isfinite(found.residual)
        stored = {
            "matrix": found.matrix.tolist(),
            "rejected": (known & ~found.agrees).tolist(),
            "residual": found.residual.tolist(),
        }
        write_json(file, stored)
    return Reduced(
        np.array(stored["matrix"]),
        np.array(stored["rejected"]).reshape(counts),
        np.array(stored["residual"], np.float32).reshape(counts),
    )


def _as_update(value: Any, task: BlockTask) -> NDArray[Any]:
    """Return the value of a user's reduction as a matrix or a displacement."""
    grid = task.partition.field_grid
    if isinstance(value, np.ndarray | list | tuple):
        return checked_matrix(value, grid.ndim, "the reduction's matrix")
    if hasattr(value, "IsLinear") and value.IsLinear():
        from xdreg.numerics.itk_transforms import check_transform, matrix_from_itk

        check_transform(value, grid.ndim, "the reduction's transform")
        matrix = matrix_from_itk(value)
        assert matrix is not None
        return matrix
    return as_displacement(value, grid)
