"""Registration as map-reduce: stages, map over blocks, blend.

Each stage maps `register_block` over a Dataset of block numbers by `xarray.map_blocks`,
then `blend_block` over the same, and hands its field to the next one.
"""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import dask
import dask.array
import numpy as np
import xarray as xr
from dask.system import CPU_COUNT

from xdreg import elastix, kernels, processes, tasks
from xdreg.blocks import BlockStatus, Partition
from xdreg.choice import Choice
from xdreg.errors import InputError, MethodError
from xdreg.field import assemble_field, open_displacement
from xdreg.inputs import (
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
from xdreg.local_correlation import local_correlation
from xdreg.options import OWN_METRICS, BSpline, Custom, Linear, LocalCorrelation
from xdreg.planning import Plan, PlannedStage, Pyramid, make_plan
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
    from xdreg.inputs import Channels
    from xdreg.options import MetricOrAuto
    from xdreg.readers import Selection

BLOCK_PREFIX = "block_"

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
    fixed_mask, moving_mask : DataArray or DataTree, optional
        Voxels that count are not zero. On the grid of any level of its image.
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
        masks: list[Pyramid | None],
        start: Any,
        manifest: dict[str, Any],
        progress: bool,
    ) -> None:
        self.manifest, self.progress = manifest, progress
        self.plan, self.directory, self.masks = plan, directory, masks
        self.pyramids = {"fixed": plan.fixed, "moving": plan.moving}
        self.select = dict(zip(("fixed", "moving"), select, strict=True))
        self.start = start
        self.choice: Choice | None = None
        self.contrast: dict[str, list[float]] = {"fixed": [], "moving": []}
        self._readers: dict[tuple[str, int, int], ImageReader] = {}

    def __call__(self) -> xr.Dataset:
        """Run all stages and return the field."""
        with StageProgress(enabled=self.progress) as lines:
            return self._execute(lines)

    def _execute(self, lines: StageProgress) -> xr.Dataset:
        for name, pyramid in self.pyramids.items():
            for channel in range(len(self.select[name])):
                self._check_content(name, pyramid.overview, channel)
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
        if file.exists():
            choice = Choice(**json.loads(file.read_text()))
        else:
            level = self.plan.fixed.overview
            like = self.plan.moving.level_like(self.plan.fixed.grids[level])
            first = self.plan.stages[0].options
            task = dask.delayed(_choice_task, pure=False)(
                _Opaque(
                    self._inputs(level, max(like, self.plan.moving.overview), state),
                    "choice",
                ),
                state.matrix,
                kind=first.name if isinstance(first, Linear) else "affine",
                search=self.start is None and isinstance(first, Linear),
            )
            with lines.watch("metric", 1, None, self.directory.path):
                choice = task.compute()
            partial = file.with_suffix(".part")
            partial.write_text(json.dumps(asdict(choice)))
            partial.rename(file)
        self.choice, self.plan = choice, self.plan.decided(choice.metric)
        _log.info("%s", choice)
        lines.say(str(choice))

    def _inputs(self, fixed_level: int, moving_level: int, state: _State) -> Inputs:
        fixed = self.reader("fixed", fixed_level)
        moving = self.reader("moving", moving_level)
        masks = [
            None if mask is None else mask_reader(mask, image.grid)
            for mask, image in zip(self.masks, (fixed, moving), strict=True)
        ]
        others = tuple(
            (
                self.reader("fixed", fixed_level, channel),
                self.reader("moving", moving_level, channel),
            )
            for channel in range(1, len(self.select["fixed"]))
        )
        return Inputs(fixed, moving, masks[0], masks[1], state.reader, others)

    def _linear(
        self, number: int, stage: PlannedStage, state: _State, lines: StageProgress
    ) -> tuple[_State, dict[str, NDArray[np.float32]]]:
        """Run a linear stage, as one task."""
        inputs = self._inputs(stage.fixed_level, stage.moving_level, state)
        grid = self.plan.fixed.grids[0]
        folder = self.directory.stage(number)
        done = folder / "linear.json"
        if done.exists():
            stored = json.loads(done.read_text())
            matrix, record = np.array(stored["matrix"]), stored["record"]
        else:
            search = self.start is None and not any(
                isinstance(s.options, Linear) for s in self.plan.stages[:number]
            )
            task = dask.delayed(_linear_task, pure=False)(
                _Opaque(inputs, "linear"),
                state.matrix,
                kind=stage.options.name,
                metric=stage.metric,
                options=stage.options.engine_options(),
                search=search and number == 0,
            )
            with lines.watch(f"{number} {stage.options.name}", 1, None, folder):
                matrix, record = task.compute()
            folder.mkdir(parents=True, exist_ok=True)
            partial = done.with_suffix(".part")
            values = {name: float(value) for name, value in record.items()}
            partial.write_text(
                json.dumps({"matrix": matrix.tolist(), "record": values})
            )
            partial.rename(done)
        arrays = {
            name: np.full((1,) * grid.ndim, record[name], np.float32) for name in RECORD
        }
        arrays["disagreement"] = np.full((1,) * grid.ndim, np.nan, np.float32)
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

    def _blockwise(
        self, number: int, stage: PlannedStage, state: _State, lines: StageProgress
    ) -> tuple[_State, dict[str, NDArray[np.float32]]]:
        """Run a deformable stage: map over blocks, then blend."""
        partition, folder = stage.partition, self.directory.stage(number)
        (folder / "errors").mkdir(parents=True, exist_ok=True)
        counts, ndim = partition.counts, partition.grid.ndim
        ones = (1,) * ndim
        patch = (ndim, *partition.patch_shape)
        field_grid = partition.field_grid
        task = BlockTask(
            inputs=self._inputs(stage.fixed_level, stage.moving_level, state),
            partition=partition,
            method=_method(stage),
            options=self._method_options(stage),
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
            records = map_over_blocks(_register_chunk, partition, task, len(RECORD))
        self._check_any(records, number, stage, folder / "errors")
        disagreement = map_over_blocks(_blend_chunk, partition, task, 1)[..., 0]
        self.directory.discard_patches(number)
        arrays = {name: records[..., i] for i, name in enumerate(RECORD)}
        arrays["disagreement"] = disagreement
        return _State(FieldReader(task.field, field_grid), None), arrays

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
        if matrix is not None:
            attrs["matrix"] = json.dumps(matrix.tolist())
        else:
            # Earlier linear stages were folded into the field.
            attrs["linear_part"] = "included"
        return assemble_field(state.reader, records, self.plan.stages, attrs)


class _Opaque:
    """Hides a value from Dask, which would take dataclasses apart.

    Its token names the step, for `xarray.map_blocks` leaves the function out of its
    keys.
    """

    def __init__(self, value: Any, step: str) -> None:
        self.value, self.step = value, step

    def __dask_tokenize__(self) -> object:
        """Identify by step and content."""
        return ("xdreg._Opaque", self.step, dask.base.tokenize(self.value))


def _choice_task(inputs: _Opaque, *arguments: Any, **options: Any) -> Choice:
    """Choose a metric on a worker."""
    return tasks.choose(inputs.value, *arguments, **options)


def _linear_task(inputs: _Opaque, *arguments: Any, **options: Any) -> Any:
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


def map_over_blocks(
    function: Callable[..., xr.DataArray],
    partition: Partition,
    task: BlockTask,
    width: int,
) -> NDArray[np.float32]:
    """Run a task for every block by `xarray.map_blocks`, on the active scheduler.

    Parameters
    ----------
    function
        Module-level function of a chunk of block numbers; see `_register_chunk`.
    partition
        The blocks.
    task
        What they share.
    width
        Diagnostics per block that the function returns.

    Returns
    -------
    (*counts, width) float32
    """
    dims = tuple(BLOCK_PREFIX + dim for dim in partition.grid.dims)
    numbers = np.arange(partition.size).reshape(partition.counts)
    blocks = xr.DataArray(dask.array.from_array(numbers, chunks=1), dims=dims)
    template = xr.DataArray(
        dask.array.empty(
            (*partition.counts, width),
            dtype=np.float32,
            chunks=(1,) * len(dims) + (width,),
        ),
        dims=(*dims, "diagnostic"),
    )
    mapped = xr.map_blocks(
        function,
        blocks,
        kwargs={"task": _Opaque(task, function.__name__)},
        template=template,
    )
    return np.asarray(mapped.compute().values, np.float32)


def _block_index(numbers: xr.DataArray, task: BlockTask) -> tuple[int, ...]:
    index = np.unravel_index(int(numbers.values.ravel()[0]), task.partition.counts)
    return tuple(int(i) for i in index)


def _register_chunk(numbers: xr.DataArray, task: _Opaque) -> xr.DataArray:
    """Register the block that a chunk of numbers names."""
    index = _block_index(numbers, task.value)
    try:
        record = tasks.register_block(index, task.value)
    except Exception as error:
        error.add_note(f"while registering block {index}")
        raise
    return _as_chunk(numbers, record)


def _blend_chunk(numbers: xr.DataArray, task: _Opaque) -> xr.DataArray:
    """Blend the field chunk that a chunk of numbers names."""
    index = _block_index(numbers, task.value)
    try:
        disagreement = tasks.blend_block(index, task.value)
    except Exception as error:
        error.add_note(f"while blending block {index}")
        raise
    return _as_chunk(numbers, np.array([disagreement], np.float32))


def _as_chunk(numbers: xr.DataArray, values: NDArray[np.float32]) -> xr.DataArray:
    shape = (1,) * numbers.ndim + (len(values),)
    return xr.DataArray(values.reshape(shape), dims=(*numbers.dims, "diagnostic"))


def _method(stage: PlannedStage) -> Callable[..., Any]:
    if isinstance(stage.options, Custom):
        return stage.options.method
    if isinstance(stage.options, LocalCorrelation):
        return local_correlation
    return elastix.bspline
