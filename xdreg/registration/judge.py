"""The verdict on a block: whether its result is accepted, and its diagnostics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xdreg.engines.own_metrics import local_similarity
from xdreg.numerics import folding, kernels, metrics
from xdreg.partition import BlockStatus
from xdreg.registration.seals import SEALS
from xdreg.stages import OWN_METRICS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from xdreg.grid import Grid
    from xdreg.registration.window import Channel, Window


#: Diagnostics of a block, in the order in which its record stores them.
RECORD = (
    "status",
    "similarity_before",
    "similarity_after",
    "min_jacobian",
    "max_update",
    "attempts",
    "from_search",
    "missing_chunks",
    "seconds",
    *SEALS,
)

#: Share of the voxels that counted before an update which must still lie on the moving
#: image after it. The similarity of fewer voxels says little.
SUPPORTED_SHARE = 0.5


def similarity(
    metric: str,
    a: NDArray[Any],
    b: NDArray[Any],
    mask: NDArray[np.bool_],
    grid: Grid,
) -> float:
    """Return the similarity of two images by a metric; larger is better."""
    if metric in OWN_METRICS:
        return local_similarity(metric, a, b, mask, grid)
    if metric == "mi":
        return metrics.mutual_information(a, b, mask)
    return metrics.normalised_correlation(a, b, mask)


def judge(
    window: Window, update: NDArray[np.float32], patch_grid: Grid, metric: str
) -> tuple[BlockStatus, NDArray[np.float32], dict[str, float]]:
    """Return the verdict on the result of a block.

    Parameters
    ----------
    update : (ndim, *window.grid.shape)
        The displacement that the method found, on top of the displacement so far.

    Returns
    -------
    status : BlockStatus
    patch : (ndim, *patch_grid.shape)
        The update at the field points.
    verdict : dict
        Diagnostics, by their names in ``RECORD``.
    """
    patch = kernels.resample_displacement(update, window.grid, patch_grid)
    patch = folding.unfold(patch, patch_grid)
    if folding.jacobian_determinant(patch, patch_grid).min() > 0:
        patch = folding.ease_back(patch, patch_grid, window.before, window.before_grid)
    # The update is judged as it will be used: interpolated between field points.
    update = kernels.resample_displacement(patch, patch_grid, window.grid)
    before, after, supported = _similarities(window, update, metric)
    verdict = {
        "similarity_before": before,
        "similarity_after": after,
        "min_jacobian": float(folding.jacobian_determinant(patch, patch_grid).min()),
        "max_update": float(np.sqrt((patch**2).sum(axis=0)).max()),
    }
    if not supported or _reaches_too_far(patch, window.grid):
        status = BlockStatus.REJECTED
    elif verdict["min_jacobian"] <= 0:
        status = BlockStatus.FOLDED
    elif not after >= before:
        status = BlockStatus.NOT_IMPROVED
    else:
        status = BlockStatus.SUCCESS
    return status, patch, verdict


def _similarities(
    window: Window, update: NDArray[np.float32], metric: str
) -> tuple[float, float, bool]:
    """Return the similarity before and after an update, and whether it is supported.

    It is where enough voxels of the window still lie on the moving image after it.
    """
    grid = window.grid
    total = kernels.compose_displacements(
        update, grid, window.before, window.before_grid
    )
    channels: list[Window | Channel] = [window, *window.others]
    after = [channel.source.resample(total, grid, grid) for channel in channels]
    counted = window.fixed_mask & window.moving_mask
    both = counted & np.isfinite(after).all(axis=0)

    def mean(images: Sequence[NDArray[np.float32]]) -> float:
        values = (
            similarity(metric, channel.fixed, image, both, grid)
            for channel, image in zip(channels, images, strict=True)
        )
        return sum(values) / len(channels)

    supported = both.sum() >= SUPPORTED_SHARE * int(counted.sum())
    return mean([channel.moving for channel in channels]), mean(after), bool(supported)


def _reaches_too_far(patch: NDArray[np.float32], grid: Grid) -> bool:
    """Return whether an update moves a point by more than half of the window.

    Half of a window is the overlap and half of the core. Beyond it, most voxels of the
    core would come from where the method saw nothing.
    """
    lower, upper = grid.bounds
    farthest = np.abs(patch).reshape(len(patch), -1).max(axis=1)
    return bool((farthest > 0.5 * (upper - lower)).any())
