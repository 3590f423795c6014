"""The plan of a registration, made before anything runs: levels, stages, blocks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dask.utils import format_bytes

from xdreg.coordinates import spatial_dims
from xdreg.engines.elastix import check_spacing
from xdreg.errors import InputError
from xdreg.numerics.compiled import are_stored
from xdreg.registration.estimates import (
    THREADED,
    bytes_read,
    field_bytes,
    patch_bytes,
    worker_memory,
)
from xdreg.registration.plan_table import as_html, as_text, lengths, times
from xdreg.registration.planned_methods import planned_kind
from xdreg.stages import (
    OWN_METRICS,
    Affine,
    BSpline,
    LocalCorrelation,
    Rigid,
    Stage,
    as_stage,
    check_metric,
)
from xdreg.stores.pyramid import Pyramid, build_pyramid, image_levels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xdreg.registration.planned_stage import PlannedStage
    from xdreg.stages import Metric, MetricOrAuto, Overlap

#: Largest level that is registered linearly, whole, in voxels.
LINEAR_VOXELS = {2: 512**2, 3: 400_000}


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
        """Whether the metric of a stage is still to be chosen."""
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
        """Return the bytes that a stage reads, without rounding up to chunks."""
        return bytes_read(
            stage.partition,
            self.fixed.dtype(stage.fixed_level),
            self.moving.dtype(stage.moving_level),
            self.moving.grids[stage.moving_level],
        )

    def worker_memory(self, threads: int = 1) -> int:
        """Return the memory that a worker needs to finish, in bytes.

        It leaves room for the limits of Dask, which gives no block to a worker above
        80 % of its memory, and restarts one above 95 %. Processes of blocks are
        included: they count towards the memory of a job, not towards Dask's limits.

        Parameters
        ----------
        threads
            Blocks that it runs at once.
        """
        kept = THREADED if threads > 1 else 1
        compiles = not are_stored({stage.metric for stage in self.stages})
        return max(
            worker_memory(threads * kept * stage.window_memory, compiles=compiles)
            + threads * stage.own_process_memory
            for stage in self.stages
        )

    def workdir_bytes(self, *, kept: bool = True) -> int:
        """Return the largest size of the work directory, in bytes.

        Parameters
        ----------
        kept
            Whether ``workdir`` is given. A temporary directory drops the patches of a
            stage once they are blended.
        """
        parts = [stage.partition for stage in self.stages if not stage.options.linear]
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
        return [
            {
                "stage": f"{number} {stage.options.name}",
                "metric": stage.metric,
                "level": f"{stage.fixed_level} / {stage.moving_level}",
                "image": times(stage.partition.grid.shape),
                "blocks": times(stage.partition.counts),
                "window": times(stage.partition.window_shape),
                "field points": times(stage.partition.field_grid.shape),
                "smoothing": " / ".join(map(lengths, stage.smoothing)),
                "iterations": stage.iterations,
                "memory": format_bytes(stage.memory),
                "reads": format_bytes(self.bytes_read(stage)),
            }
            for number, stage in enumerate(self.stages)
        ]

    def notes(self) -> list[str]:
        """Return what the table does not say, in sentences."""
        units = self.fixed.grids[0].units or "the units of the coordinates"
        notes = [
            f"smoothing in {units}: of an update / of the total, or the distance of "
            "control points",
            "memory is that of one block; a worker that runs one at a time needs "
            f"{format_bytes(self.worker_memory())}",
            f"the work directory needs {format_bytes(self.workdir_bytes())}; a "
            f"temporary one {format_bytes(self.workdir_bytes(kept=False))}",
        ]
        on_device = max(stage.device_memory for stage in self.stages)
        if on_device:
            notes.append(
                f"a block takes up to {format_bytes(on_device)} of the GPU, where one "
                "is registered at a time; the field differs from a CPU's by rounding"
            )
        if self.undecided:
            notes.append("auto: lncc or mind, chosen when the run starts")
        return notes

    def __str__(self) -> str:
        """Return the table, in as many parts as fit a terminal, and notes below it."""
        return as_text(self.table(), self.notes())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return the table and the notes for a notebook."""
        return as_html(self.table(), self.notes())


