"""What runs on a worker: registering one block, blending one field chunk.

Functions here see arrays, readers and grids; they never build graphs. A block leaves
its patch in the work directory and returns diagnostics only, so no voxels cross the
scheduler.
"""

from __future__ import annotations

import socket
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xdreg import kernels, metrics
from xdreg.agreement import compare
from xdreg.block_array import BlockArray, Remembering, store_window
from xdreg.blocks import MOVING_MARGIN, BlockStatus, Partition, shared_part
from xdreg.coordinates import coordinates, grid_of
from xdreg.errors import (
    Interrupted,
    MethodError,
    MethodTimeout,
    StoreError,
    UnreadableError,
)
from xdreg.interpolation import Spline
from xdreg.local_correlation import local_similarity
from xdreg.options import OWN_METRICS
from xdreg.workdir import intact

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import zarr
    from numpy.typing import NDArray

    from xdreg.grid import Grid
    from xdreg.readers import FieldReader, ImageReader

#: Diagnostics of a block, in the order in which its record stores them.
RECORD = (
    "status",
    "similarity_before",
    "similarity_after",
    "min_jacobian",
    "max_update",
    "attempts",
    "seconds",
)

#: A block with fewer voxels per axis that count, on average, is not registered.
MIN_SAMPLES_PER_AXIS = 8

#: Share of the window's voxels that must count.
MIN_SHARE = 0.02

#: Share of the voxels that counted before an update which must still lie on the moving
#: image after it: the similarity of fewer says little.
SUPPORTED_SHARE = 0.5

#: What is tried once more with safer options, where the method has any.
TRIED_AGAIN = (
    BlockStatus.NOT_IMPROVED,
    BlockStatus.FOLDED,
    BlockStatus.REJECTED,
    BlockStatus.CRASHED,
)


#: What the message of a block begins with that could not be read.
UNREADABLE = "unreadable:"

#: A larger share of blocks that cannot be read stops the run: the store is away rather
#: than damaged, and the stage before would fill more than a quarter of the field.
MOST_UNREADABLE = 0.25


@dataclass(frozen=True)
class Inputs:
    """The two images at one stage's levels, their masks, and the field so far.

    ``others`` are the further channels that are registered with them.
    """

    fixed: ImageReader
    moving: ImageReader
    fixed_mask: ImageReader | None
    moving_mask: ImageReader | None
    before: FieldReader
    others: tuple[tuple[ImageReader, ImageReader], ...] = ()


@dataclass(frozen=True)
class BlockTask:
    """All that the blocks of one stage need; the same for every block."""

    inputs: Inputs
    partition: Partition
    method: Callable[..., Any]
    options: Mapping[str, Any]
    safer: Mapping[str, Any] | None
    metric: str
    patches: BlockArray
    records: BlockArray
    field: zarr.Array[Any]
    disagreement: BlockArray
    errors: Path

    @property
    def stopped(self) -> Path:
        """A file that appears when no further block is to begin."""
        return self.errors.parent / "stopped"

    def __dask_tokenize__(self) -> object:
        """Identify by where results go: a work directory holds one run."""
        return ("xdreg.BlockTask", str(self.patches.path))

    def remembering(self) -> BlockTask:
        """Return the task for steps that read each block with all its neighbours."""
        return replace(
            self,
            patches=Remembering(self.patches),
            records=Remembering(self.records),
        )


@dataclass(frozen=True)
class Channel:
    """A further channel on a window; the fields are those of `Window`."""

    fixed: NDArray[np.float32]
    moving: NDArray[np.float32]
    source: Spline


@dataclass(frozen=True)
class Window:
    """Both images on one window: the moving one pulled through the field so far.

    By cubic B-splines, for the method interpolates once more: what linear interpolation
    blurs here costs up to a tenth of the accuracy. ``source`` keeps the part of the
    moving image that was read, with a margin, to judge the result on. ``others`` are
    further channels.
    """

    grid: Grid
    fixed: NDArray[np.float32]
    moving: NDArray[np.float32]
    fixed_mask: NDArray[np.bool_]
    moving_mask: NDArray[np.bool_]
    source: Spline
    before: NDArray[np.float32]
    before_grid: Grid
    others: tuple[Channel, ...] = ()


