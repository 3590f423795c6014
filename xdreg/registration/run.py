"""A registration under way: stage after stage, each a map over blocks and a blend.

Every stage hands its field to the next one. What is done stands in the work directory,
where the same run finds it again.
"""

from __future__ import annotations

import functools
import json
import logging
import warnings
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import xarray as xr
from dask.system import CPU_COUNT

from xdreg.engines import elastix_process, processes
from xdreg.engines.isolated import Isolated
from xdreg.engines.local_correlation import safer
from xdreg.engines.metric_choice import Choice
from xdreg.engines.pose import DOUBTFUL, Pose, pose_text
from xdreg.fields.field import in_units, open_displacement
from xdreg.fields.reader import FieldReader, PrecededField
from xdreg.graphs import shared
from xdreg.numerics import kernels
from xdreg.partition import BlockStatus
from xdreg.registration import (
    blockwise as outcome,
)
from xdreg.registration import (
    linear_stage as whole,
)
from xdreg.registration import (
    register_block as tasks,
)
from xdreg.registration.blend_block import blend_block
from xdreg.registration.block_array import BlockArray
from xdreg.registration.judge import RECORD
from xdreg.registration.manifest import describe_stage
from xdreg.registration.mapping import TOGETHER, has_workers, map_over_blocks
from xdreg.registration.planned_stage import PlannedStage
from xdreg.registration.planning import Plan
from xdreg.registration.progress import Listener, StageProgress
from xdreg.registration.reductions import reduce_blocks
from xdreg.registration.register_block import BlockTask
from xdreg.registration.result import assemble_field
from xdreg.registration.source import Source
from xdreg.registration.window import Inputs
from xdreg.registration.workdir import WorkDirectory, open_array, read_json, write_json
from xdreg.stages import Custom, Linear, LocalCorrelation

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from xdreg.grid import Grid
    from xdreg.registration.inputs import Mask
    from xdreg.stores.channels import Selection

_log = logging.getLogger(__name__)


@dataclass
class _State:
    """The displacement so far; ``matrix`` is set while it is linear."""

    reader: FieldReader
    matrix: NDArray[np.float64] | None


