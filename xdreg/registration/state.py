"""The state of a run between two stages, and all that its stages share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xdreg.fields.displacement import in_units, open_displacement
from xdreg.fields.reader import FieldReader, PrecededField
from xdreg.numerics import kernels
from xdreg.registration.window import Inputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xdreg.grid import Grid
    from xdreg.partition import BlockStatus
    from xdreg.registration.plan import Plan
    from xdreg.registration.progress import StageProgress
    from xdreg.registration.source import Source
    from xdreg.registration.workdir import WorkDirectory

    #: Diagnostics of a stage by name, each ``(*counts)`` float32.
    Diagnostics = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class State:
    """The displacement so far.

    Parameters
    ----------
    reader
        Reads it.
    matrix : (ndim + 1, ndim + 1) or None
        The same as a homogeneous matrix, as long as it is linear.
    """

    reader: FieldReader
    matrix: NDArray[np.float64] | None

    @classmethod
    def linear(cls, matrix: NDArray[np.float64], grid: Grid) -> State:
        """Return the state of a linear transform; ``grid`` is the fixed image's."""
        return cls(FieldReader(*kernels.affine_displacement(matrix, grid)), matrix)

    def preceded(self, matrix: NDArray[np.float64], grid: Grid) -> State:
        """Return the state with a linear transform applied before it."""
        if self.matrix is not None:
            return State.linear(self.matrix @ matrix, grid)
        both = PrecededField(self.reader, matrix)
        return State(FieldReader(both, self.reader.grid), None)


def initial_state(start: Any, plan: Plan) -> State:
    """Return the state that a run starts from.

    Parameters
    ----------
    start : matrix, Dataset, itk.Transform or None
        As `inputs.starting_point` returns it.
    """
    grid = plan.fixed.grids[0]
    if start is None:
        return State.linear(np.eye(grid.ndim + 1), grid)
    if isinstance(start, np.ndarray):
        return State.linear(start, grid)
    if isinstance(start, xr.Dataset):
        return State(open_displacement(in_units(start, grid.units)), None)
    from xdreg.numerics.itk_transforms import displacement_from_itk  # loads itk

    coarse = plan.stages[0].partition.field_grid
    return State(FieldReader(displacement_from_itk(start, coarse), coarse), None)


@dataclass(frozen=True)
class Shared:
    """What the stages of a run share.

    Parameters
    ----------
    fixed, moving
        The images.
    directory
        The work directory.
    retry
        Statuses of blocks that run again when a run is resumed.
    searches_pose
        Whether the first stage searches for a pose: nothing says where to start.
    allow_mirror
        Whether that pose may mirror the moving image.
    lines
        Shows progress.
    threads
        Threads that a linear stage, or a single block, may use.
    at_once
        Most blocks at once, None for all that the scheduler runs.
    """

    fixed: Source
    moving: Source
    directory: WorkDirectory
    retry: tuple[BlockStatus, ...]
    searches_pose: bool
    allow_mirror: bool
    lines: StageProgress
    threads: int
    at_once: int | None

    def threads_of_one(self, blocks: int) -> int:
        """Return the threads that each of some blocks may use."""
        return max(1, self.threads // min(blocks, self.at_once or self.threads))

    def inputs(
        self, fixed_level: int, moving_level: int, state: State, *, whole: bool
    ) -> Inputs:
        """Return readers of both images and of the displacement so far.

        With ``whole`` the images are registered by their outlines too. Then masks that
        were found are not used.
        """
        fixed, *others = self.fixed.readers(fixed_level)
        moving, *other_moving = self.moving.readers(moving_level)
        return Inputs(
            fixed,
            moving,
            self.fixed.mask_reader(fixed.grid, whole=whole),
            self.moving.mask_reader(moving.grid, whole=whole),
            state.reader,
            tuple(zip(others, other_moving, strict=True)),
        )
