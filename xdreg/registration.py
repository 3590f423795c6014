"""Registration as map-reduce: stages, map over blocks, blend.

Each stage maps `register_block` over a Dataset of block numbers by `xarray.map_blocks`,
then `blend_block` over the same, and hands its field to the next one.
"""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import dask
import dask.array
import numpy as np
import xarray as xr
from dask.system import CPU_COUNT

from xdreg import elastix, kernels, processes, tasks
from xdreg.agreement import outliers, tolerance
from xdreg.blocks import BlockStatus
from xdreg.choice import Choice
from xdreg.errors import InputError, MethodError
from xdreg.field import assemble_field, open_displacement
from xdreg.foreground import foreground
from xdreg.inputs import (
    AUTO,
    check_joint,
    check_mask,
    check_overlap,
    describe_stage,
    mask_pyramid,
    mask_reader,
    run_manifest,
    selections,
    starting_point,
)
from xdreg.local_correlation import local_correlation, safer
from xdreg.mapping import Opaque, map_over_blocks
from xdreg.options import OWN_METRICS, BSpline, Custom, Linear, LocalCorrelation
from xdreg.planning import Plan, PlannedStage, Pyramid, make_plan
from xdreg.pose import DOUBTFUL, Pose, pose_text
from xdreg.progress import StageProgress
from xdreg.pyramid import downsample
from xdreg.readers import (
    FieldReader,
    ImageReader,
    image_reader,
)
from xdreg.tasks import RECORD, BlockTask, Inputs
from xdreg.workdir import WorkDirectory, open_array

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from xdreg.grid import Grid
    from xdreg.inputs import Channels, Mask
    from xdreg.options import MetricOrAuto
    from xdreg.readers import Selection

_log = logging.getLogger(__name__)

#: An automatic mask that leaves a smaller share of an image is doubted.
LEAST_FOREGROUND = 0.01

_log = logging.getLogger(__name__)


def register(
    fixed: Any,
    moving: Any,
    *,
    stages: Any = None,
    metric: MetricOrAuto = "auto",
    block_shape: int | Sequence[int] | None = None,
    overlap: int | Sequence[int] | None = None,
    fixed_mask: Any = None,
    moving_mask: Any = None,
    initial: Any = None,
    channel: Channels = None,
    moving_channel: Channels = None,
    workdir: str | Path | None = None,
    progress: bool = True,
    compute: bool = True,
) -> xr.Dataset:
    """Find the displacement field that maps the fixed image onto the moving one.

    Runs stage by stage, coarse to fine, each cut in overlapping blocks. With a
    ``dask.distributed`` client active the blocks run there, else on all local cores.

    Parameters
    ----------
    fixed, moving : DataTree, DataArray or itk.Image
        The pair, two- or three-dimensional, with physical coordinates.
    stages
        A stage or a list of them, such as ``[xdreg.Affine(), xdreg.BSpline(level=1)]``,
        or functions of two images. By default affine, then local correlation from a
        coarse to the finest level.
    metric
        ``"lncc"``, local correlation, or ``"ncc"`` for images of one modality;
        ``"mind"``, self-similarity, or ``"mi"``, mutual information, across modalities
        and stains; ``"msd"`` where intensities are equal. A stage that lacks it takes
        the nearest that it has. By default ``"auto"``, ``"lncc"`` or ``"mind"`` by a
        look at a coarse level; the field's attribute ``metric`` says which and why.
    block_shape
        Voxels of a block, at the stage's level; one number or one per dim.
    overlap
        Voxels by which a block's window exceeds it on every side.
    fixed_mask, moving_mask : DataArray, DataTree or "auto", optional
        Voxels that count are not zero. On the grid of any level of its image.
        ``"auto"`` leaves out a uniform background around the content, except from
        linear stages, which live on the content's outline.
    initial : itk.Transform, Dataset or (ndim + 1, ndim + 1) array, optional
        Where to start: a transform, a field, or a homogeneous matrix in dims order,
        fixed → moving, physical units.
    channel, moving_channel
        Index or name of the channel to register, or ``"luminance"`` of an RGB image
        (weights of ITU-R BT.709); ``moving_channel`` is ``channel`` unless given, where
        the moving image has any. A list of channels, or ``"all"``, is registered
        jointly: in `LocalCorrelation` the forces of all are summed, each channel of the
        fixed image pulling at that of the moving one; the pose, linear stages and the
        choice of a metric go by the first.
    workdir
        Directory to keep the run in; the same call again resumes it. By default a
        temporary one, removed when Python ends.
    progress
        Show a line per stage, on a terminal and in a notebook.
    compute
        False checks everything and returns a ``dask.delayed`` object that runs.

    Returns
    -------
    Dataset
        ``displacement (component, [z], y, x)`` float32 in the units of the fixed
        coordinates, ``x_moving = x_fixed + u(x_fixed)``, with a status and diagnostics
        for every block. Backed lazily by the work directory.

    Raises
    ------
    InputError
        If anything given does not fit, before any block runs.
    MethodError
        If every block of a stage fails.

    Examples
    --------
    >>> import xdreg
    >>> pair = xdreg.datasets.phantom_pair((48, 56), amplitude=2.0)
    >>> field = register(pair.fixed, pair.moving, progress=False)
    >>> field.displacement.dims
    ('component', 'y', 'x')
    """
    plan = make_plan(
        fixed,
        moving,
        stages=stages,
        metric=metric,
        block_shape=block_shape,
        overlap=overlap,
        initial_is_field=_is_field_like(initial),
    )
    start = starting_point(initial, plan.fixed.grids[0])
    check_overlap(plan, start)
    if moving_channel is None and "c" in plan.moving.finest.dims:
        moving_channel = channel
    select = [
        selections(pyramid, chosen, name)
        for pyramid, chosen, name in (
            (plan.fixed, channel, "fixed"),
            (plan.moving, moving_channel, "moving"),
        )
    ]
    check_joint(plan, select)
    masks = [
        mask_pyramid(mask, pyramid.grids[0], name)
        for mask, pyramid, name in (
            (fixed_mask, plan.fixed, "fixed_mask"),
            (moving_mask, plan.moving, "moving_mask"),
        )
    ]
    for pyramid, name in zip(masks, ("fixed_mask", "moving_mask"), strict=True):
        check_mask(pyramid, name)
    # Made here and not where a delayed run ends up, so that it lasts as long as this
    # Python.
    directory = WorkDirectory(workdir)
    manifest = run_manifest(plan, start, masks, select)
    directory.claim(manifest)
    run = _Run(plan, directory, select, masks, start, manifest, progress)
    return run() if compute else dask.delayed(run, pure=False)()  # type: ignore[no-any-return]