class Run:
    """One registration, ready to run: calling it returns the field."""

    def __init__(
        self,
        plan: Plan,
        directory: WorkDirectory,
        select: list[list[dict[str, Selection]]],
        masks: list[Mask],
        start: Any,
        manifest: dict[str, Any],
        progress: bool | Listener,
        retry: list[BlockStatus],
    ) -> None:
        self.manifest, self.progress, self.retry = manifest, progress, retry
        self.plan, self.directory = plan, directory
        self.fixed, self.moving = (
            Source(name, pyramid, channels, mask, directory.path)
            for name, pyramid, channels, mask in zip(
                ("fixed", "moving"),
                (plan.fixed, plan.moving),
                select,
                masks,
                strict=True,
            )
        )
        self.start = start
        self.choice: Choice | None = None
        self.found: Pose | None = None
        self.pose: dict[str, Any] | None = None

    def __call__(self) -> xr.Dataset:
        """Run all stages and return the field."""
        lines = StageProgress(self.progress)
        with self.directory.lock(), self.directory.writing(), lines:
            try:
                return self._execute(lines)
            except KeyboardInterrupt:
                # Threads that wait for an engine would keep Python from ending.
                processes.shutdown()
                raise

    def _execute(self, lines: StageProgress) -> xr.Dataset:
        if not has_workers():
            warnings.warn(
                "the cluster has no workers yet, and the run waits for them; see "
                "client.cluster, or close the client to run on this machine",
                stacklevel=4,
            )
        for source in (self.fixed, self.moving):
            source.check()
        state = self._initial_state()
        if self.plan.undecided:
            self._choose_metric(state, lines)
        self._warm_engines()
        records: list[dict[str, NDArray[np.float32]]] = []
        for number, stage in enumerate(self.plan.stages):
            run = self._linear if isinstance(stage.options, Linear) else self._blockwise
            state, record = run(number, stage, state, lines)
            records.append(record)
        return self._result(state, records)

    def _warm_engines(self) -> None:
        """Start engine processes while the first levels are read."""
        if any(stage.by_elastix for stage in self.plan.stages):
            processes.prepare(1, elastix_process.__name__)
        elif any(stage.isolated for stage in self.plan.stages):
            processes.prepare(1, Isolated.__module__)

    def _initial_state(self) -> _State:
        grid = self.plan.fixed.grids[0]
        if self.start is None:
            matrix = np.eye(grid.ndim + 1)
        elif isinstance(self.start, np.ndarray):
            matrix = self.start
        else:
            return _State(self._initial_field(grid), None)
        corners = kernels.affine_displacement(matrix, grid)
        return _State(FieldReader(*corners), matrix)

    def _initial_field(self, grid: Grid) -> FieldReader:
        if isinstance(self.start, xr.Dataset):
            return open_displacement(in_units(self.start, grid.units))
        from xdreg.numerics.itk_transforms import displacement_from_itk

        coarse = self.plan.stages[0].partition.field_grid
        return FieldReader(displacement_from_itk(self.start, coarse), coarse)

    def _choose_metric(self, state: _State, lines: StageProgress) -> None:
        """Decide the stages' metric, by a look at a coarse level or as before."""
        file = self.directory.path / "choice.json"
        stored = read_json(file)
        if stored is None:
            first = self.plan.stages[0]
            linear = isinstance(first.options, Linear)
            # Where the first stage looks for the pose, so that it is found once.
            levels = first.fixed_level, first.moving_level
            if not linear:
                level = self.plan.fixed.overview
                like = self.plan.moving.level_like(self.plan.fixed.grids[level])
                levels = level, max(like, self.plan.moving.overview)
            task = dask.delayed(whole.choose, pure=False)(
                shared(self._inputs(*levels, state, linear=True), "choice"),
                state.matrix,
                kind=first.options.name if linear else "affine",
                search=self.start is None and linear,
                threads=CPU_COUNT,
            )
            with lines.watch("metric", 1, None):
                choice, pose = task.compute()
            found = None if pose is None else pose.to_json()
            stored = {"choice": asdict(choice), "pose": found}
            write_json(file, stored)
        self.choice = Choice(**stored["choice"])
        if stored["pose"] is not None:
            self.found = Pose.from_json(stored["pose"])
        self.plan = self.plan.decided(self.choice.metric)
        _log.info("%s", self.choice)
        lines.say(str(self.choice))

    def _inputs(
        self, fixed_level: int, moving_level: int, state: _State, *, linear: bool
    ) -> Inputs:
        fixed, *others = self.fixed.readers(fixed_level)
        moving, *other_moving = self.moving.readers(moving_level)
        return Inputs(
            fixed,
            moving,
            self.fixed.mask_reader(fixed.grid, outlined=linear),
            self.moving.mask_reader(moving.grid, outlined=linear),
            state.reader,
            tuple(zip(others, other_moving, strict=True)),
        )

    def _linear(
        self, number: int, stage: PlannedStage, state: _State, lines: StageProgress
    ) -> tuple[_State, dict[str, NDArray[np.float32]]]:
        """Run a linear stage, as one task."""
        levels = stage.fixed_level, stage.moving_level
        inputs = self._inputs(*levels, state, linear=True)
        grid = self.plan.fixed.grids[0]
        folder = self.directory.stage(number)
        done = folder / "linear.json"
        stored = read_json(done)
        if stored is not None:
            matrix, record = np.array(stored["matrix"]), stored["record"]
            pose = stored["pose"]
        else:
            task = dask.delayed(whole.register_linear, pure=False)(
                shared(inputs, "linear"),
                state.matrix,
                kind=stage.options.name,
                metric=stage.metric,
                options=self._linear_options(stage),
                search=self.start is None and number == 0,
                pose=self.found if number == 0 else None,
                threads=CPU_COUNT,
            )
            with lines.watch(f"{number} {stage.options.name}", 1, None):
                matrix, record, found = task.compute()
            pose = None if found is None else found.to_dict()
            folder.mkdir(parents=True, exist_ok=True)
            values = {name: float(value) for name, value in record.items()}
            stored = {"matrix": matrix.tolist(), "record": values, "pose": pose}
            write_json(done, stored)
        if pose is not None:
            self._tell_pose(pose, grid.units)
        arrays = {
            name: np.full((1,) * grid.ndim, record[name], np.float32) for name in RECORD
        }
        for name in ("disagreement", "neighbour_difference"):
            arrays[name] = np.full((1,) * grid.ndim, np.nan, np.float32)
        if state.matrix is not None:
            corners = kernels.affine_displacement(matrix, grid)
            return _State(FieldReader(*corners), matrix), arrays
        return self._preceded(state, matrix), arrays

    def _preceded(self, state: _State, update: NDArray[np.float64]) -> _State:
        """Return a state with a linear transform before it."""
        if state.matrix is not None:
            matrix = state.matrix @ update
            corners = kernels.affine_displacement(matrix, self.plan.fixed.grids[0])
            return _State(FieldReader(*corners), matrix)
        both = PrecededField(state.reader, update)
        return _State(FieldReader(both, state.reader.grid), None)

    def _tell_pose(self, pose: dict[str, Any], units: str | None) -> None:
        """Keep the pose for the field, log it, and warn where another fits as well."""
        self.pose = pose
        _log.info("pose: %s", pose_text(pose, units))
        if pose["margin"] < DOUBTFUL:
            warnings.warn(
                f"two different poses fit about equally well; took "
                f"{pose_text(pose, units)}. Check the result, and if it is wrong, name "
                "where the images meet as initial, a matrix or an ITK transform",
                stacklevel=6,
            )

    def _blockwise(
        self, number: int, stage: PlannedStage, state: _State, lines: StageProgress
    ) -> tuple[_State, dict[str, NDArray[np.float32]]]:
        """Run a deformable stage: map over blocks, then blend."""
        partition, folder = stage.partition, self.directory.stage(number)
        self.directory.forget(number, self.retry)
        levels = stage.fixed_level, stage.moving_level
        (folder / "errors").mkdir(parents=True, exist_ok=True)
        counts, ndim = partition.counts, partition.grid.ndim
        patch = (ndim, *partition.patch_shape)
        field_grid = partition.field_grid
        options = self._method_options(stage)
        task = BlockTask(
            inputs=self._inputs(*levels, state, linear=False),
            partition=partition,
            method=_method(stage),
            options=options,
            safer=_safer(stage, options),
            metric=stage.metric,
            patches=BlockArray(folder / "patches", counts, patch, 0),
            records=BlockArray(folder / "records", counts, (len(RECORD),), np.nan),
            field=open_array(
                folder / "field",
                (ndim, *field_grid.shape),
                (ndim, *partition.field_chunks),
                np.nan,
            ),
            disagreement=BlockArray(folder / "disagreement", counts, (), np.inf),
            errors=folder / "errors",
        )
        outcome.forget_unreadable(task, folder / "agreement.json")
        label = f"{number} {stage.options.name} level {stage.fixed_level}"
        task.stopped.unlink(missing_ok=True)
        with lines.watch(
            label, partition.size, task.records, functools.partial(_stop, task, stage)
        ):
            records = map_over_blocks(
                tasks.register_block, task, len(RECORD), tasks.give_up_block
            )
        name = f"stage {number} ({stage.options.name})"
        outcome.tell_unreadable(records, name, task.errors)
        difference = outcome.reject_outliers(records, task, folder / "agreement.json")
        last = number == len(self.plan.stages) - 1
        outcome.check_any(records, name, task.errors, last=last)
        if stage.reduction is not None:
            state, records, disagreement = self._reduced(
                number, stage, state, task, records
            )
        else:
            disagreement = map_over_blocks(
                blend_block, task.remembering(), 1, together=TOGETHER
            )[..., 0]
            state = _State(FieldReader(task.field, field_grid), None)
        self.directory.discard_patches(number)
        arrays = {name: records[..., i] for i, name in enumerate(RECORD)}
        arrays["disagreement"] = disagreement
        arrays["neighbour_difference"] = difference
        return state, arrays

    def _reduced(
        self,
        number: int,
        stage: PlannedStage,
        state: _State,
        task: BlockTask,
        records: NDArray[np.float32],
    ) -> tuple[_State, NDArray[np.float32], NDArray[np.float32]]:
        """Make one transform of the blocks, before the field so far.

        Returns the records with the blocks marked that it was made without, and by how
        much it misses each block.
        """
        if not (records[..., 0] == BlockStatus.SUCCESS).any():
            return state, records, np.full(records.shape[:-1], np.nan, np.float32)
        try:
            found = reduce_blocks(
                task, records, stage.reduction, self.directory.stage(number)
            )
        except Exception as error:
            error.add_note(f"in the reduction of stage {number} ({stage.options.name})")
            raise
        records = records.copy()
        records[found.rejected, RECORD.index("status")] = BlockStatus.REJECTED
        if found.update.ndim == 2:
            return self._preceded(state, found.update), records, found.residual
        grid = task.partition.field_grid
        reach = np.abs(found.update).reshape(grid.ndim, -1).max(axis=1)
        before = state.reader.read_around(grid, reach)
        task.field[:] = kernels.compose_displacements(found.update, grid, *before)
        return _State(FieldReader(task.field, grid), None), records, found.residual

    @staticmethod
    def _linear_options(stage: PlannedStage) -> dict[str, Any]:
        options = stage.options.engine_options()
        if stage.by_elastix:
            options["memory_limit"] = stage.memory_limit
        return options

    def _method_options(self, stage: PlannedStage) -> dict[str, Any]:
        if isinstance(stage.options, Custom):
            return dict(stage.options.options)
        options = stage.engine_options
        if isinstance(stage.options, LocalCorrelation):
            # What is noise, and how long a step may be, is measured on the whole
            # images, so that blocks agree.
            contrast = self.fixed.contrast, self.moving.contrast
            options["contrast"] = list(zip(*contrast, strict=True))
            options["stiffness"] = self.fixed.stiffness
            options["threads"] = max(1, CPU_COUNT // stage.partition.size)
        return options

    def _result(
        self, state: _State, records: list[dict[str, NDArray[np.float32]]]
    ) -> xr.Dataset:
        grid = self.plan.fixed.grids[0]
        matrix = state.matrix
        manifest = self.manifest | {
            f"{source.name}_mask": {"auto": True, "share": source.foreground_share}
            for source in (self.fixed, self.moving)
            if source.foreground_share is not None
        }
        moving = self.plan.moving.grids[0]
        attrs = {
            f"{name}_grid": json.dumps(image.to_dict())
            for name, image in (("fixed", grid), ("moving", moving))
        }
        # With its grid, so that a look at the field can tell where a block lies.
        manifest["stages"] = [
            describe_stage(stage) | {"grid": stage.partition.grid.to_dict()}
            for stage in self.plan.stages
        ]
        if self.choice is not None:
            manifest["choice"] = asdict(self.choice)
            attrs["metric"] = str(self.choice)
        attrs["xdreg"] = json.dumps(manifest)
        if self.pose is not None:
            attrs["pose"] = json.dumps(self.pose)
        if matrix is not None:
            attrs["matrix"] = json.dumps(matrix.tolist())
        else:
            # Earlier linear stages were folded into the field.
            attrs["linear_part"] = "included"
        return assemble_field(state.reader, records, self.plan.stages, attrs)


def _stop(task: BlockTask, stage: PlannedStage) -> None:
    """Have no further block begin, and end those that run in processes of ours."""
    task.stopped.touch()
    if stage.isolated:
        processes.shutdown()


def _method(stage: PlannedStage) -> Callable[..., Any]:
    """Return what registers a block; a user's method, unless it may not, isolated."""
    options = stage.options
    if isinstance(options, Custom) and options.isolated:
        return Isolated.of(stage.method, options.timeout, stage.memory_limit)
    return stage.method


def _safer(stage: PlannedStage, options: dict[str, Any]) -> dict[str, Any] | None:
    """Return options for a second attempt; None where none are known to be safer."""
    if isinstance(stage.options, LocalCorrelation):
        return safer(options, stage.partition.grid)
    return None
