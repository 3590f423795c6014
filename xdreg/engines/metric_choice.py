"""Which of xdreg's own metrics suits a pair: local correlation, or self-similarity.

What two images have in common shows only where they lie on each other. So they are
aligned on a coarse level, by local correlation, and judged there, flat parts left out:

- *linearity*: how much of what a general relation of the intensities explains (the
  correlation ratio, from the joint histogram) does a linear one explain (the squared
  correlation)? Both are means over the two directions, one image by the other.
- *agreement*: what does either metric see, as a share of what a perfect pair would
  have, above what the same images have when shifted against each other by a quarter of
  their extent, as kappa corrects an agreement for chance?

Descriptors are for intensities whose relation is not linear, or where they see far
more. Local correlation is the more precise of the two and bears more noise, so it has
the benefit of the doubt; the sign of a relation and its slow changes do not matter to
it, and gamma hardly. Where it finds little its alignment may be the fault: then the
images are aligned by descriptors as well, and the better alignment says which metric.

Sources: Roche et al., The correlation ratio as a new similarity measure for multimodal
image registration, MICCAI 1998; Cohen, A coefficient of agreement for nominal scales,
Educational and Psychological Measurement 1960. The thresholds were set on real pairs
and modified copies of them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from xdreg.engines.linear import Volume, fit, levels
from xdreg.engines.own_metrics import METRICS, local_similarity
from xdreg.engines.pose import Pose, find_pose
from xdreg.grid import pyramid_factors
from xdreg.numerics import kernels
from xdreg.numerics.correlation_kernels import NOISE

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    from xdreg.engines.descent import Array
    from xdreg.engines.linear import Matrix
    from xdreg.grid import Grid
    from xdreg.stages import Kind, OwnMetric

#: Longest axis of the level that is looked at, in voxels.
LOOK_VOXELS = {2: 320, 3: 40}

#: Half-width in voxels of the box in which contrast is judged, and the least there is,
#: as a share of the image's own: twice what local correlation takes for noise.
CONTRAST_RADIUS = 2
LEAST_CONTRAST = 2 * NOISE

#: Bins of the joint histogram.
BINS = 32

#: A relation with less linearity than this is not linear.
LINEAR = 0.7

#: How many times as much descriptors must see: of a linear relation, and else.
FAR_MORE = 2.0
MORE = 1.5

#: From this share on local correlation has found the alignment.
FOUND = 0.25

#: An alignment is the better one where both metrics together explain so much more.
BETTER = 1.2

#: Below this share neither metric says anything.
NOTHING = 0.05


@dataclass(frozen=True)
class Choice:
    """A metric, and why it was chosen.

    Parameters
    ----------
    metric
        ``"lncc"`` or ``"mind"``.
    reason
        A sentence for people.
    linearity
        0 to 1, see the module; NaN where it was not measured.
    correlation, shapes
        Agreement that ``"lncc"`` and ``"mind"`` see.
    """

    metric: OwnMetric
    reason: str
    linearity: float = float("nan")
    correlation: float = float("nan")
    shapes: float = float("nan")

    def __str__(self) -> str:
        """Name the metric and say why."""
        return f"{self.metric}, chosen: {self.reason}"


def choose_metric(
    fixed: xr.DataArray,
    moving: xr.DataArray,
    *,
    start: Matrix | None = None,
    kind: Kind = "affine",
    threads: int = 1,
) -> tuple[Choice, Pose | None]:
    """Choose between ``"lncc"`` and ``"mind"``.

    Parameters
    ----------
    fixed, moving : DataArray ([z], y, x)
        Coarse images in memory, each on its own grid; a boolean coordinate ``mask``
        says which voxels count.
    start : (ndim + 1, ndim + 1), optional
        Where the moving image lies, homogeneous, fixed to moving, in dims order; by
        default that is looked for.
    kind
        What the alignment may do.
    threads
        How many share the work; the result is the same to the bit.

    Returns
    -------
    choice : Choice
    pose : Pose or None
        What was found on the way by the metric chosen, if it was looked for.

    Examples
    --------
    >>> import xdreg
    >>> pair = xdreg.datasets.phantom_pair((64, 80), amplitude=2.0)
    >>> choice, _ = choose_metric(pair.fixed, pair.moving, start=np.eye(3))
    >>> choice.metric
    'lncc'
    """
    look = _Look(fixed, moving, start, kind, threads)
    choice = _chosen_by(look)
    return choice, look.poses.get(choice.metric)


def _chosen_by(look: _Look) -> Choice:
    aligned = look.aligned("lncc")
    seen = look.agreement(aligned)
    if not seen[0] >= FOUND:
        other = look.aligned("mind")
        better = look.agreement(other)
        if sum(better) > max(NOTHING, BETTER * sum(seen)):
            return _chosen(
                "mind",
                "they find an alignment that local correlation misses",
                look.linearity(other),
                *better,
            )
    linearity = look.linearity(aligned)
    correlation, shapes = seen
    metric: OwnMetric = "lncc"
    if max(seen) < NOTHING:
        reason = "the images show too little in common to tell"
    elif shapes > FAR_MORE * correlation:
        metric, reason = "mind", "shapes agree far better than intensities"
    elif linearity < LINEAR and shapes > MORE * correlation:
        metric, reason = "mind", "the relation of the intensities is not linear"
    elif linearity < LINEAR:
        reason = "descriptors see little more than intensities"
    else:
        reason = "the relation of the intensities is linear"
    return _chosen(metric, reason, linearity, correlation, shapes)


def _chosen(
    metric: OwnMetric, why: str, linearity: float, correlation: float, shapes: float
) -> Choice:
    reason = (
        f"{why}: linearity {linearity:.2f}, agreement above chance "
        f"{correlation:.2f} by local correlation, {shapes:.2f} by descriptors"
    )
    return Choice(metric, reason, linearity, correlation, shapes)


class _Look:
    """Two images on one coarse level."""

    def __init__(
        self,
        fixed: xr.DataArray,
        moving: xr.DataArray,
        start: Matrix | None,
        kind: Kind,
        threads: int,
    ) -> None:
        images = Volume.of(fixed, "fixed"), Volume.of(moving, "moving")
        grid = images[0].grid
        spacing = np.asarray(grid.spacing)
        for factors in pyramid_factors(grid, LOOK_VOXELS[grid.ndim]):
            spacing = spacing * factors
        self._fixed, self._moving = (v.with_spacing(tuple(spacing)) for v in images)
        self._images, self._start, self._kind = (fixed, moving), start, kind
        self._threads = threads
        self.poses: dict[str, Pose] = {}

    def aligned(self, metric: OwnMetric) -> Matrix:
        """Return the linear transform that a metric finds."""
        one, other, matrix = self._fixed, self._moving, self._start
        if matrix is None:
            pose = find_pose(
                *self._images, kind=self._kind, metric=metric, threads=self._threads
            )
            self.poses[metric], matrix = pose, pose.matrix
        for spacing in levels(one):
            pair = one.with_spacing(spacing), other.with_spacing(spacing)
            matrix, _ = fit(*pair, matrix, kind=self._kind, metric=metric)
        return matrix

    def agreement(self, matrix: Matrix) -> tuple[float, float]:
        """Return what correlation and descriptors see in an alignment, above chance."""
        fixed, grid = self._fixed.values, self._fixed.grid
        pulled = self._pulled(matrix)
        axes = tuple(range(grid.ndim))
        shifted = [
            np.roll(
                pulled,
                [s * (n // 4) for s, n in zip(signs, grid.shape, strict=True)],
                axes,
            )
            for signs in itertools.product((-1, 1), repeat=grid.ndim)
        ]
        correlation, shapes = (
            _above_chance(
                _agreement(metric, fixed, pulled, grid),
                [_agreement(metric, fixed, other, grid) for other in shifted],
            )
            for metric in METRICS
        )
        return correlation, shapes

    def linearity(self, matrix: Matrix) -> float:
        """Return how much of the relation of the intensities is linear."""
        fixed, pulled = self._fixed.values, self._pulled(matrix)
        both = _judged(fixed, pulled)
        a, b = fixed[both].astype(np.float64), pulled[both].astype(np.float64)
        if a.size <= BINS or a.min() == a.max() or b.min() == b.max():
            return float("nan")
        squared = float(np.corrcoef(a, b)[0, 1] ** 2)
        general = (_correlation_ratio(a, b) + _correlation_ratio(b, a)) / 2
        return min(1.0, squared / max(general, squared, 1e-6))

    def _pulled(self, matrix: Matrix) -> Array:
        """Return the moving image on the fixed one's grid."""
        grid = self._fixed.grid
        field = kernels.affine_displacement(matrix, grid)
        return kernels.warp_array(self._moving.values, self._moving.grid, *field, grid)