def plan(fixed: Any, moving: Any, **options: Any) -> Plan:
    """Return what `register` would do with the same arguments; nothing runs.

    Parameters
    ----------
    fixed, moving : DataTree, DataArray or itk.Image
        The pair.
    **options
        ``stages``, ``metric``, ``block_shape``, ``overlap``, ``initial`` as in
        `register`.

    Returns
    -------
    Plan
        Printing it shows a table of stages. The metric ``"auto"`` stays open: choosing
        would read the images.
    """
    initial = options.pop("initial", None)
    defaults: dict[str, Any] = {
        "stages": None,
        "metric": "auto",
        "block_shape": None,
        "overlap": None,
    }
    unknown = options.keys() - defaults.keys()
    if unknown:
        msg = f"plan does not take {sorted(unknown)}; it takes {sorted(defaults)}"
        raise InputError(msg)
    result = make_plan(
        fixed,
        moving,
        **(defaults | options),
        initial_is_field=_is_field_like(initial),
    )
    starting_point(initial, result.fixed.grids[0])
    return result


def _is_field_like(initial: Any) -> bool:
    """Tell whether a run starts from more than a linear transform."""
    if hasattr(initial, "IsLinear"):
        return not initial.IsLinear()
    return isinstance(initial, xr.Dataset)


@dataclass
class _State:
    """The displacement so far; ``matrix`` is set while it is linear."""

    reader: FieldReader
    matrix: NDArray[np.float64] | None


