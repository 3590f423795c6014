"""What a registration will do, decided before anything runs: levels, stages, blocks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dask.utils import format_bytes

from xdreg.coordinates import spatial_dims
from xdreg.errors import InputError
from xdreg.partition import Partition
from xdreg.registration.estimates import (
    PROCESS_BYTES,
    THREADED,
    bytes_read,
    field_bytes,
    patch_bytes,
)
from xdreg.registration.planned_stage import PlannedStage
from xdreg.stages import (
    OWN_METRICS,
    Affine,
    Blockwise,
    BSpline,
    Linear,
    LocalCorrelation,
    Rigid,
    Stage,
    as_stage,
    check_metric,
)
from xdreg.stores.pyramid import Pyramid, build_pyramid, image_levels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xdreg.grid import Grid
    from xdreg.stages import Metric, MetricOrAuto


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
                    "memory": format_bytes(self.block_memory(stage)),
                    "reads": format_bytes(self.bytes_read(stage)),
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
            f"{format_bytes(self.worker_memory())}"
        )
        lines.append(
            f"the work directory takes {format_bytes(self.workdir_bytes())}; a "
            f"temporary one {format_bytes(self.workdir_bytes(kept=False))}"
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
