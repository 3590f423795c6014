"""What a registration will do, decided before anything runs: levels, stages, blocks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from inspect import signature
from typing import TYPE_CHECKING, Any

from xdreg import elastix
from xdreg.blocks import Partition
from xdreg.coordinates import spatial_dims
from xdreg.errors import InputError
from xdreg.estimates import (
    PROCESS_BYTES,
    THREADED,
    block_memory,
    bytes_read,
    field_bytes,
    patch_bytes,
    readable,
)
from xdreg.linear import linear, linear_displacement
from xdreg.local_correlation import by_level, local_correlation
from xdreg.multiscale import START_VOXELS, Pyramid, build_pyramid, image_levels
from xdreg.options import (
    OWN_METRICS,
    Affine,
    Blockwise,
    BSpline,
    Consensus,
    Custom,
    Linear,
    LocalCorrelation,
    Rigid,
    Stage,
    as_stage,
    check_metric,
)
from xdreg.search import SEARCH_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from xdreg.grid import Grid
    from xdreg.options import Metric, MetricOrAuto

#: A level of at most so many voxels is registered linearly, whole.
LINEAR_VOXELS = {2: 512**2, 3: 400_000}

#: Voxels per axis of a block, unless given. What elastix costs goes by samples and
#: iterations, far less by a block's size; but a large block comes out worse.
BLOCK_SHAPE = {2: 1024, 3: 192}
BSPLINE_BLOCK_SHAPE = {2: 1024, 3: 64}

#: Overlap per side, unless given, in voxels: three to four sigma of what smooths an
#: update of local correlation. A B-spline reaches with its control points.
OVERLAP_VOXELS = {2: 32, 3: 8}
BSPLINE_OVERLAP_VOXELS = {2: 16, 3: 16}

#: The process of a block may hold so many times what it is estimated to, unless a
#: limit is given.
LIMIT_FACTOR = 3

#: Control points of a B-spline, in voxels of the stage's level, unless given.
BSPLINE_SPACING_VOXELS = {2: 10, 3: 6}


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

    options: Stage
    fixed_level: int
    moving_level: int
    partition: Partition
    finest: bool

    @property
    def metric(self) -> MetricOrAuto:
        """The metric of the stage; ``"auto"`` until the run has chosen it."""
        return self.options.metric or "auto"

    @property
    def method(self) -> Callable[..., Any]:
        """The function that registers."""
        if isinstance(self.options, Custom):
            return self.options.method
        if isinstance(self.options, LocalCorrelation):
            return local_correlation
        if isinstance(self.options, BSpline):
            return elastix.bspline
        if isinstance(self.options, Consensus):
            return linear_displacement
        return linear if self.metric in (*OWN_METRICS, "auto") else elastix.linear

    @property
    def reduction(self) -> Any:
        """What makes one transform of the blocks; None where they are blended."""
        if isinstance(self.options, Consensus):
            return self.options.transform
        return getattr(self.options, "reduction", None)

    @property
    def by_elastix(self) -> bool:
        """Whether elastix registers, in a process of its own."""
        return self.method in (elastix.bspline, elastix.linear)

    @property
    def isolated(self) -> bool:
        """Whether a block runs in a process of its own."""
        own = isinstance(self.options, Custom) and self.options.isolated
        return own or self.by_elastix

    @property
    def searches(self) -> bool:
        """Whether a block looks for large motion by a discrete search."""
        if not isinstance(self.options, LocalCorrelation):
            return False
        if self.options.search is not None:
            return self.options.search
        grid = self.partition.grid
        return self.partition.size == 1 and grid.size <= START_VOXELS[grid.ndim]

    @property
    def memory(self) -> int:
        """The peak memory of one block, in bytes."""
        memory = block_memory(
            self.partition,
            self.metric,
            elastix=self.by_elastix,
            isolated=self.isolated,
        )
        return memory + (SEARCH_BYTES if self.searches else 0)

    @property
    def memory_limit(self) -> int | None:
        """Bytes that the process of a block may hold; None where it has none."""
        if not self.isolated:
            return None
        given = getattr(self.options, "memory_limit", None)
        if given is not None:
            return int(given)
        return LIMIT_FACTOR * self.memory if self.by_elastix else None

    @property
    def smoothness(self) -> str:
        """What keeps the field smooth, as text: lengths in the units of the grid."""
        lengths: list[Any] = []
        if isinstance(self.options, LocalCorrelation):
            names = ("update_sigma", "field_sigma")
            lengths += [self.engine_options[name] for name in names]
        elif isinstance(self.options, BSpline):
            lengths.append(self.engine_options["grid_spacing"])
        texts = []
        for length in lengths:
            axes = length if isinstance(length, (list, tuple)) else [length]
            numbers = [f"{value:.3g}" for value in axes]
            alike = len(set(numbers)) == 1
            texts.append(numbers[0] if alike else " × ".join(numbers))
        return " / ".join(texts)

    @property
    def iterations(self) -> str:
        """How many iterations there are at most, as text."""
        if isinstance(self.options, Custom):
            return ""
        default = signature(self.method).parameters["iterations"].default
        return str(self.options.iterations or default)

    @property
    def engine_options(self) -> dict[str, Any]:
        """Keyword arguments for the engine."""
        options = self.options.engine_options()
        options["metric"] = self.metric
        if self.by_elastix:
            options["memory_limit"] = self.memory_limit
        grid = self.partition.grid
        if isinstance(self.options, LocalCorrelation):
            options["search"] = self.searches
            options = by_level(options, grid, finest=self.finest)
        if isinstance(self.options, BSpline):
            spacing = self.options.grid_spacing
            if spacing is None:
                voxels = BSPLINE_SPACING_VOXELS[grid.ndim]
                spacing = [voxels * step for step in grid.spacing]
            options["grid_spacing"] = spacing
        return options


@dataclass(frozen=True)
class Plan:
    """What ``register`` will do; printing it shows a table.

    Parameters
    ----------
    stages
        In the order in which they run.
    fixed, moving
        The two pyramids.
    """

    stages: tuple[PlannedStage, ...]
    fixed: Pyramid
    moving: Pyramid

    @property
    def undecided(self) -> bool:
        """Whether a stage's metric is still to be chosen."""
        return any(stage.options.metric is None for stage in self.stages)

    def decided(self, metric: Metric) -> Plan:
        """Return the plan with a metric for the stages that have none."""
        stages = (
            replace(stage, options=stage.options.with_metric(metric))
            for stage in self.stages
        )
        return replace(self, stages=tuple(stages))

    def block_memory(self, stage: PlannedStage) -> int:
        """Return the peak memory of one block of a stage, in bytes."""
        return stage.memory

    def bytes_read(self, stage: PlannedStage) -> int:
        """Return what a stage reads, in bytes, chunk rounding left out."""
        return bytes_read(
            stage.partition,
            self.fixed.dtype(stage.fixed_level),
            self.moving.dtype(stage.moving_level),
            self.moving.grids[stage.moving_level],
        )

    def worker_memory(self, threads: int = 1) -> int:
        """Return the peak memory of a worker process, in bytes.

        Parameters
        ----------
        threads
            Blocks that it runs at once.
        """
        largest = max(self.block_memory(stage) for stage in self.stages)
        kept = THREADED if threads > 1 else 1
        return PROCESS_BYTES + round(threads * kept * largest)

    def workdir_bytes(self, *, kept: bool = True) -> int:
        """Return what the work directory takes at most, in bytes.

        Parameters
        ----------
        kept
            Whether ``workdir`` is given; a temporary directory drops the patches of a
            stage once they are blended.
        """
        parts = [s.partition for s in self.stages if isinstance(s.options, Blockwise)]
        patches = [patch_bytes(part) for part in parts]
        levels = (
            (self.fixed, [stage.fixed_level for stage in self.stages]),
            (self.moving, [stage.moving_level for stage in self.stages]),
        )
        made = sum(
            pyramid.bytes_made(max(*used, pyramid.overview)) for pyramid, used in levels
        )
        most = sum(patches) if kept else max(patches, default=0)
        return made + most + sum(field_bytes(part) for part in parts)

    def table(self) -> list[dict[str, str]]:
        """Return one row per stage, as text."""
        rows = []
        for number, stage in enumerate(self.stages):
            partition = stage.partition
            rows.append(
                {
                    "stage": f"{number} {stage.options.name}",
                    "metric": stage.metric,
                    "level": f"{stage.fixed_level} / {stage.moving_level}",
                    "image": " × ".join(map(str, partition.grid.shape)),
                    "blocks": " × ".join(map(str, partition.counts)),
                    "window": " × ".join(map(str, partition.window_shape)),
                    "field points": " × ".join(map(str, partition.field_grid.shape)),
                    "smoothing": stage.smoothness,
                    "iterations": stage.iterations,
                    "memory": readable(self.block_memory(stage)),
                    "reads": readable(self.bytes_read(stage)),
                }
            )
        return rows

    def __str__(self) -> str:
        """Lay the table out in columns."""
        rows = self.table()
        names = list(rows[0])
        widths = {n: max(len(n), *(len(row[n]) for row in rows)) for n in names}
        lines = ["  ".join(n.ljust(widths[n]) for n in names).rstrip()]
        lines += [
            "  ".join(r[n].ljust(widths[n]) for n in names).rstrip() for r in rows
        ]
        units = self.fixed.grids[0].units or "the units of the coordinates"
        lines.append(
            f"smoothing in {units}: of an update / of the total, or the distance of "
            "control points"
        )
        lines.append(
            "memory is that of one block; a worker that runs one at a time takes "
            f"{readable(self.worker_memory())}"
        )
        lines.append(
            f"the work directory takes {readable(self.workdir_bytes())}; a temporary "
            f"one {readable(self.workdir_bytes(kept=False))}"
        )
        if self.undecided:
            lines.append("auto: lncc or mind, chosen when the run starts")
        return "\n".join(lines)

    __repr__ = __str__


