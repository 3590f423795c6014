"""What runs on a worker with two whole images, at a coarse level: linear stages.

And the look that chooses a metric, which starts the same way.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xdreg.engines import elastix
from xdreg.engines.linear import FULL_OVERLAP, linear
from xdreg.engines.metric_choice import Choice, choose_metric
from xdreg.engines.pose import Pose, find_pose
from xdreg.errors import MethodTimeout
from xdreg.numerics import kernels
from xdreg.partition import BlockStatus
from xdreg.registration.judge import RECORD, similarity
from xdreg.registration.window import Inputs, masked_image, read_window
from xdreg.stages import OWN_METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from xdreg.grid import Grid
    from xdreg.stages import OwnMetric


#: No fit is believed that shrinks an image along any direction to less than this share
#: of what it started from: so end images with next to nothing in common.
LEAST_STRETCH = 0.1


@dataclass(frozen=True)
class Whole:
    """Two whole images at a coarse level, each on its own grid.

    ``start`` is the linear transform between them so far.
    """

    grid: Grid
    fixed: NDArray[np.float32]
    fixed_mask: NDArray[np.bool_]
    moving_grid: Grid
    moving: NDArray[np.float32]
    moving_mask: NDArray[np.bool_]
    start: NDArray[np.float64]

    @property
    def images(self) -> tuple[xr.DataArray, xr.DataArray]:
        """Both as a method is given them."""
        return (
            masked_image(self.fixed, self.fixed_mask, self.grid),
            masked_image(self.moving, self.moving_mask, self.moving_grid),
        )


def read_whole(
    inputs: Inputs, matrix: NDArray[np.float64] | None
) -> Whole | BlockStatus:
    """Read both images whole, or say why there is nothing to do.

    Parameters
    ----------
    inputs
        Images at a coarse level, and the field so far.
    matrix : (ndim + 1, ndim + 1) or None
        The transform so far where it is linear; None where a field came before, which
        the moving image is then pulled through.
    """
    grid = inputs.fixed.grid
    everything = tuple(slice(0, n) for n in grid.shape)
    if matrix is None:
        first = replace(inputs, others=())
        window = read_window(first, everything, [0.0] * grid.ndim)
        if isinstance(window, BlockStatus):
            return window
        fixed = window.fixed, window.fixed_mask
        moving = window.moving, window.moving_mask
        return Whole(grid, *fixed, grid, *moving, np.eye(grid.ndim + 1))
    fixed_values = inputs.fixed.read_known(everything)
    fixed_mask = np.isfinite(fixed_values)
    if inputs.fixed_mask is not None:
        fixed_mask &= inputs.fixed_mask.read_mask(grid)
    moving_values, moving_grid = inputs.moving.read_known(), inputs.moving.grid
    moving_mask = np.isfinite(moving_values)
    if inputs.moving_mask is not None:
        moving_mask &= inputs.moving_mask.read_mask(moving_grid)
    if not (fixed_mask.any() and moving_mask.any()):
        return BlockStatus.EMPTY
    own = moving_grid, moving_values, moving_mask
    return Whole(grid, fixed_values, fixed_mask, *own, matrix)


def _flattens(result: NDArray[np.float64], start: NDArray[np.float64]) -> bool:
    """Tell whether a fit all but projected the image onto a plane or a line."""
    change = result[:-1, :-1] @ np.linalg.inv(start[:-1, :-1])
    return bool(np.linalg.svd(change, compute_uv=False).min() < LEAST_STRETCH)


def choose(
    inputs: Inputs,
    matrix: NDArray[np.float64] | None,
    *,
    kind: Any,
    search: bool,
    threads: int,
) -> tuple[Choice, Pose | None]:
    """Choose a metric for two images, by a look at a coarse level.

    Parameters
    ----------
    inputs, matrix
        As for `register_linear`.
    kind
        What the alignment may do.
    search
        Look for the pose first.
    threads
        How many share the work.

    Returns
    -------
    choice : Choice
    pose : Pose or None
        As from `xdreg.engines.metric_choice.choose_metric`.
    """
    whole = read_whole(inputs, matrix)
    if isinstance(whole, BlockStatus):
        reason = f"the images cannot be compared: {whole.meaning}"
        return Choice("lncc", reason), None
    start = None if search else whole.start
    return choose_metric(*whole.images, start=start, kind=kind, threads=threads)


def register_linear(
    inputs: Inputs,
    matrix: NDArray[np.float64] | None,
    *,
    kind: Any,
    metric: Any,
    options: Mapping[str, Any],
    search: bool,
    pose: Pose | None,
    threads: int,
) -> tuple[NDArray[np.float64], dict[str, float], Pose | None]:
    """Register two whole images, at a coarse level, by one linear transform.

    Parameters
    ----------
    inputs
        The images, both read whole.
    matrix : (ndim + 1, ndim + 1) or None
        The transform so far where it is linear; None where a field came before, which
        the moving image is then pulled through.
    kind, metric, options
        Passed to `xdreg.engines.linear.linear`, or for elastix's metrics to
        `xdreg.engines.elastix.linear`.
    search
        Look for the pose to start from first, unless ``pose`` is known.
    pose
        What to start from instead of ``matrix``.
    threads
        How many share the search.

    Returns
    -------
    matrix : ndarray
        The transform, to be applied *instead of* ``matrix``, or *before* the field
        where ``matrix`` was None. Where the stage failed, what it started from.
    record : dict
        Diagnostics, by their names in ``RECORD``.
    pose : Pose or None
        Where it started, if it was searched for.
    """
    began = time.perf_counter()
    grid = inputs.fixed.grid
    record = dict.fromkeys(RECORD, float("nan"))
    whole = read_whole(inputs, matrix)
    if isinstance(whole, BlockStatus):
        record["status"] = float(whole)
        return np.eye(grid.ndim + 1) if matrix is None else matrix, record, None
    fixed_values, fixed_mask = whole.fixed, whole.fixed_mask
    moving_values, moving_mask = whole.moving, whole.moving_mask
    moving_grid, start = whole.moving_grid, whole.start
    fixed, moving = whole.images
    smaller = min(
        float(mask.sum() * np.prod(own.spacing))
        for mask, own in ((fixed_mask, grid), (moving_mask, moving_grid))
    )

    def quality(candidate: NDArray[np.float64]) -> float:
        """Return the similarity, less where the images overlap little."""
        pulled = kernels.warp_array(
            np.where(moving_mask, moving_values, np.float32(np.nan)),
            moving_grid,
            *kernels.affine_displacement(candidate, grid),
            grid,
        )
        both = fixed_mask & np.isfinite(pulled)
        if not both.any():
            return 0.0
        share = both.sum() * np.prod(grid.spacing) / smaller
        likeness = similarity(metric, fixed_values, pulled, both, grid)
        return likeness * min(1.0, float(share) / FULL_OVERLAP)

    record["similarity_before"] = quality(start)
    try:
        if search and pose is None:
            across = metric in ("mind", "mi")
            own: OwnMetric = "mind" if across else "lncc"
            pose = find_pose(fixed, moving, kind=kind, metric=own, threads=threads)
        if pose is not None:
            start = pose.matrix
        engine = linear if metric in OWN_METRICS else elastix.linear
        result = engine(
            fixed, moving, kind=kind, metric=metric, initial=start, **options
        )
        record["similarity_after"] = quality(result)
        record["min_jacobian"] = float(np.linalg.det(result[:-1, :-1]))
        if record["min_jacobian"] <= 0 or _flattens(result, start):
            status, result = BlockStatus.FOLDED, start
        elif not record["similarity_after"] >= quality(start):
            status, result = BlockStatus.NOT_IMPROVED, start
        else:
            status = BlockStatus.SUCCESS
    except MethodTimeout:
        status, result = BlockStatus.TIMEOUT, start
    record["status"] = float(status)
    record["seconds"] = time.perf_counter() - began
    return result, record, pose
