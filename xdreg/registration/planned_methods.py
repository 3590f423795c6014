"""What each kind of stage is planned as.

`PLANNED` has one class for each kind. It knows which function registers a block, with
which options, what that costs, and whether it runs in a process of its own. A new
method is one file in `xdreg.engines`, a stage in `xdreg.stages` and one entry here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from xdreg.engines import elastix
from xdreg.engines.discrete_search import SEARCH_BYTES
from xdreg.engines.isolated import Isolated
from xdreg.engines.linear import linear, linear_displacement
from xdreg.engines.local_correlation import by_level, local_correlation, safer
from xdreg.fields.landmarks import constraint
from xdreg.partition import Partition
from xdreg.registration.devices import settled_device
from xdreg.registration.estimates import (
    LINEAR_SECONDS,
    core_seconds,
    device_memory,
    largest_device_block,
)
from xdreg.registration.planned_stage import PlannedStage
from xdreg.stages import (
    OWN_METRICS,
    Affine,
    BSpline,
    Consensus,
    Custom,
    LocalCorrelation,
    Rigid,
    Similarity,
    Stage,
    Translation,
)
from xdreg.stores.pyramid import START_VOXELS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xdreg.grid import Grid
    from xdreg.registration.source import Source
    from xdreg.stages import Overlap, RegistrationMethod

    PerAxisVoxels = int | Sequence[int] | None

#: Control points of a B-spline, in voxels of the stage's level.
BSPLINE_SPACING_VOXELS = {2: 10, 3: 6}


class PlannedLinear(PlannedStage):
    """One linear transform of the whole image."""

    @classmethod
    def cut(
        cls, stage: Any, grid: Grid, block_shape: PerAxisVoxels, overlap: Overlap | None
    ) -> Partition:
        """Return a single block, the whole image."""
        return Partition(grid, grid.shape, (0,) * grid.ndim, (1,) * grid.ndim)

    @property
    def method(self) -> RegistrationMethod:
        """The engine of xdreg or elastix, by the metric."""
        return linear if self.metric in (*OWN_METRICS, "auto") else elastix.linear

    @property
    def by_elastix(self) -> bool:
        """Whether the metric is one of elastix's."""
        return self.method is elastix.linear

    @property
    def core_seconds(self) -> float | None:
        """The seconds of xdreg's engine with its search."""
        return None if self.by_elastix else LINEAR_SECONDS * self.partition.grid.size