class _Run:
    """One registration under way."""

    def __init__(
        self,
        plan: Plan,
        directory: WorkDirectory,
        select: list[list[dict[str, Selection]]],
        masks: list[Mask],
        start: Any,
        manifest: dict[str, Any],
        progress: bool,
    ) -> None:
        self.manifest, self.progress = manifest, progress
        self.plan, self.directory = plan, directory
        self.masks = dict(zip(("fixed", "moving"), masks, strict=True))
        self.pyramids = {"fixed": plan.fixed, "moving": plan.moving}
        self.select = dict(zip(("fixed", "moving"), select, strict=True))
        self.start = start
        self.choice: Choice | None = None
        self.found: Pose | None = None
        self.pose: dict[str, Any] | None = None
        self.contrast: dict[str, list[float]] = {"fixed": [], "moving": []}
        self.foregrounds: dict[str, ImageReader] = {}
        self._readers: dict[tuple[str, int, int], ImageReader] = {}

    def __call__(self) -> xr.Dataset:
        """Run all stages and return the field."""
        with StageProgress(enabled=self.progress) as lines:
            return self._execute(lines)

    def _execute(self, lines: StageProgress) -> xr.Dataset:
        for name, pyramid in self.pyramids.items():
            for channel in range(len(self.select[name])):
                self._check_content(name, pyramid.overview, channel)
            if self.masks[name] == AUTO:
                self._find_foreground(name, pyramid.overview)
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

    def reader(self, name: str, level: int, channel: int = 0) -> ImageReader:
        """Return the reader of one level of an image, making the level if need be.

        ``channel`` counts those that are registered.
        """
        key = (name, level, channel)
        if key not in self._readers:
            pyramid = self.pyramids[name]
            array, grid = pyramid.arrays[level], pyramid.grids[level]
            if array is not None:
                self._readers[key] = image_reader(
                    array, name, grid=grid, select=self.select[name][channel]
                )
            else:
                self._readers[key] = self._make_level(name, level, channel)
        return self._readers[key]

    def _make_level(self, name: str, level: int, channel: int) -> ImageReader:
        """Store a level that the pyramid lacks: means of the level before it."""
        folder = f"{name}_levels" + (f"_{channel}" if channel else "")
        path = self.directory.path / folder / f"{level}.zarr"
        grid = self.pyramids[name].grids[level]
        finer = self.reader(name, level - 1, channel)
        if not path.exists():
            factors = tuple(
                round(c / f)
                for c, f in zip(grid.spacing, finer.grid.spacing, strict=True)
            )
            partial = path.with_suffix(".part")
            image = dask.array.from_array(
                _FiniteView(finer), chunks=(128,) * grid.ndim, meta=np.empty((), "f4")
            )
            chunks = (64,) * grid.ndim
            store = open_array(partial, grid.shape, chunks, np.nan, compress=True)
            coarse = downsample(image, factors).rechunk(chunks)
            dask.array.store(coarse, store, lock=False)
            partial.rename(path)
        return ImageReader(open_array(path, (), (), np.nan), grid, grid.dims)

    def _check_content(self, name: str, level: int, channel: int) -> None:
        """Refuse an image with nothing in it, warn of NaN, note its contrast."""
        values = self.reader(name, level, channel).read_finite()
        finite = np.isfinite(values)
        if not finite.any() or values[finite].min() == values[finite].max():
            what = "no finite value" if not finite.any() else "one and the same value"
            msg = f"{name} holds {what} everywhere; is it the right image or channel?"
            raise InputError(msg)
        self.contrast[name].append(float(values[finite].std(dtype=np.float64)))
        if not finite.all():
            share = 100 * (1 - finite.mean())
            warnings.warn(
                f"{share:.2g} % of {name} is not finite at level {level}; those voxels "
                "are masked out",
                stacklevel=5,
            )

    def _find_foreground(self, name: str, level: int) -> None:
        """Store what counts of an image, found at a coarse level."""
        image = self.reader(name, level)
        path = self.directory.path / f"{name}_foreground.zarr"
        # A level may end before its image does, by less than a voxel of its own.
        wide = replace(
            image.grid,
            shape=tuple(n + 2 for n in image.grid.shape),
            origin=tuple(image.grid.index_to_physical([-1] * image.grid.ndim).tolist()),
        )
        if not path.exists():
            mask = np.pad(foreground(image.read_finite()), 1, mode="edge")
            partial = path.with_suffix(".part")
            store = open_array(partial, wide.shape, wide.shape, 0, compress=True)
            store[:] = mask.astype(np.float32)
            partial.rename(path)
        reader = ImageReader(open_array(path, (), (), 0), wide, wide.dims)
        self.foregrounds[name] = reader
        inner = reader.read((slice(1, -1),) * wide.ndim)
        share = float((inner != 0).mean())
        self.manifest = self.manifest | {f"{name}_mask": {"auto": True, "share": share}}
        if share < LEAST_FOREGROUND or share == 1:
            what = (
                "found no background, so that every voxel counts"
                if share == 1
                else f"leaves {100 * share:.2g} % of the image"
            )
            warnings.warn(
                f"{name}_mask='auto' {what}; give a mask if that is not so",
                stacklevel=5,
            )

    def _warm_engines(self) -> None:
        """Start engine processes while the first levels are read."""
        if any(
            isinstance(s.options, (Linear, BSpline)) and s.metric not in OWN_METRICS
            for s in self.plan.stages
        ):
            processes.prepare(1, "xdreg.elastix")

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
            reader = open_displacement(self.start)
            scaled = reader.grid.to_units(grid.units)
            if scaled == reader.grid:
                return reader
            ratio = scaled.spacing[0] / reader.grid.spacing[0]
            return FieldReader(np.asarray(reader.source[:]) * ratio, scaled)
        from xdreg.itk_bridge import displacement_from_itk

        coarse = self.plan.stages[0].partition.field_grid
        return FieldReader(displacement_from_itk(self.start, coarse), coarse)

    def _choose_metric(self, state: _State, lines: StageProgress) -> None:
        """Decide the stages' metric, by a look at a coarse level or as before."""
        file = self.directory.path / "choice.json"
        if not file.exists():
            first = self.plan.stages[0]
            linear = isinstance(first.options, Linear)
            # Where the first stage looks for the pose, so that it is found once.
            levels = first.fixed_level, first.moving_level
            if not linear:
                level = self.plan.fixed.overview
                like = self.plan.moving.level_like(self.plan.fixed.grids[level])
                levels = level, max(like, self.plan.moving.overview)
            task = dask.delayed(_choice_task, pure=False)(
                Opaque(self._inputs(*levels, state, linear=True), "choice"),
                state.matrix,
                kind=first.options.name if linear else "affine",
                search=self.start is None and linear,
                threads=CPU_COUNT,
            )
            with lines.watch("metric", 1, None, self.directory.path):
                choice, pose = task.compute()
            found = {
                "choice": asdict(choice),
                "pose": None if pose is None else pose.to_json(),
            }
            partial = file.with_suffix(".part")
            partial.write_text(json.dumps(found))
            partial.rename(file)
        stored = json.loads(file.read_text())
        self.choice = Choice(**stored["choice"])
        if stored["pose"] is not None:
            self.found = Pose.from_json(stored["pose"])
        self.plan = self.plan.decided(self.choice.metric)
        _log.info("%s", self.choice)
        lines.say(str(self.choice))

    def _inputs(
        self, fixed_level: int, moving_level: int, state: _State, *, linear: bool
    ) -> Inputs:
        fixed = self.reader("fixed", fixed_level)
        moving = self.reader("moving", moving_level)
        masks = [
            self._mask(name, image.grid, linear=linear)
            for name, image in (("fixed", fixed), ("moving", moving))
        ]
        others = tuple(
            (
                self.reader("fixed", fixed_level, channel),
                self.reader("moving", moving_level, channel),
            )
            for channel in range(1, len(self.select["fixed"]))
        )
        return Inputs(fixed, moving, masks[0], masks[1], state.reader, others)

    def _mask(self, name: str, grid: Grid, *, linear: bool) -> ImageReader | None:
        mask = self.masks[name]
        if isinstance(mask, Pyramid):
            return mask_reader(mask, grid)
        # Where an image lies shows in its outline, which background makes visible.
        return None if linear else self.foregrounds.get(name)

    def _linear(
        self, number: int, stage: PlannedStage, state: _State, lines: StageProgress
    ) -> tuple[_State, dict[str, NDArray[np.float32]]]:
        """Run a linear stage, as one task."""
        levels = stage.fixed_level, stage.moving_level
        inputs = self._inputs(*levels, state, linear=True)
        grid = self.plan.fixed.grids[0]
        folder = self.directory.stage(number)
        done = folder / "linear.json"
        if done.exists():
            stored = json.loads(done.read_text())
            matrix, record = np.array(stored["matrix"]), stored["record"]
            pose = stored["pose"]
        else:
            search = self.start is None and not any(
                isinstance(s.options, Linear) for s in self.plan.stages[:number]
            )
            task = dask.delayed(_linear_task, pure=False)(
                Opaque(inputs, "linear"),
                state.matrix,
                kind=stage.options.name,
                metric=stage.metric,
                options=stage.options.engine_options(),
                search=search and number == 0,
                pose=self.found if number == 0 else None,
                threads=CPU_COUNT,
            )
            with lines.watch(f"{number} {stage.options.name}", 1, None, folder):
                matrix, record, found = task.compute()
            pose = None if found is None else found.to_dict()
            folder.mkdir(parents=True, exist_ok=True)
            partial = done.with_suffix(".part")
            values = {name: float(value) for name, value in record.items()}
            stored = {"matrix": matrix.tolist(), "record": values, "pose": pose}
            partial.write_text(json.dumps(stored))
            partial.rename(done)
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
        before = state.reader
        whole, _ = before.read_around(before.grid)
        update = kernels.resample_displacement(
            *kernels.affine_displacement(matrix, before.grid), before.grid
        )
        total = kernels.compose(update, before.grid, whole, before.grid)
        return _State(FieldReader(total, before.grid), None), arrays

    def _tell_pose(self, pose: dict[str, Any], units: str | None) -> None:
        """Keep the pose for the field, log it, and warn where another fits as well."""
        self.pose = pose
        _log.info("pose: %s", pose_text(pose, units))
        if pose["margin"] < DOUBTFUL:
            warnings.warn(
                f"two different poses fit about equally well; took "
                f"{pose_text(pose, units)}. Check the result, and if it is wrong say "
                "where the images meet with initial=, a matrix or an ITK transform",
                stacklevel=6,
            )

    def _blockwise(
        self, number: int, stage: PlannedStage, state: _State, lines: StageProgress
    ) -> tuple[_State, dict[str, NDArray[np.float32]]]:
        """Run a deformable stage: map over blocks, then blend."""
        partition, folder = stage.partition, self.directory.stage(number)
        levels = stage.fixed_level, stage.moving_level
        (folder / "errors").mkdir(parents=True, exist_ok=True)
        counts, ndim = partition.counts, partition.grid.ndim
        ones = (1,) * ndim
        patch = (ndim, *partition.patch_shape)
        field_grid = partition.field_grid
        task = BlockTask(
            inputs=self._inputs(*levels, state, linear=False),
            partition=partition,
            method=_method(stage),
            options=self._method_options(stage),
            safer=_safer(stage, self._method_options(stage)),
            metric=stage.metric,
            patches=open_array(folder / "patches", counts + patch, ones + patch, 0),
            records=open_array(
                folder / "records", (*counts, len(RECORD)), (*ones, len(RECORD)), np.nan
            ),
            field=open_array(
                folder / "field",
                (ndim, *field_grid.shape),
                (ndim, *partition.field_chunks),
                np.nan,
            ),
            disagreement=open_array(folder / "disagreement", counts, ones, np.inf),
            errors=folder / "errors",
        )
        label = f"{number} {stage.options.name} level {stage.fixed_level}"
        with lines.watch(label, partition.size, task.records, folder / "records"):
            records = map_over_blocks(tasks.register_block, task, len(RECORD))
        difference = self._reject_outliers(records, task, folder / "agreement.json")
        self._check_any(records, number, stage, folder / "errors")
        disagreement = map_over_blocks(tasks.blend_block, task, 1)[..., 0]
        self.directory.discard_patches(number)
        arrays = {name: records[..., i] for i, name in enumerate(RECORD)}
        arrays["disagreement"] = disagreement
        arrays["neighbour_difference"] = difference
        return _State(FieldReader(task.field, field_grid), None), arrays

    @staticmethod
    def _reject_outliers(
        records: NDArray[np.float32], task: BlockTask, verdict: Path
    ) -> NDArray[np.float32]:
        """Mark the blocks that their neighbours contradict; return the differences.

        The verdict is stored before the records that it changes, so that a run which
        ends in between finds the same blocks again.
        """
        partition, most = task.partition, tolerance(task.partition)
        if not verdict.exists():
            difference = np.full(partition.counts, np.nan, np.float32)
            rejected = np.zeros(partition.counts, bool)
            if most > 0:
                width = 3**partition.grid.ndim
                gaps = map_over_blocks(tasks.compare_block, task, width)
                status, before, after = (
                    records[..., RECORD.index(name)]
                    for name in ("status", "similarity_before", "similarity_after")
                )
                rejected, difference = outliers(status, gaps, after - before, most)
            partial = verdict.with_suffix(".part")
            found = {
                "rejected": np.argwhere(rejected).tolist(),
                "difference": difference.tolist(),
            }
            partial.write_text(json.dumps(found))
            partial.rename(verdict)
        stored = json.loads(verdict.read_text())
        for index in map(tuple, stored["rejected"]):
            records[index][RECORD.index("status")] = BlockStatus.REJECTED
            task.records[index] = records[index]
        return np.array(stored["difference"], np.float32)

    def _method_options(self, stage: PlannedStage) -> dict[str, Any]:
        if isinstance(stage.options, Custom):
            return dict(stage.options.options)
        options = stage.engine_options
        if isinstance(stage.options, LocalCorrelation):
            # What is noise is measured on the whole images, so that blocks agree.
            contrast = self.contrast["fixed"], self.contrast["moving"]
            options["contrast"] = list(zip(*contrast, strict=True))
            options["threads"] = max(1, CPU_COUNT // stage.partition.size)
        return options

    @staticmethod
    def _check_any(
        records: NDArray[np.float32], number: int, stage: PlannedStage, errors: Path
    ) -> None:
        """Stop where blocks failed in the method and none succeeded; else warn."""
        status = records[..., 0]
        failed = np.isin(status, (BlockStatus.CRASHED, BlockStatus.TIMEOUT))
        if (status == BlockStatus.SUCCESS).any():
            return
        label = f"stage {number} ({stage.options.name})"
        if failed.any():
            first = next(iter(sorted(errors.glob("*.txt"))), None)
            text = first.read_text().strip() if first else "no message was left"
            # The last line but notes says what happened.
            lines = [v for v in text.splitlines() if not v.startswith("block ")]
            reason = lines[-1] if lines else text
            msg = (
                f"all {int(failed.sum())} blocks of {label} failed; the first said: "
                f"{reason}"
            )
            error = MethodError(msg)
            error.add_note(text)
            raise error
        found = sorted({BlockStatus(int(v)).meaning for v in status.ravel()})
        warnings.warn(
            f"no block of {label} contributes, they are {', '.join(found)}; the field "
            "is that of the stage before. Check the images' positions and masks",
            stacklevel=6,
        )

    def _result(
        self, state: _State, records: list[dict[str, NDArray[np.float32]]]
    ) -> xr.Dataset:
        grid = self.plan.fixed.grids[0]
        matrix = state.matrix
        manifest = self.manifest
        attrs = {"fixed_grid": json.dumps(grid.to_dict())}
        if self.choice is not None:
            stages = [describe_stage(stage) for stage in self.plan.stages]
            manifest = manifest | {"choice": asdict(self.choice), "stages": stages}
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


def _choice_task(inputs: Opaque, *arguments: Any, **options: Any) -> Any:
    """Choose a metric on a worker."""
    return tasks.choose(inputs.value, *arguments, **options)


def _linear_task(inputs: Opaque, *arguments: Any, **options: Any) -> Any:
    """Run a linear stage on a worker."""
    return tasks.register_linear(inputs.value, *arguments, **options)


class _FiniteView:
    """An image reader as an array that Dask can chunk."""

    def __init__(self, reader: ImageReader) -> None:
        self._reader = reader
        self.shape, self.ndim = reader.grid.shape, reader.grid.ndim
        self.dtype = np.dtype(np.float32)

    def __getitem__(self, window: tuple[slice, ...]) -> NDArray[np.float32]:
        """Read one window."""
        return self._reader.read_finite(window)

    def __dask_tokenize__(self) -> object:
        """Identify by the reader."""
        return self._reader.__dask_tokenize__()


def _method(stage: PlannedStage) -> Callable[..., Any]:
    if isinstance(stage.options, Custom):
        return stage.options.method
    if isinstance(stage.options, LocalCorrelation):
        return local_correlation
    return elastix.bspline


def _safer(stage: PlannedStage, options: dict[str, Any]) -> dict[str, Any] | None:
    """Return options for a second attempt; None where none are known to be safer."""
    if isinstance(stage.options, LocalCorrelation):
        return safer(options, stage.partition.grid)
    return None