def _correlation_ratio(
    explained: NDArray[np.float64], by: NDArray[np.float64]
) -> float:
    """Return the share of a variance that the bins of another image explain."""
    edges = np.unique(np.quantile(by, np.linspace(0, 1, BINS + 1)[1:-1]))
    bins = np.digitize(by, edges)
    count = np.maximum(np.bincount(bins, minlength=edges.size + 1), 1)
    means = np.bincount(bins, explained, edges.size + 1) / count
    rest = float(np.mean((explained - means[bins]) ** 2))
    # Bins explain a little of anything.
    freedom = (explained.size - 1) / (explained.size - edges.size - 1)
    return 1 - freedom * rest / float(explained.var())


def _agreement(metric: str, a: Array, b: Array, grid: Grid) -> float:
    """Return how alike two images are where there is anything in one of them.

    NaN where they share no voxel that counts.
    """
    both = _judged(a, b)
    return local_similarity(metric, a, b, both, grid) if both.any() else float("nan")


def _judged(a: Array, b: Array) -> NDArray[np.bool_]:
    """Tell where both images count and there is anything in one of them."""
    both = np.isfinite(a) & np.isfinite(b) & (_has_contrast(a) | _has_contrast(b))
    return np.asarray(both)


def _has_contrast(image: Array) -> NDArray[np.bool_]:
    """Tell where values differ from their neighbours'."""
    known = np.isfinite(image)
    if not known.any():
        return known
    values = np.where(known, image - np.nanmean(image, dtype=np.float64), 0)
    mean, square = _box_mean(values), _box_mean(values**2)
    overall = np.nanstd(image, dtype=np.float64)
    return np.asarray(square - mean**2 > (LEAST_CONTRAST * overall) ** 2)


def _box_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over a box around every voxel; the edge is continued."""
    width = 2 * CONTRAST_RADIUS + 1
    for axis in range(values.ndim):
        around = [(0, 0)] * values.ndim
        around[axis] = (CONTRAST_RADIUS, CONTRAST_RADIUS)
        padded = np.pad(values, around, mode="edge")
        views = np.lib.stride_tricks.sliding_window_view(padded, width, axis)
        values = views.mean(axis=-1)
    return values


def _above_chance(value: float, shifted: list[float]) -> float:
    """Return an agreement of 0 for what shifted images have, 1 for perfect ones."""
    chances = [chance for chance in shifted if np.isfinite(chance)]
    chance = float(np.mean(chances)) if chances else 0.0
    above = (value - chance) / max(1 - chance, 1e-6)
    return above if np.isfinite(above) else 0.0
