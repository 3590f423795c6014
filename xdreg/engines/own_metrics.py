"""The metrics of xdreg's own engines by name, and the similarity they see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xdreg.engines.correlation import Correlation
from xdreg.engines.mind import SelfSimilarity
from xdreg.engines.voxel_units import VoxelUnits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from xdreg.engines.metric import EngineMetric
    from xdreg.grid import Grid

METRICS: Mapping[str, EngineMetric] = {"lncc": Correlation(), "mind": SelfSimilarity()}


def local_similarity(
    metric: str,
    fixed: NDArray[np.float32],
    moving: NDArray[np.float32],
    mask: NDArray[np.bool_],
    grid: Grid,
) -> float:
    """Return the similarity, 0 to 1, of two images where ``mask`` is true.

    It is NaN where nothing is to be compared.
    """
    units, nan = VoxelUnits(grid), np.float32(np.nan)
    one, other = (np.where(mask, v, nan).reshape(units.shape) for v in (fixed, moving))
    return METRICS[metric].similarity(one, other, units)