def make_plan(
    fixed: Any,
    moving: Any,
    *,
    stages: Sequence[Any] | None,
    metric: MetricOrAuto,
    block_shape: int | Sequence[int] | None,
    overlap: int | Sequence[int] | None,
    initial_is_field: bool,
) -> Plan:
    """Decide levels, stages and blocks.

    Parameters
    ----------
    fixed, moving : DataTree, DataArray or itk.Image
        The pair.
    stages
        Stages or functions; None for the default: affine, then local correlation
        from coarse to fine.
    metric, block_shape, overlap
        For every stage that does not say otherwise.
    initial_is_field
        Whether the run starts from a field, which makes the default skip linear stages.

    Raises
    ------
    InputError
        If the images do not go together, or an option does not fit them.
    """
    check_metric(metric, auto=True)
    fixed_pyramid = build_pyramid(image_levels(fixed, "fixed"), "fixed")
    grid = fixed_pyramid.grids[0]
    moving_levels = image_levels(moving, "moving")
    other = len(spatial_dims(moving_levels[0], "moving"))
    if grid.ndim != other:
        msg = (
            f"fixed has {grid.ndim} spatial dimensions and moving {other}; select a "
            "plane of the larger one, for example moving.isel(z=0)"
        )
        raise InputError(msg)
    moving_pyramid = build_pyramid(moving_levels, "moving", grid.units)
    linear_level = fixed_pyramid.level_within(LINEAR_VOXELS[grid.ndim])
    if stages is None:
        first: list[Stage] = (
            [Affine()] if metric in (*OWN_METRICS, "auto") else [Rigid(), Affine()]
        )
        chosen = [] if initial_is_field else first
        # Only elastix knows squared differences.
        deformable = BSpline if metric == "msd" else LocalCorrelation
        # What elastix cannot do in a moment it need not do at more levels than it must.
        by_spline = deformable is BSpline
        coarsest = fixed_pyramid.overview if by_spline else fixed_pyramid.start
        chosen += [deformable(level=level) for level in range(coarsest, -1, -1)]
    else:
        several = isinstance(stages, Iterable) and not callable(stages)
        chosen = [as_stage(stage) for stage in (stages if several else [stages])]
    if not chosen:
        msg = "stages is empty; give at least one, or leave it out for the default"
        raise InputError(msg)
    blockwise = [stage for stage in chosen if isinstance(stage, Blockwise)]
    levels = []
    for stage in chosen:
        level = stage.level
        if level is None:
            later = (
                len(blockwise)
                - 1
                - next((i for i, s in enumerate(blockwise) if s is stage), 0)
            )
            level = linear_level if isinstance(stage, Linear) else later
            level = min(level, len(fixed_pyramid.grids) - 1)
        if level >= len(fixed_pyramid.grids):
            msg = (
                f"stage {stage.name} asks for level {level}; fixed has levels 0 to "
                f"{len(fixed_pyramid.grids) - 1}"
            )
            raise InputError(msg)
        levels.append(level)
    planned = []
    for stage, level in zip(chosen, levels, strict=True):
        level_grid = fixed_pyramid.grids[level]
        stage.check_axes(grid.ndim)
        finest = level == min(levels)
        if isinstance(stage, Blockwise) and stage.field_step is None:
            stage = replace(stage, field_step=2 if finest else 1)
        planned.append(
            PlannedStage(
                replace(stage.with_metric(metric), level=level),
                level,
                moving_pyramid.level_like(level_grid),
                _partition(stage, level_grid, block_shape, overlap),
                finest,
            )
        )
    return Plan(tuple(planned), fixed_pyramid, moving_pyramid)


def _partition(
    stage: Stage,
    grid: Grid,
    block_shape: int | Sequence[int] | None,
    overlap: int | Sequence[int] | None,
) -> Partition:
    if not isinstance(stage, Blockwise):
        return Partition(grid, grid.shape, (0,) * grid.ndim, (1,) * grid.ndim)
    shape = stage.block_shape if stage.block_shape is not None else block_shape
    by_spline = isinstance(stage, BSpline)
    if shape is None:
        shape = (BSPLINE_BLOCK_SHAPE if by_spline else BLOCK_SHAPE)[grid.ndim]
    margin = stage.overlap if stage.overlap is not None else overlap
    step = stage.field_step or 1
    if margin is None:
        # Never more than fits.
        bare = Partition.balanced(grid, block_shape=shape, overlap=0, field_step=step)
        reach = (BSPLINE_OVERLAP_VOXELS if by_spline else OVERLAP_VOXELS)[grid.ndim]
        margin = [min(reach, size // 2) for size in bare.block_shape]
    return Partition.balanced(grid, block_shape=shape, overlap=margin, field_step=step)