def read_window(
    inputs: Inputs, window: Sequence[slice], margin: Sequence[float]
) -> Window | BlockStatus:
    """Read both images on a window of the fixed one, or say why there is nothing to do.

    Parameters
    ----------
    inputs
        Images and field so far.
    window
        Voxels of the fixed image.
    margin : (ndim,), physical units
        How much more of the moving image to read on every side.
    """
    grid = inputs.fixed.grid.window(window)
    fixed = inputs.fixed.read_finite(window)
    fixed_mask = np.isfinite(fixed)
    if inputs.fixed_mask is not None:
        fixed_mask &= inputs.fixed_mask.read_mask(grid)
    counted = fixed[fixed_mask]
    if counted.size == 0 or counted.min() == counted.max():
        return BlockStatus.EMPTY
    before, before_grid = inputs.before.read_around(grid)
    lower, upper = kernels.moved_bounds(before, before_grid, grid)
    part = inputs.moving.grid.covering(lower - margin, upper + margin)
    if part is None:
        return BlockStatus.NO_OVERLAP
    part_grid = inputs.moving.grid.window(part)
    source = Spline(inputs.moving.read_finite(part), part_grid, limited=True)
    moving = source.warp(before, before_grid, grid)
    moving_mask = np.isfinite(moving)
    if inputs.moving_mask is not None:
        moving_mask &= inputs.moving_mask.read_mask(grid, before, before_grid)
    if not moving_mask.any():
        return BlockStatus.NO_OVERLAP
    others = []
    for one, other in inputs.others:
        more = Spline(other.read_finite(part), part_grid, limited=True)
        pulled = more.warp(before, before_grid, grid)
        others.append(Channel(one.read_finite(window), pulled, more))
        fixed_mask &= np.isfinite(others[-1].fixed)
        moving_mask &= np.isfinite(pulled)
    both = moving[fixed_mask & moving_mask]
    if both.size < max(MIN_SAMPLES_PER_AXIS**grid.ndim, MIN_SHARE * grid.size):
        return BlockStatus.TOO_FEW_SAMPLES
    if both.min() == both.max():
        return BlockStatus.EMPTY
    return Window(
        grid,
        fixed,
        moving,
        fixed_mask,
        moving_mask,
        source,
        before,
        before_grid,
        tuple(others),
    )


def masked_image(
    values: NDArray[np.float32], mask: NDArray[np.bool_], grid: Grid
) -> xr.DataArray:
    """Return the image that a method is given: no NaN, a coordinate ``mask``.

    ``values`` may have channels, as the first axis.
    Voxels without a value take the smallest one that counts, which is the background of
    most images, so that no false edge is made inside it.
    """
    known = np.isfinite(values)
    if not known.all():
        values = np.where(known, values, values[known].min() if known.any() else 0)
    return xr.DataArray(
        np.ascontiguousarray(values, np.float32),
        dims=("c", *grid.dims)[-values.ndim :],
        coords=coordinates(grid, mask=mask),
    )


def similarity(
    metric: str,
    a: NDArray[Any],
    b: NDArray[Any],
    mask: NDArray[np.bool_],
    grid: Grid,
) -> float:
    """Return how similar two images are in the sense of a metric; larger is better."""
    if metric in OWN_METRICS:
        return local_similarity(metric, a, b, mask, grid)
    if metric == "mi":
        return metrics.mutual_information(a, b, mask)
    return metrics.normalised_correlation(a, b, mask)


