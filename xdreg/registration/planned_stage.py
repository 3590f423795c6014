"""One stage of a plan with everything decided: levels, blocks, method, options.

`planned_methods` has one class for each kind of stage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from xdreg.errors import InputError
from xdreg.partition import Partition
from xdreg.registration.estimates import own_process_memory, window_memory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xdreg.grid import Grid
    from xdreg.registration.source import Source
    from xdreg.stages import MetricOrAuto, Overlap, RegistrationMethod

    PerAxisVoxels = int | Sequence[int] | None

#: The memory limit of an elastix process, as a multiple of its estimate.
LIMIT_FACTOR = 3


def _in_voxels(overlap: Any, block_shape: tuple[int, ...]) -> list[int]:
    """Return an overlap, in voxels or as shares of the block, in voxels per axis."""
    several = isinstance(overlap, list | tuple | np.ndarray)
    given = list(overlap) if several else [overlap] * len(block_shape)
    if len(given) != len(block_shape):
        msg = f"overlap must be one value, or {len(block_shape)}; got {overlap!r}"
        raise InputError(msg)
    return [_voxels(*pair) for pair in zip(given, block_shape, strict=True)]


def _voxels(value: Any, size: int) -> int:
    """Return an overlap along one axis in voxels."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int(value)
    text = str(value)
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = math.nan
    if 0 < share <= 0.5:
        return max(round(share * size), 1)
    msg = (
        "overlap must be a whole number of voxels ≥ 0, or a share of the block of at "
        f"most a half, such as 0.1 or '10%'; got {value!r}"
    )
    raise InputError(msg)


@dataclass(frozen=True)
class PlannedStage:
    """A stage with everything decided.

    Parameters
    ----------
    options
        The stage as the user or the default gave it, with level and metric filled in.
    fixed_level, moving_level
        Levels of the two pyramids.
    partition
        Blocks; a linear stage has a single one, the whole image.
    finest
        Whether no stage has a finer level.
    """

    #: Largest block, in voxels per axis, unless given.
    default_block_shape: ClassVar[Mapping[int, int]] = {2: 1024, 3: 192}
    #: Overlap per side, in voxels, unless given: three to four standard deviations of
    #: the smoothing of an update of local correlation.
    default_overlap: ClassVar[Mapping[int, int]] = {2: 32, 3: 8}
    #: Whether several channels are registered together.
    joint: ClassVar[bool] = False

    options: Any
    fixed_level: int
    moving_level: int
    partition: Partition
    finest: bool

    @classmethod
    def settled(cls, stage: Any, fixed: Grid) -> Any:
        """Return the options with what depends on machine and fixed image decided."""
        return stage

    @classmethod
    def cut(
        cls, stage: Any, grid: Grid, block_shape: PerAxisVoxels, overlap: Overlap | None
    ) -> Partition:
        """Return the blocks of a stage on a level's grid.

        The shape and overlap of the stage come first, then those given for all stages,
        in voxels, then the defaults of the method.
        """
        shape = stage.block_shape if stage.block_shape is not None else block_shape
        if shape is None:
            shape = cls.largest_block(stage, grid)
        margin = stage.overlap if stage.overlap is not None else overlap
        step = stage.field_step or 1
        bare = Partition.balanced(grid, block_shape=shape, overlap=0, field_step=step)
        if margin is None:
            # Never more than half of a block.
            margin = [
                min(cls.default_overlap[grid.extended_ndim], size // 2)
                for size in bare.block_shape
            ]
        margin = _in_voxels(margin, bare.block_shape)
        return Partition.balanced(
            grid, block_shape=shape, overlap=margin, field_step=step
        )

    @classmethod
    def largest_block(cls, stage: Any, grid: Grid) -> int:
        """Return the size of the largest block by default, in voxels per axis."""
        return cls.default_block_shape[grid.extended_ndim]

    @property
    def metric(self) -> MetricOrAuto:
        """The metric of the stage; ``"auto"`` until the run has chosen it."""
        return self.options.metric or "auto"

    @property
    def method(self) -> RegistrationMethod:
        """The function that registers."""
        raise NotImplementedError

    @property
    def isolated_method(self) -> RegistrationMethod:
        """The same, in a process of its own where it does not start one by itself."""
        return self.method

    @property
    def reduction(self) -> Any:
        """The function or kind that reduces the blocks; None where they are blended."""
        return None

    @property
    def by_elastix(self) -> bool:
        """Whether elastix registers, in a process of its own."""
        return False

    @property
    def isolated(self) -> bool:
        """Whether a block runs in a process of its own."""
        return self.by_elastix

    @property
    def window_memory(self) -> int:
        """The peak memory of one block in its worker, in bytes."""
        return window_memory(self.partition, self.metric, elastix=self.by_elastix)

    @property
    def own_process_memory(self) -> int:
        """The peak memory of a block's own process, in bytes; 0 if it has none."""
        return own_process_memory(
            self.partition, elastix=self.by_elastix, isolated=self.isolated
        )

    @property
    def device_memory(self) -> int:
        """The peak memory of one block on a GPU, in bytes; 0 if it uses none."""
        return 0

    @property
    def core_seconds(self) -> float | None:
        """The seconds that it takes one core, None if that is not known."""
        return None

    @property
    def memory(self) -> int:
        """The peak memory of one block, in bytes, without that on a GPU."""
        return self.window_memory + self.own_process_memory

    @property
    def memory_limit(self) -> int | None:
        """The memory limit of a block's process, in bytes; None without a limit."""
        given = getattr(self.options, "memory_limit", None)
        if given is None and self.by_elastix:
            return LIMIT_FACTOR * self.memory
        return given if self.isolated else None

    @property
    def smoothing(self) -> list[Any]:
        """The lengths that keep the field smooth, physical units."""
        return []

    @property
    def iterations(self) -> str:
        """The largest number of iterations, as text."""
        default = signature(self.method).parameters["iterations"].default
        return str(self.options.iterations or default)

    @property
    def engine_options(self) -> dict[str, Any]:
        """Keyword arguments for the method, as far as the plan knows them."""
        options: dict[str, Any] = self.options.engine_options()
        options["metric"] = self.metric
        if self.by_elastix:
            options["memory_limit"] = self.memory_limit
        return options

    def block_options(
        self, fixed: Source, moving: Source, threads: int
    ) -> dict[str, Any]:
        """Return keyword arguments for the method, once the images can be read.

        ``threads`` are those that a block may use.
        """
        return self.engine_options

    def safer_options(self, options: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return options for a second attempt at a failed block, if there are any."""
        return None