def make_plan(
    fixed: Any,
    moving: Any,
    *,
    stages: Any,
    metric: MetricOrAuto,
    block_shape: int | Sequence[int] | None,
    overlap: Overlap | None,
    initial_is_field: bool,
) -> Plan:
    """Decide levels, stages and blocks; the arguments are those of `register`.

    ``initial_is_field`` states whether the run starts from a field. Then the default
    has no linear stage.
    """
    check_metric(metric, auto=True)
    fixed_pyramid, moving_pyramid = _pyramids(fixed, moving)
    chosen = (
        _default_stages(fixed_pyramid, metric, linear=not initial_is_field)
        if stages is None
        else _as_stages(stages)
    )
    levels = _levels(chosen, fixed_pyramid)
    planned = []
    for stage, level in zip(chosen, levels, strict=True):
        grid = fixed_pyramid.grids[level]
        stage.check_axes(grid.ndim)
        finest = level == min(levels)
        kind = planned_kind(stage)
        options: Any = kind.settled(replace(stage, level=level))
        if not stage.linear and options.field_step is None:
            options = replace(options, field_step=2 if finest else 1)
        planned.append(
            kind(
                options.with_metric(metric),
                level,
                moving_pyramid.level_like(grid),
                kind.cut(options, grid, block_shape, overlap),
                finest,
            )
        )
        if planned[-1].by_elastix:
            check_spacing(grid)
    return Plan(tuple(planned), fixed_pyramid, moving_pyramid)


def _pyramids(fixed: Any, moving: Any) -> tuple[Pyramid, Pyramid]:
    """Return the pyramids of a pair, in the units of the fixed image."""
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
    return fixed_pyramid, build_pyramid(moving_levels, "moving", grid.units)


def _default_stages(
    fixed: Pyramid, metric: MetricOrAuto, *, linear: bool
) -> list[Stage]:
    """Return linear stages, then a deformable one for each level, coarse to fine."""
    stages: list[Stage] = []
    if linear:
        own = metric in (*OWN_METRICS, "auto")
        stages = [Affine()] if own else [Rigid(), Affine()]
    # Only elastix has squared differences. It is slow, so it starts at a finer level.
    by_spline = metric == "msd"
    deformable = BSpline if by_spline else LocalCorrelation
    coarsest = fixed.overview if by_spline else fixed.start
    return stages + [deformable(level=level) for level in range(coarsest, -1, -1)]


def _as_stages(stages: Any) -> list[Stage]:
    """Return a stage, a function or an iterable of them as stages."""
    single = callable(stages) or isinstance(stages, str)
    several = isinstance(stages, Iterable) and not single
    chosen = [as_stage(stage) for stage in (stages if several else [stages])]
    if not chosen:
        msg = "stages is empty; give at least one, or leave it out for the default"
        raise InputError(msg)
    return chosen


def _levels(stages: Sequence[Stage], fixed: Pyramid) -> list[int]:
    """Return the level of each stage.

    By default linear stages run on a level that is small enough to be read whole, the
    last deformable stage on the finest level, and those before it on coarser ones.
    """
    coarsest = len(fixed.grids) - 1
    linear_level = fixed.level_within(LINEAR_VOXELS[fixed.grids[0].extended_ndim])
    later = sum(not stage.linear for stage in stages)
    levels = []
    for stage in stages:
        later -= not stage.linear
        level = stage.level
        if level is None:
            level = min(linear_level if stage.linear else later, coarsest)
        if level > coarsest:
            msg = (
                f"stage {stage.name} asks for level {level}; fixed has levels 0 to "
                f"{coarsest}"
            )
            raise InputError(msg)
        levels.append(level)
    return levels