def as_displacement(result: object, grid: Grid) -> NDArray[np.float32]:
    """Bring what a method returned onto the window's grid.

    Parameters
    ----------
    result : itk.Transform or DataArray (component, [z], y, x)
        Fixed → moving, physical units.
    grid
        Grid of the window.

    Returns
    -------
    (ndim, *grid.shape) float32

    Raises
    ------
    MethodError
        If it is something else, has NaN, or does not lie on the window. Without
        coordinates it must have the window's shape.
    """
    if not isinstance(result, xr.DataArray):
        from xdreg.itk_bridge import displacement_from_itk  # itk loads slowly

        return displacement_from_itk(result, grid)
    expected = ("component", *grid.dims)
    if set(result.dims) != set(expected) or result.sizes["component"] != grid.ndim:
        msg = (
            f"the method returned dimensions {dict(result.sizes)}, expected {expected} "
            f"with {grid.ndim} components"
        )
        raise MethodError(msg)
    result = result.transpose(*expected)
    bare = not any(dim in result.coords for dim in grid.dims)
    values = np.asarray(result.values, np.float32)
    if not np.isfinite(values).all():
        msg = "the method returned NaN or infinity"
        raise MethodError(msg)
    own_grid = grid
    if not bare or result.shape[1:] != grid.shape:
        own_grid = grid_of(result.isel(component=0, drop=True), "the method's result")
    return kernels.resample_displacement(values, own_grid, grid)


def register_block(index: tuple[int, ...], task: BlockTask) -> NDArray[np.float32]:
    """Register one block, store its patch and then its record; return the record.

    A block whose record is stored already is not run again.
    """
    check_there(task)
    if task.stopped.exists():
        msg = "the run was stopped; the same call with the same workdir goes on"
        raise Interrupted(msg)
    stored = read_record(index, task)
    return _register(index, task)[0] if stored is None else stored


def read_record(index: tuple[int, ...], task: BlockTask) -> NDArray[np.float32] | None:
    """Return a block's record; None where it has none that is whole."""
    return task.records.read(index)


def read_patch(index: tuple[int, ...], task: BlockTask) -> NDArray[np.float32]:
    """Return the patch of a block that succeeded.

    One that is damaged, by a power cut for example, is made again.
    """
    patch = task.patches.read(index)
    if patch is not None:
        return patch
    record, patch = _register(index, task)
    if patch is None:
        status = BlockStatus(int(record[0])).meaning
        msg = (
            f"the patch of block {index} in {task.errors.parent} is damaged, and the "
            f"block is {status} now that it was run again; use another workdir"
        )
        raise StoreError(msg)
    return patch


