"""Linear stages and the choice of a metric: work on two whole images at a coarse level.

`run_linear` and `choose_metric` run where the registration was started. They store
their results in the work directory, and send `register_linear` and `compare_metrics`
to a worker as one task.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import dask
import numpy as np

from xdreg.engines import elastix, metric_choice
from xdreg.engines.linear import linear
from xdreg.engines.metric_choice import Choice
from xdreg.engines.pose import Pose, find_pose
from xdreg.engines.pose_text import DOUBTFUL, pose_text
from xdreg.errors import MethodTimeout, warn
from xdreg.numerics.folding import orientation
from xdreg.partition import BlockStatus
from xdreg.registration.judge import RECORD
from xdreg.registration.state import State
from xdreg.registration.whole import read_whole
from xdreg.registration.workdir import read_json, write_json
from xdreg.stages import OWN_METRICS
from xdreg.stores.checked_arrays import counting_chunks
from xdreg.stores.graphs import shared as shared_value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xdreg.registration.plan import Plan
    from xdreg.registration.planned_stage import PlannedStage
    from xdreg.registration.state import Diagnostics, Shared
    from xdreg.registration.window import Inputs

    Matrix = NDArray[np.float64]

_log = logging.getLogger(__name__)

#: A fit that shrinks the image along a direction to less than this share of the start
#: is rejected. It is what images with next to nothing in common lead to.
LEAST_STRETCH = 0.1


def choose_metric(
    shared: Shared, plan: Plan, state: State
) -> tuple[Choice, Pose | None]:
    """Choose the metric of the stages that have none, or read the earlier choice.

    Returns the pose found on the way too, which the first stage starts from.
    """
    file = shared.directory.path / "choice.json"
    stored = read_json(file)
    if stored is None:
        first = plan.stages[0]
        linear_first = first.options.linear
        # The level on which the first stage searches the pose, so that it is once.
        levels = first.fixed_level, first.moving_level
        if not linear_first:
            level = plan.fixed.overview
            like = plan.moving.level_like(plan.fixed.grids[level])
            levels = level, max(like, plan.moving.overview)
        task = dask.delayed(compare_metrics, pure=False)(
            shared_value(shared.inputs(*levels, state, whole=True), "choice"),
            state.matrix,
            kind=first.options.name if linear_first else "affine",
            search=shared.searches_pose and linear_first,
            allow_mirror=shared.allow_mirror,
            threads=shared.threads,
        )
        with shared.lines.watch("metric", 1, None):
            choice, pose = task.compute(num_workers=shared.at_once)
        found = None if pose is None else pose.to_json()
        stored = {"choice": asdict(choice), "pose": found}
        write_json(file, stored)
    pose = None if stored["pose"] is None else Pose.from_json(stored["pose"])
    return Choice(**stored["choice"]), pose


def run_linear(
    shared: Shared,
    number: int,
    stage: PlannedStage,
    state: State,
    pose: Pose | None,
) -> tuple[State, Diagnostics, dict[str, Any] | None]:
    """Run a linear stage, or read its earlier result.

    ``pose`` is what the first stage starts from, if that was found already. Returns the
    displacement after the stage, the diagnostics of its one block by name, and the pose
    that it started from, if one was searched, as `Pose.to_dict` describes it.
    """
    grid = shared.fixed.grid
    folder = shared.directory.stage(number)
    stored = read_json(folder / "linear.json")
    if stored is None:
        levels = stage.fixed_level, stage.moving_level
        task = dask.delayed(register_linear, pure=False)(
            shared_value(shared.inputs(*levels, state, whole=True), "linear"),
            state.matrix,
            kind=stage.options.name,
            options=stage.engine_options,
            search=shared.searches_pose and number == 0,
            allow_mirror=shared.allow_mirror,
            pose=pose if number == 0 else None,
            threads=shared.threads,
        )
        with shared.lines.watch(f"{number} {stage.options.name}", 1, None):
            matrix, record, found = task.compute(num_workers=shared.at_once)
        folder.mkdir(parents=True, exist_ok=True)
        stored = {
            "matrix": matrix.tolist(),
            "record": {name: float(value) for name, value in record.items()},
            "pose": None if found is None else found.to_dict(),
        }
        write_json(folder / "linear.json", stored)
    matrix, record, pose_used = (stored[n] for n in ("matrix", "record", "pose"))
    if pose_used is not None:
        _report_pose(pose_used, grid.units)
    unknown = dict.fromkeys(("disagreement", "neighbour_difference"), np.nan)
    diagnostics = {
        name: np.full((1,) * grid.ndim, value, np.float32)
        for name, value in (record | unknown).items()
    }
    if state.matrix is not None:
        return State.linear(np.array(matrix), grid), diagnostics, pose_used
    return state.preceded(np.array(matrix), grid), diagnostics, pose_used


def _report_pose(pose: dict[str, Any], units: str | None) -> None:
    """Log a pose, and warn if another one fits about as well."""
    text = pose_text(pose, units)
    _log.info("pose: %s", text)
    if pose["margin"] < DOUBTFUL:
        warn(
            f"two different poses fit about equally well; took {text}. Check the "
            "result, and if it is wrong, name where the images meet as initial, a "
            "matrix or an ITK transform"
        )
    if "mirrored" in pose:
        matrix, score, other = pose["mirrored"]
        rows = [[float(f"{value:.6g}") for value in row] for row in matrix]
        warn(
            f"moving fits better when it is mirrored: score {score:.2f}, not "
            f"{other:.2f}. If one of the images is mirrored, pass allow_mirror=True or "
            f"initial={rows}; otherwise nothing needs to be done"
        )


def compare_metrics(
    inputs: Inputs,
    matrix: Matrix | None,
    *,
    kind: Any,
    search: bool,
    allow_mirror: bool,
    threads: int,
) -> tuple[Choice, Pose | None]:
    """Choose a metric for two images on a coarse level, and return the pose found."""
    whole = read_whole(inputs, matrix)
    if isinstance(whole, BlockStatus):
        reason = f"the images cannot be compared: {whole.meaning}"
        return Choice("lncc", reason), None
    start = None if search else whole.reduced(whole.start)
    choice, pose = metric_choice.choose_metric(
        *whole.images,
        start=start,
        kind=kind,
        allow_mirror=allow_mirror,
        threads=threads,
    )
    return choice, None if pose is None else whole.restored_pose(pose)


def register_linear(
    inputs: Inputs,
    matrix: Matrix | None,
    *,
    kind: Any,
    options: dict[str, Any],
    search: bool,
    allow_mirror: bool,
    pose: Pose | None,
    threads: int,
) -> tuple[Matrix, dict[str, float], Pose | None]:
    """Register two whole images by one linear transform.

    Parameters
    ----------
    kind, options
        Passed to `xdreg.engines.linear.linear`, or for elastix's metrics to
        `xdreg.engines.elastix.linear`.
    search, allow_mirror
        Search the pose to start from, unless ``pose`` is given; of mirrored ones, too.
    pose
        What to start from in place of ``matrix``.

    Returns
    -------
    matrix : ndarray
        The transform, to be applied *instead of* ``matrix``, or *before* the field
        where ``matrix`` is None. If the stage failed, what it started from.
    record : dict
        Diagnostics, by their names in ``RECORD``.
    pose : Pose or None
        Where it started, if that was searched.
    """
    began = time.perf_counter()
    record = dict.fromkeys(RECORD, float("nan"))
    with counting_chunks() as chunks:
        whole = read_whole(inputs, matrix)
    record["missing_chunks"] = chunks.share
    if isinstance(whole, BlockStatus):
        record["status"] = float(whole)
        return (
            np.eye(inputs.fixed.grid.ndim + 1) if matrix is None else matrix,
            record,
            None,
        )
    metric = options["metric"]
    record["similarity_before"] = whole.quality(whole.start, metric)
    start = whole.start
    try:
        if search and pose is None:
            own: Any = "mind" if metric in ("mind", "mi") else "lncc"
            found = find_pose(
                *whole.images,
                kind=kind,
                metric=own,
                allow_mirror=allow_mirror,
                threads=threads,
            )
            pose = whole.restored_pose(found)
        if pose is not None:
            start = pose.matrix
        engine = linear if metric in OWN_METRICS else elastix.linear
        begin = whole.reduced(start)
        found_matrix = engine(*whole.images, kind=kind, initial=begin, **options)
        result = whole.restored(found_matrix, start)
        record["similarity_after"] = whole.quality(result, metric)
        determinant = float(np.linalg.det(result[:-1, :-1]))
        record["min_jacobian"] = orientation(start) * determinant
        if record["min_jacobian"] <= 0 or _flattens(result, start):
            status, result = BlockStatus.FOLDED, start
        elif not record["similarity_after"] >= whole.quality(start, metric):
            status, result = BlockStatus.NOT_IMPROVED, start
        else:
            status = BlockStatus.SUCCESS
    except MethodTimeout:
        status, result = BlockStatus.TIMEOUT, start
    record["status"] = float(status)
    record["seconds"] = time.perf_counter() - began
    return result, record, pose


def _flattens(result: Matrix, start: Matrix) -> bool:
    """Return whether a fit nearly projects the image onto a plane or a line."""
    change = result[:-1, :-1] @ np.linalg.inv(start[:-1, :-1])
    return bool(np.linalg.svd(change, compute_uv=False).min() < LEAST_STRETCH)
