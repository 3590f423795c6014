"""Choice between xdreg's own metrics: local correlation or self-similarity.

The two images are aligned on a coarse level by local correlation, and compared on a
finer one, inside: away from where a value is missing or constant, and not in flat
parts. The edge of a skull-stripped brain against zero is the strongest structure of an
image, and the same in all contrasts. It would decide alone.

- *linearity*: the squared correlation of the intensities, as a share of their
  correlation ratio (from the joint histogram), which is what any relation explains.
  Both are means over the two directions.
- *agreement*: the similarity by either metric, corrected for chance as by kappa. Chance
  is the similarity after shifts by a quarter of the extent.

Descriptors are chosen if the relation of the intensities is not linear, or if they
agree far better. Otherwise local correlation is, which is more precise and tolerates
more noise. It ignores the sign of a relation and slow changes, and gamma nearly. Where
it agrees little, the alignment may be wrong. Then the images are aligned by descriptors
as well, and the better alignment decides.

Sources: Roche et al., The correlation ratio as a new similarity measure for multimodal
image registration, MICCAI 1998; Cohen, A coefficient of agreement for nominal scales,
Educational and Psychological Measurement 1960. The thresholds were calibrated on real
pairs and modified copies of them.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from xdreg.engines.linear import Volume, fit, levels
from xdreg.engines.own_metrics import METRICS, local_similarity
from xdreg.engines.pose import Pose, find_pose
from xdreg.engines.voxel_units import VoxelUnits
from xdreg.grid import pyramid_factors
from xdreg.numerics.correlation_kernels import NOISE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import xarray as xr
    from numpy.typing import NDArray

    from xdreg.engines.descent import Array
    from xdreg.engines.linear import Matrix
    from xdreg.stages import Kind, OwnMetric

#: Longest axis of the levels that are aligned and compared, in voxels.
ALIGNED_VOXELS = {2: 320, 3: 40}
COMPARED_VOXELS = {2: 320, 3: 80}

#: Voxels next to a constant part that are not compared: coarse voxels mix both, and
#: descriptors reach that far. The least share of an image that must be left.
BORDER = 2
LEAST_INSIDE = 0.01

#: Half-width in voxels of the box in which contrast is measured, and the least contrast
#: of a part that is not flat, as a share of the image's: twice the noise of local
#: correlation.
CONTRAST_RADIUS = 2
LEAST_CONTRAST = 2 * NOISE

#: Bins of the joint histogram.
BINS = 32

#: Least linearity of a linear relation.
LINEAR = 0.7

#: Factors by which descriptors must agree better: for a linear relation, and else.
FAR_MORE = 2.0
MORE = 1.5

#: Agreement from which the alignment by local correlation is right.
FOUND = 0.25

#: Factor by which the summed agreement of a better alignment must be larger.
BETTER = 1.2

#: Agreement below which neither metric says anything.
NOTHING = 0.05


@dataclass(frozen=True)
class Choice:
    """A metric, and the reason of its choice as a sentence.

    ``correlation`` is the agreement by ``"lncc"``, ``shapes`` that by ``"mind"``. What
    was not measured is NaN.
    """

    metric: OwnMetric
    reason: str
    linearity: float = float("nan")
    correlation: float = float("nan")
    shapes: float = float("nan")

    def __str__(self) -> str:
        """Return the metric and the reason."""
        return f"{self.metric}, chosen: {self.reason}"


def choose_metric(
    fixed: xr.DataArray,
    moving: xr.DataArray,
    *,
    start: Matrix | None = None,
    kind: Kind = "affine",
    allow_mirror: bool = False,
    threads: int = 1,
) -> tuple[Choice, Pose | None]:
    """Choose between ``"lncc"`` and ``"mind"`` for images as of `linear.linear`.

    ``start`` (ndim + 1, ndim + 1) is the initial alignment, homogeneous, fixed to
    moving, in dims order; by default that of `find_pose` for each metric, which is
    returned for the chosen one.
    """
    find = functools.partial(
        find_pose, fixed, moving, kind=kind, allow_mirror=allow_mirror, threads=threads
    )
    pair = _CoarsePair(fixed, moving, start, kind, find)
    aligned = pair.aligned("lncc")
    seen = pair.agreement(aligned)
    missed = False
    if not seen[0] >= FOUND:
        other = pair.aligned("mind")
        better = pair.agreement(other)
        missed = sum(better) > max(NOTHING, BETTER * sum(seen))
        if missed:
            aligned, seen = other, better
    linearity = pair.linearity(aligned)
    correlation, shapes = seen
    metric: OwnMetric = "lncc"
    if missed:
        metric, why = "mind", "they find an alignment that local correlation misses"
    elif max(seen) < NOTHING:
        why = "the images show too little in common to tell"
    elif shapes > FAR_MORE * correlation:
        metric, why = "mind", "shapes agree far better than intensities"
    elif linearity < LINEAR and shapes > MORE * correlation:
        metric, why = "mind", "the relation of the intensities is not linear"
    elif linearity < LINEAR:
        why = "descriptors see little more than intensities"
    else:
        why = "the relation of the intensities is linear"
    reason = (
        f"{why}: linearity {linearity:.2f}, agreement above chance "
        f"{correlation:.2f} by local correlation, {shapes:.2f} by descriptors"
    )
    choice = Choice(metric, reason, linearity, correlation, shapes)
    pose = pair.poses.get(metric)
    mirrored = [p.mirrored for p in pair.poses.values() if p.mirrored is not None]
    if pose is not None and pose.mirrored is None and mirrored:
        # It was seen by the other metric only.
        pose = replace(pose, mirrored=mirrored[0])
    return choice, pose


@dataclass(frozen=True)
class _Aligned:
    """The fixed image without a slow factor of brightness, and moving on its grid."""

    fixed: Array
    pulled: Array


class _CoarsePair:
    """Two images on one coarse level."""

    def __init__(
        self,
        fixed: xr.DataArray,
        moving: xr.DataArray,
        start: Matrix | None,
        kind: Kind,
        find: Callable[..., Pose],
    ) -> None:
        images = Volume.of(fixed, "fixed"), Volume.of(moving, "moving")
        self._coarse = _at_most(images, ALIGNED_VOXELS)
        self._fixed, self._moving = _at_most(images, COMPARED_VOXELS)
        fixed_values = self._fixed.values
        self._inside, self._varied = _inside(fixed_values), _has_contrast(fixed_values)
        self._start, self._kind, self._find = start, kind, find
        self.poses: dict[str, Pose] = {}

    def aligned(self, metric: OwnMetric) -> _Aligned:
        """Return both images in the alignment found by a metric."""
        (one, other), matrix = self._coarse, self._start
        if matrix is None:
            pose = self._find(metric=metric)
            self.poses[metric], matrix = pose, pose.matrix
        for spacing in levels(one):
            images = one.with_spacing(spacing), other.with_spacing(spacing)
            matrix, _ = fit(*images, matrix, kind=self._kind, metric=metric)
        pulled = self._moving.pulled(matrix, self._fixed.grid)
        return _Aligned(self._matched(pulled), pulled)

    def agreement(self, aligned: _Aligned) -> tuple[float, float]:
        """Return the agreement by ``"lncc"`` and by ``"mind"`` in an alignment."""
        grid = self._fixed.grid
        axes, quarters = tuple(range(grid.ndim)), np.array(grid.shape) // 4
        pulled = [aligned.pulled]
        for signs in itertools.product((-1, 1), repeat=grid.ndim - 1):
            shift = np.multiply((1, *signs), quarters)
            pulled.append(np.roll(pulled[0], shift, axes))
        masks = [self._compared(moving) for moving in pulled]
        correlation, shapes = (
            _above_chance(
                *(
                    local_similarity(metric, aligned.fixed, moving, mask, grid)
                    for moving, mask in zip(pulled, masks, strict=True)
                )
            )
            for metric in METRICS
        )
        return correlation, shapes

    def linearity(self, aligned: _Aligned) -> float:
        """Return the linearity of the intensities in an alignment."""
        fixed, pulled = aligned.fixed, aligned.pulled
        both = self._compared(pulled)
        a, b = fixed[both].astype(np.float64), pulled[both].astype(np.float64)
        if a.size <= BINS or a.min() == a.max() or b.min() == b.max():
            return float("nan")
        squared = float(np.corrcoef(a, b)[0, 1] ** 2)
        general = (_correlation_ratio(a, b) + _correlation_ratio(b, a)) / 2
        return min(1.0, squared / max(general, squared, 1e-6))

    def _compared(self, pulled: Array) -> NDArray[np.bool_]:
        """Return what is inside of both images, and not flat in both."""
        inside = self._inside & _inside(pulled)
        if inside.sum() < LEAST_INSIDE * inside.size:
            inside = np.isfinite(self._fixed.values) & np.isfinite(pulled)
        return np.asarray(inside & (self._varied | _has_contrast(pulled)))

    def _matched(self, pulled: Array) -> Array:
        """Return the fixed image without a slow factor of brightness."""
        units = VoxelUnits(self._fixed.grid)
        one, other = (v.reshape(units.shape) for v in (self._fixed.values, pulled))
        matched = METRICS["lncc"].matched(one, other, units)
        return np.asarray(matched.reshape(pulled.shape))


def _at_most(
    images: tuple[Volume, Volume], voxels: Mapping[int, int]
) -> tuple[Volume, Volume]:
    """Return both images at a level of at most so many voxels per axis."""
    grid = images[0].grid
    spacing = np.asarray(grid.spacing)
    for factors in pyramid_factors(grid, voxels[grid.ndim]):
        spacing = spacing * factors
    one, other = (image.with_spacing(tuple(spacing)) for image in images)
    return one, other


def _inside(image: Array) -> NDArray[np.bool_]:
    """Return the voxels away from those that have no value, or that of all around."""
    known = np.isfinite(image)
    filled = np.where(known, image, 0)
    low, high = (
        extreme(filled, size=3, mode="nearest")
        for extreme in (ndimage.minimum_filter, ndimage.maximum_filter)
    )
    varied = known & (high - low > np.spacing(np.abs(filled).max()))
    everywhere = np.ones((3,) * image.ndim)
    return np.asarray(
        ndimage.binary_erosion(varied, everywhere, BORDER, border_value=1)
    )


def _correlation_ratio(
    explained: NDArray[np.float64], by: NDArray[np.float64]
) -> float:
    """Return the share of the variance that the bins of another image explain."""
    edges = np.unique(np.quantile(by, np.linspace(0, 1, BINS + 1)[1:-1]))
    bins = np.digitize(by, edges)
    count = np.maximum(np.bincount(bins, minlength=edges.size + 1), 1)
    means = np.bincount(bins, explained, edges.size + 1) / count
    rest = float(np.mean((explained - means[bins]) ** 2))
    # Bins explain a little of anything: adjust by the degrees of freedom.
    freedom = (explained.size - 1) / (explained.size - edges.size - 1)
    return 1 - freedom * rest / float(explained.var())


def _has_contrast(image: Array) -> NDArray[np.bool_]:
    """Return where the values in the box around a voxel differ."""
    known = np.isfinite(image)
    if not known.any():
        return known
    values = np.where(known, image - np.nanmean(image, dtype=np.float64), 0)
    width = 2 * CONTRAST_RADIUS + 1
    mean = ndimage.uniform_filter(values, width, mode="nearest")
    square = ndimage.uniform_filter(values**2, width, mode="nearest")
    overall = np.nanstd(image, dtype=np.float64)
    return np.asarray(square - mean**2 > (LEAST_CONTRAST * overall) ** 2)


def _above_chance(value: float, *shifted: float) -> float:
    """Return a similarity scaled so that chance is 0 and perfect images are 1."""
    chances = [chance for chance in shifted if np.isfinite(chance)]
    chance = float(np.mean(chances)) if chances else 0.0
    above = (value - chance) / max(1 - chance, 1e-6)
    return above if np.isfinite(above) else 0.0