def _register(
    index: tuple[int, ...], task: BlockTask
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Register one block and store it; return its record and, padded, its patch."""
    began = time.perf_counter()
    partition = task.partition
    record = dict.fromkeys(RECORD, np.nan)
    patch_slices = partition.patch(index)
    patch_grid = partition.field_grid.window(patch_slices)
    window = _read_block(index, task)
    padded = None
    if isinstance(window, BlockStatus):
        status = window
    else:
        status, patch, verdict = _attempts(window, patch_grid, task, index)
        record.update(verdict)
        if status is BlockStatus.SUCCESS:
            padded = np.zeros(task.patches.shape, np.float32)
            padded[(slice(None), *(slice(0, n) for n in patch_grid.shape))] = patch
            task.patches[index] = padded
    record["status"] = float(status)
    record["seconds"] = time.perf_counter() - began
    values = np.array([record[name] for name in RECORD], np.float32)
    task.records[index] = values
    return values, padded


def check_there(task: BlockTask) -> None:
    """Refuse to work where the run's directory is not, or is not any more.

    A host that does not see it, or lost the mount, would begin one of its own.
    """
    if not task.errors.is_dir():
        msg = (
            f"{task.errors.parent} is not there on {socket.gethostname()}: was a disk "
            "unmounted, or does this worker not see it? Give workdir= a directory that "
            "all workers see; once it is there, the same call goes on"
        )
        raise StoreError(msg)


def _read_block(index: tuple[int, ...], task: BlockTask) -> Window | BlockStatus:
    """Read what a block is registered on, or keep why that cannot be read."""
    partition = task.partition
    margin = [
        MOVING_MARGIN * o * s
        for o, s in zip(partition.overlap, partition.grid.spacing, strict=True)
    ]
    try:
        return read_window(task.inputs, partition.window(index), margin)
    except UnreadableError as error:
        name = ".".join(map(str, index))
        (task.errors / f"{name}.txt").write_text(f"{UNREADABLE} {error}")
        found = unreadable(task.errors)
        if len(found) > MOST_UNREADABLE * partition.size:
            msg = (
                f"{len(found)} of {partition.size} blocks cannot be read, more than "
                f"{MOST_UNREADABLE:.0%}, so the run stops; the blocks that are done "
                "stay in the work directory. Call again once the store answers. The "
                f"last one was block {index}: {error}"
            )
            raise StoreError(msg) from error
        return BlockStatus.UNREADABLE


def unreadable(errors: Path) -> list[tuple[int, ...]]:
    """Return the blocks whose message says that they could not be read, in order."""
    found = []
    for file in errors.glob("*.txt"):
        with file.open() as lines:
            if lines.read(len(UNREADABLE)) == UNREADABLE:
                found.append(tuple(int(part) for part in file.stem.split(".")))
    return sorted(found)


def _attempts(
    window: Window, patch_grid: Grid, task: BlockTask, index: tuple[int, ...]
) -> tuple[BlockStatus, NDArray[np.float32] | None, dict[str, float]]:
    """Run the method and judge it; if that fails once more, with safer options."""
    attempts = [task.options] + ([] if task.safer is None else [task.safer])
    for number, options in enumerate(attempts, start=1):
        patch: NDArray[np.float32] | None = None
        verdict: dict[str, float] = {}
        status, update = _run_method(window, task, options, index)
        if update is not None:
            status, patch, verdict = judge(window, update, patch_grid, task.metric)
        verdict["attempts"] = float(number)
        if status not in TRIED_AGAIN:
            break
    return status, patch, verdict


def _run_method(
    window: Window,
    task: BlockTask,
    options: Mapping[str, Any],
    index: tuple[int, ...],
) -> tuple[BlockStatus, NDArray[np.float32] | None]:
    fixed_values, moving_values = window.fixed, window.moving
    if window.others:
        fixed_values = np.stack([fixed_values, *(c.fixed for c in window.others)])
        moving_values = np.stack([moving_values, *(c.moving for c in window.others)])
    fixed = masked_image(fixed_values, window.fixed_mask, window.grid)
    moving = masked_image(moving_values, window.moving_mask, window.grid)
    try:
        result = task.method(fixed, moving, **options)
        return BlockStatus.SUCCESS, as_displacement(result, window.grid)
    except Interrupted:
        raise
    except MethodTimeout as error:
        status, text = BlockStatus.TIMEOUT, str(error)
    except Exception as error:
        error.add_note(f"block {index}")
        status, text = BlockStatus.CRASHED, "".join(traceback.format_exception(error))
    _keep_error(index, task, text)
    return status, None


def _keep_error(index: tuple[int, ...], task: BlockTask, text: str) -> None:
    name = ".".join(map(str, index))
    (task.errors / f"{name}.txt").write_text(text)


def give_up_block(index: tuple[int, ...], task: BlockTask, text: str) -> None:
    """Record a block as crashed, unless it is done, with what is known of it."""
    if read_record(index, task) is not None:
        return
    _keep_error(index, task, text)
    record = np.full(len(RECORD), np.nan, np.float32)
    record[RECORD.index("status")] = BlockStatus.CRASHED
    task.records[index] = record


def judge(
    window: Window, update: NDArray[np.float32], patch_grid: Grid, metric: str
) -> tuple[BlockStatus, NDArray[np.float32], dict[str, float]]:
    """Decide whether a block's result is to be believed.

    Parameters
    ----------
    window
        What the block was registered on.
    update : (ndim, *window.grid.shape)
        The displacement that the method found, on top of the field so far.
    patch_grid
        Field points of the block.
    metric
        The similarity to judge by.

    Returns
    -------
    status : BlockStatus
    patch : (ndim, *patch_grid.shape)
        The update at the field points.
    verdict : dict
        Diagnostics, by their names in ``RECORD``.
    """
    patch = kernels.resample_displacement(update, window.grid, patch_grid)
    patch = kernels.unfold(patch, patch_grid)
    if kernels.jacobian_determinant(patch, patch_grid).min() > 0:
        patch = kernels.ease_back(patch, patch_grid, window.before, window.before_grid)
    # What is judged is what will be used: the update between field points.
    update = kernels.resample_displacement(patch, patch_grid, window.grid)
    total = kernels.compose(update, window.grid, window.before, window.before_grid)
    channels: list[Window | Channel] = [window, *window.others]
    after = [c.source.warp(total, window.grid, window.grid) for c in channels]
    both = window.fixed_mask & window.moving_mask & np.isfinite(after).all(axis=0)

    def mean_similarity(images: Sequence[NDArray[np.float32]]) -> float:
        values = (
            similarity(metric, c.fixed, image, both, window.grid)
            for c, image in zip(channels, images, strict=True)
        )
        return sum(values) / len(channels)

    verdict = {
        "similarity_before": mean_similarity([c.moving for c in channels]),
        "similarity_after": mean_similarity(after),
        "min_jacobian": float(kernels.jacobian_determinant(patch, patch_grid).min()),
        "max_update": float(np.sqrt((patch**2).sum(axis=0)).max()),
    }
    # Half of a window is the overlap and half of the core: beyond it, most voxels of
    # the core would come from where the method saw nothing.
    lower, upper = window.grid.bounds
    farthest = np.abs(patch).reshape(len(patch), -1).max(axis=1)
    before = int((window.fixed_mask & window.moving_mask).sum())
    if (
        farthest > 0.5 * (upper - lower)
    ).any() or both.sum() < SUPPORTED_SHARE * before:
        status = BlockStatus.REJECTED
    elif verdict["min_jacobian"] <= 0:
        status = BlockStatus.FOLDED
    elif not verdict["similarity_after"] >= verdict["similarity_before"]:
        status = BlockStatus.NOT_IMPROVED
    else:
        status = BlockStatus.SUCCESS
    return status, patch, verdict


def compare_block(index: tuple[int, ...], task: BlockTask) -> NDArray[np.float32]:
    """Compare a block with its neighbours, see `xdreg.agreement.compare`."""
    return compare(
        index,
        task.partition,
        lambda block: float(task.records[block][0]),
        lambda block: read_patch(block, task),
    )


def blend_block(index: tuple[int, ...], task: BlockTask) -> float:
    """Blend the patches around one block's core and store the field there.

    Partition-of-unity weights; a block that failed counts as a zero update, so the
    field eases back to the stage before. The update is composed with the field so far.

    Returns
    -------
    float
        Disagreement: root mean square difference, in physical units, of the block's own
        patch and the blended update where other blocks contribute; NaN without any.
    """
    check_there(task)
    partition = task.partition
    core = partition.field_core(index)
    done = task.disagreement.read(index)
    if done is not None:
        stored = intact(task.field, (slice(None), *core))
        # At the end of an axis a core has two chunks; either may be missing.
        if stored is None or not np.isfinite(stored).all():
            done = None
    if done is not None:
        return float(done)
    grid = partition.field_grid.window(core)
    update = np.zeros((grid.ndim, *grid.shape), np.float32)
    own = np.zeros_like(update)
    succeeded = False
    for other in partition.neighbours(index):
        status = float(task.records[other][0])
        if np.isnan(status):
            msg = (
                f"the record of block {other} is gone from {task.errors.parent}; the "
                "same call again runs that block anew"
            )
            raise StoreError(msg)
        if status != BlockStatus.SUCCESS:
            continue
        part = shared_part(core, partition.patch(other))
        if part is None:
            continue
        shared, outer, inner = part
        patch = read_patch(other, task)[(slice(None), *inner)]
        update[(slice(None), *outer)] += partition.weights(other, shared) * patch
        if other == index:
            own[(slice(None), *outer)] = patch
            succeeded = True
    reach = np.abs(update).reshape(grid.ndim, -1).max(axis=1)
    before, before_grid = task.inputs.before.read_around(grid, reach)
    total = kernels.compose(update, grid, before, before_grid)
    store_window(task.field, (slice(0, grid.ndim), *core), total)
    mixed = partition.weights(index, core) < 1
    result = float("nan")
    if succeeded and mixed.any():
        squares = ((own - update) ** 2).sum(axis=0)[mixed]
        result = float(np.sqrt(squares.mean()))
    task.disagreement[index] = result
    return result
