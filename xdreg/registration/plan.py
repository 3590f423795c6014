"""The plan of a registration: its stages, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dask.utils import format_bytes

from xdreg.numerics.compiled import are_stored
from xdreg.registration.estimates import (
    THREADED,
    bytes_read,
    field_bytes,
    patch_bytes,
    process_memory,
    worker_memory,
)
from xdreg.registration.plan_table import as_html, as_text, lengths, span, times
from xdreg.registration.resources import ALL, Resources

if TYPE_CHECKING:
    from collections.abc import Callable

    from xdreg.registration.planned_stage import PlannedStage
    from xdreg.stages import Metric
    from xdreg.stores.pyramid import Pyramid


@dataclass(frozen=True)
class Plan:
    """What ``register`` will do; printing it shows a table.

    Parameters
    ----------
    stages
        In the order in which they run.
    fixed, moving
        The two pyramids.
    resources
        What the run may use of this machine.
    alternatives
        Plans with this and other values of ``finest_level``, if stages are the default.
    """

    stages: tuple[PlannedStage, ...]
    fixed: Pyramid
    moving: Pyramid
    resources: Resources = ALL
    alternatives: tuple[Plan, ...] = ()

    @property
    def finest_level(self) -> int:
        """The finest level that a stage registers."""
        return min(stage.fixed_level for stage in self.stages)

    @property
    def core_seconds(self) -> float | None:
        """Estimated seconds on one core, None if those of a stage are not known."""
        seconds = [stage.core_seconds for stage in self.stages]
        return None if None in seconds else sum(seconds)  # type: ignore[arg-type]

    @property
    def blocks_at_once(self) -> int:
        """Most blocks that run at once on this machine, by its ``resources``."""
        return self.resources.blocks_at_once(self.peak_memory)

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

    @property
    def limit(self) -> int | None:
        """The same as Dask's schedulers take it, None without limits."""
        return None if self.resources == ALL else self.blocks_at_once

    @property
    def field_spacing(self) -> list[float]:
        """Distance of the field's points per axis, physical."""
        last = self.stages[-1].partition.field_grid
        return list(last.spacing)

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
        return self._most(threads, worker_memory)

    def peak_memory(self, blocks: int = 1) -> int:
        """Return the peak memory of a run on this machine, in bytes.

        Of this process and those of its blocks. Images in memory come on top.

        Parameters
        ----------
        blocks
            Blocks that run at once.
        """
        return self._most(blocks, process_memory)

    def _most(self, threads: int, in_process: Callable[..., int]) -> int:
        """Return the largest memory of a stage with so many blocks at once."""
        compiles = not are_stored({stage.metric for stage in self.stages})
        found = []
        for stage in self.stages:
            count = min(threads, stage.partition.size)
            own = count * stage.window_memory * (THREADED if count > 1 else 1)
            processes = count * stage.own_process_memory
            found.append(in_process(own, compiles=compiles) + processes)
        return max(found)

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
                "core time": span(stage.core_seconds),
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
            f"on this machine at most {self.blocks_at_once} run at once, in "
            f"{self.resources.threads} threads: "
            f"{format_bytes(self.peak_memory(self.blocks_at_once))} in all",
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
        notes.append("core time is an estimate, that of lncc for auto")
        return notes

    def _tables(self) -> list[list[dict[str, str]]]:
        """Return the table, and one of finest levels if there is a choice."""
        units = self.fixed.grids[0].units
        choices = [
            {
                "finest_level": str(plan.finest_level),
                "core time": span(plan.core_seconds),
                "reads": format_bytes(sum(map(plan.bytes_read, plan.stages))),
                "work directory": format_bytes(plan.workdir_bytes()),
                "a field point every": lengths(plan.field_spacing)
                + (f" {units}" if units else ""),
            }
            for plan in self.alternatives
        ]
        return [self.table(), choices] if len(choices) > 1 else [self.table()]

    def __str__(self) -> str:
        """Return the table, in as many parts as fit a terminal, and notes below it."""
        return as_text(self._tables(), self.notes())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return the table and the notes for a notebook."""
        return as_html(self._tables(), self.notes())