class PlannedLocalCorrelation(PlannedStage):
    """Local correlation or descriptors, in the worker's threads."""

    joint: ClassVar[bool] = True

    @classmethod
    def settled(cls, stage: Any, fixed: Grid) -> Any:
        """Return the options with a device, and landmarks as plain numbers."""
        if stage.landmarks is not None:
            plain = constraint(stage.landmarks, fixed)
            return replace(stage, landmarks=plain, device="cpu")
        return replace(stage, device=settled_device(stage.device)[0])

    @classmethod
    def largest_block(cls, stage: Any, grid: Grid) -> int:
        """Return a larger size on a GPU, which works on one block at a time."""
        ndim = grid.extended_ndim
        device, memory = settled_device(stage.device)
        if device == "cpu":
            return super().largest_block(stage, grid)
        return largest_device_block(ndim, memory, cls.default_overlap[ndim])

    @property
    def device_memory(self) -> int:
        """The peak memory of one block on a GPU, in bytes; 0 if it uses none."""
        if self.options.device == "cpu":
            return 0
        return device_memory(self.partition, finest=self.finest)

    @property
    def method(self) -> RegistrationMethod:
        """The engine of local correlation."""
        return local_correlation

    @property
    def searches(self) -> bool:
        """Whether a block looks for large motion by a discrete search."""
        if self.options.search is not None:
            return bool(self.options.search)
        grid = self.partition.grid
        return (
            self.partition.size == 1 and grid.size <= START_VOXELS[grid.extended_ndim]
        )

    @property
    def window_memory(self) -> int:
        """The peak memory of one block in its worker, in bytes."""
        return super().window_memory + (SEARCH_BYTES if self.searches else 0)

    @property
    def smoothing(self) -> list[Any]:
        """The smoothing of an update and of the total, physical units."""
        options = self.engine_options
        return [options["update_sigma"], options["field_sigma"]]

    @property
    def engine_options(self) -> dict[str, Any]:
        """Keyword arguments for the engine, as the level of the stage needs them."""
        options = super().engine_options | {"search": self.searches}
        return by_level(options, self.partition.grid, finest=self.finest)

    @property
    def core_seconds(self) -> float | None:
        """The seconds that it takes one core, not known on a GPU."""
        if self.options.device == "cuda":
            return None
        return core_seconds(self.partition, self.metric, finest=self.finest)

    def block_options(
        self, fixed: Source, moving: Source, threads: int
    ) -> dict[str, Any]:
        """Return the options, with noise and stiffness of the whole images.

        All blocks get the same, so that they agree.
        """
        return self.engine_options | {
            "contrast": list(zip(fixed.contrast, moving.contrast, strict=True)),
            "stiffness": fixed.stiffness,
            "threads": threads,
        }

    def safer_options(self, options: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return options for a stiffer field."""
        return safer(options, self.partition.grid)


class PlannedBSpline(PlannedStage):
    """B-splines of elastix. Large blocks come out worse: 64³ voxels by default."""

    default_block_shape: ClassVar[Mapping[int, int]] = {2: 1024, 3: 64}
    #: A B-spline reaches as far as its control points.
    default_overlap: ClassVar[Mapping[int, int]] = {2: 16, 3: 16}

    @property
    def method(self) -> RegistrationMethod:
        """Elastix's B-splines."""
        return elastix.bspline

    @property
    def by_elastix(self) -> bool:
        """Always."""
        return True

    @property
    def smoothing(self) -> list[Any]:
        """The distance of control points, physical units."""
        return [self.engine_options["grid_spacing"]]

    @property
    def engine_options(self) -> dict[str, Any]:
        """Keyword arguments for elastix."""
        options = super().engine_options
        grid = self.partition.grid
        if self.options.grid_spacing is None:
            voxels = BSPLINE_SPACING_VOXELS[grid.extended_ndim]
            options["grid_spacing"] = [voxels * step for step in grid.spacing]
        return options


class PlannedConsensus(PlannedStage):
    """Linear transforms of blocks, reduced to the one on which they agree."""

    @property
    def method(self) -> RegistrationMethod:
        """The linear engine of xdreg."""
        return linear_displacement

    @property
    def reduction(self) -> Any:
        """The kind of linear transform."""
        return self.options.transform


class PlannedCustom(PlannedStage):
    """A user's method."""

    @property
    def method(self) -> RegistrationMethod:
        """The user's function."""
        return self.options.method  # type: ignore[no-any-return]

    @property
    def isolated_method(self) -> RegistrationMethod:
        """The user's function, called in an engine process unless told otherwise."""
        if not self.isolated:
            return self.method
        return Isolated.of(self.method, self.options.timeout, self.memory_limit)

    @property
    def reduction(self) -> Any:
        """The user's function or kind; None where blocks are blended."""
        return self.options.reduction

    @property
    def isolated(self) -> bool:
        """Whether the user left it so."""
        return bool(self.options.isolated)

    @property
    def iterations(self) -> str:
        """Nothing: only the method knows."""
        return ""

    @property
    def engine_options(self) -> dict[str, Any]:
        """The user's keyword arguments."""
        return dict(self.options.options)


#: What each kind of stage is planned as.
PLANNED: Mapping[type[Stage], type[PlannedStage]] = {
    Translation: PlannedLinear,
    Rigid: PlannedLinear,
    Similarity: PlannedLinear,
    Affine: PlannedLinear,
    LocalCorrelation: PlannedLocalCorrelation,
    BSpline: PlannedBSpline,
    Consensus: PlannedConsensus,
    Custom: PlannedCustom,
}


def planned_kind(stage: Stage) -> type[PlannedStage]:
    """Return the class in `PLANNED` for a stage, or for a subclass of one."""
    return next(PLANNED[kind] for kind in type(stage).__mro__ if kind in PLANNED)
