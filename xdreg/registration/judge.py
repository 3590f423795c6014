"""What a method returned for a block: brought onto its window, and believed or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xdreg.engines.own_metrics import local_similarity
from xdreg.numerics import folding, kernels, metrics
from xdreg.partition import BlockStatus
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
    "seconds",
)

#: Share of the voxels that counted before an update which must still lie on the moving
#: image after it: the similarity of fewer says little.
SUPPORTED_SHARE = 0.5


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
    patch = folding.unfold(patch, patch_grid)
    if folding.jacobian_determinant(patch, patch_grid).min() > 0:
        patch = folding.ease_back(patch, patch_grid, window.before, window.before_grid)
    # What is judged is what will be used: the update between field points.
    update = kernels.resample_displacement(patch, patch_grid, window.grid)
    total = kernels.compose_displacements(
        update, window.grid, window.before, window.before_grid
    )
    channels: list[Window | Channel] = [window, *window.others]
    after = [c.source.resample(total, window.grid, window.grid) for c in channels]
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
        "min_jacobian": float(folding.jacobian_determinant(patch, patch_grid).min()),
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
