"""Making a plan: levels, stages and blocks, before anything runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from xdreg.coordinates import spatial_dims
from xdreg.engines.elastix import check_spacing
from xdreg.errors import InputError
from xdreg.registration.fitting import check_memory
from xdreg.registration.plan import Plan
from xdreg.registration.planned_methods import planned_kind
from xdreg.stages import (
    OWN_METRICS,
    Affine,
    BSpline,
    LocalCorrelation,
    Rigid,
    Stage,
    as_stage,
    check_level,
    check_metric,
)
from xdreg.stores.pyramid import Pyramid, build_pyramid, image_levels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xdreg.registration.planned_stage import PlannedStage
    from xdreg.registration.resources import Resources
    from xdreg.stages import MetricOrAuto, Overlap

#: Largest level that is registered linearly, whole, in voxels.
LINEAR_VOXELS = {2: 512**2, 3: 400_000}


def make_plan(
    fixed: Any,
    moving: Any,
    *,
    stages: Any,
    metric: MetricOrAuto,
    block_shape: int | Sequence[int] | None,
    overlap: Overlap | None,
    finest_level: int,
    resources: Resources,
    initial_is_field: bool,
) -> Plan:
    """Decide levels, stages and blocks; the arguments are those of `register`.

    ``initial_is_field`` states whether the run starts from a field. Then the default
    has no linear stage. Where ``stages`` are the default, other finest levels are
    planned as well, to be compared.
    """
    check_metric(metric, auto=True)
    check_level(finest_level, "finest_level")
    pair = _pyramids(fixed, moving)
    if finest_level >= len(pair[0].grids):
        msg = f"finest_level is {finest_level}; {_available(pair[0])}"
        raise InputError(msg)

    def made(chosen: Sequence[Stage], level: int, shape: Any = block_shape) -> Plan:
        planned = _planned(chosen, pair, level, metric, shape, overlap)
        return Plan(planned, *pair, resources)

    if stages is not None:
        plan = made(as_stages(stages, finest_level), finest_level)
    else:
        offered = sorted({*range(min(pair[0].start, 2) + 1), finest_level})
        linear = not initial_is_field
        plans = {
            level: made(_default_stages(pair[0], metric, level, linear=linear), level)
            for level in offered
        }
        plan = replace(plans[finest_level], alternatives=tuple(plans.values()))

    def in_blocks(shape: int) -> Plan:
        options = [stage.options for stage in plan.stages]
        smaller = [o if o.linear else replace(o, block_shape=shape) for o in options]
        return made(smaller, finest_level)

    check_memory(plan, in_blocks)
    return plan


def _planned(
    chosen: Sequence[Stage],
    pair: tuple[Pyramid, Pyramid],
    finest_level: int,
    metric: MetricOrAuto,
    block_shape: int | Sequence[int] | None,
    overlap: Overlap | None,
) -> tuple[PlannedStage, ...]:
    """Return stages with everything decided."""
    fixed, moving = pair
    levels = _levels(chosen, fixed, finest_level)
    planned = []
    for stage, level in zip(chosen, levels, strict=True):
        grid = fixed.grids[level]
        stage.check_axes(grid.ndim)
        finest = level == min(levels)
        kind = planned_kind(stage)
        options: Any = kind.settled(replace(stage, level=level), fixed.placed)
        if not stage.linear and options.field_step is None:
            options = replace(options, field_step=2 if finest else 1)
        planned.append(
            kind(
                options.with_metric(metric),
                level,
                moving.level_like(grid),
                kind.cut(options, grid, block_shape, overlap),
                finest,
            )
        )
        if planned[-1].by_elastix:
            check_spacing(grid)
    return tuple(planned)


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
    fixed: Pyramid, metric: MetricOrAuto, finest_level: int, *, linear: bool
) -> list[Stage]:
    """Return linear stages, then a deformable one for each level, coarse to fine."""
    stages: list[Stage] = []
    if linear:
        own = metric in (*OWN_METRICS, "auto")
        stages = [Affine()] if own else [Rigid(), Affine()]
    # Only elastix has squared differences. It is slow, so it starts at a finer level.
    by_spline = metric == "msd"
    deformable = BSpline if by_spline else LocalCorrelation
    coarsest = max(fixed.overview if by_spline else fixed.start, finest_level)
    levels = range(coarsest, finest_level - 1, -1)
    return stages + [deformable(level=level) for level in levels]


def as_stages(stages: Any, finest_level: int = 0) -> list[Stage]:
    """Return a stage, a function or an iterable of them as stages."""
    single = callable(stages) or isinstance(stages, str)
    several = isinstance(stages, Iterable) and not single
    given = stages if several else [stages]
    chosen = [as_stage(stage, finest_level) for stage in given]
    if not chosen:
        msg = "stages is empty; give at least one, or leave it out for the default"
        raise InputError(msg)
    return chosen


def _available(fixed: Pyramid) -> str:
    return f"fixed has levels 0 to {len(fixed.grids) - 1}"


def _levels(stages: Sequence[Stage], fixed: Pyramid, finest_level: int) -> list[int]:
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
            wanted = max(linear_level, finest_level)
            level = min(wanted if stage.linear else later + finest_level, coarsest)
        if not finest_level <= level <= coarsest:
            msg = f"stage {stage.name} asks for level {level}; {_available(fixed)}"
            if level < finest_level:
                msg += f", and finest_level={finest_level} leaves out finer ones"
            raise InputError(msg)
        levels.append(level)
    return levels
