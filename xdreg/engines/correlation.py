"""Squared local correlation of two images, and the force that raises it.

Neither contrast, nor its sign, nor slow changes of brightness matter. The kernels are
in `numerics.correlation_kernels`.

The force is symmetric: half of it moves the moving image, half the fixed image the
other way. Where the images agree both halves do. Where one image is noisy or blurred,
its slopes have half the weight only.

Arguments of the functions: images are ``(z, y, x)`` float32 on one grid, NaN outside
the mask. ``radius`` is the half-width of the box in voxels (z, y, x), 0 along an axis
of one voxel. ``squared_steps`` are factors (z, y, x) from a gradient per voxel to an
update in voxels. ``contrast`` are the standard deviations relative to which noise is
defined, by default those of the images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from xdreg.engines.descent import summed_forces
from xdreg.engines.metric import NO_TENSOR, EngineMetric, Terms
from xdreg.engines.voxel_units import VoxelUnits
from xdreg.numerics import correlation_kernels as kernels
from xdreg.numerics.array_correlation import ArrayCorrelation
from xdreg.numerics.brightness import matched_brightness
from xdreg.numerics.nodes import Nodes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from xdreg.engines.descent import Array, Force, Kernel, Totals
    from xdreg.engines.metric import ByDimension, Lengths
    from xdreg.grid import Grid
    from xdreg.numerics.arrays import ArraySpace
    from xdreg.numerics.nodes import Shape

#: Length of an update relative to force over curvature, the curvature summed over all
#: axes: a least-squares step at an edge is 1, in a texture it is ndim. Longer steps
#: serve, as no match is perfect and the curvature then smaller.
GAIN = {2: 18.0, 3: 2.0}

#: Curvature added everywhere, as a share of the image's stiffness. Without it, noise
#: would be pushed hardest in flat parts. In a plane it outweighs the rest: two stains
#: agree in few places, and one length for all did better there.
LEAST_STIFFNESS = {2: 2.0, 3: 0.05}


class Correlation(EngineMetric):
    """``"lncc"``: mean squared local normalised correlation.

    Boxes have 2197 voxels in a volume, 121 in a plane. Smoothing is wider in a plane,
    where fewer voxels are within reach.
    """

    radius: ClassVar[ByDimension] = {2: 5.0, 3: 6.0}
    coarse_radius: ClassVar[ByDimension] = {2: 5.0, 3: 3.0}
    update_sigma: ClassVar[ByDimension] = {2: 8.0, 3: 3.0}
    field_sigma: ClassVar[ByDimension] = {2: 3.0, 3: 1.2}
    coarse_convergence: ClassVar[ByDimension] = {2: 2e-3, 3: 1e-3}
    wide_box: ClassVar[bool] = True
    matches_edges: ClassVar[bool] = False

    def force(
        self,
        pairs: Sequence[tuple[Array, Array]],
        units: VoxelUnits,
        nodes: Nodes,
        radius: Lengths = None,
        contrast: Sequence[tuple[float, float]] | None = None,
        stiffness: Sequence[float] | None = None,
        space: ArraySpace | None = None,
    ) -> Force:
        """Return the force and the resistance of all channels."""
        box, steps = units.radius(radius, self.radius), units.squared_steps
        forces: list[Any] = []
        local: Any
        force: Any
        resistance = (space.xp if space else np).zeros(nodes.shape, np.float32)
        for i, (fixed, moving) in enumerate(pairs):
            spread = contrast[i] if contrast else None
            typical = stiffness[i] if stiffness else image_stiffness(fixed, units.grid)
            least = LEAST_STIFFNESS[units.ndim] * (typical or 1.0)
            if space is None:
                local = match_stiffness(fixed, box, steps, spread and spread[0], nodes)
                force = correlation_force(fixed, moving, box, steps, spread, nodes)
            else:
                inner = _in_nodes(box, nodes.stride)
                force = ArrayCorrelation(
                    space, fixed, moving, spread, inner, steps, nodes
                )
                local = force.curvature()
            resistance += (local + np.float32(least)) / np.float32(GAIN[units.ndim])
            forces.append(force)
        if space is None:
            return summed_forces(nodes.shape, forces), resistance
        return forces, resistance

    def matched(self, fixed: Array, moving: Array, units: VoxelUnits) -> Array:
        """Return fixed without a slow factor of brightness that moving lacks."""
        return matched_brightness(fixed, moving, units.radius(None, self.radius))

    def linear_terms(
        self, fixed: Array, units: VoxelUnits, contrast: tuple[float, float]
    ) -> Callable[[Array], Terms]:
        """Return a function from a pulled moving image to the terms of a linear fit."""
        radius = units.radius(None, self.coarse_radius)
        return lambda pulled: correlation_terms(fixed, pulled, radius, contrast)

    def similarity(self, fixed: Array, moving: Array, units: VoxelUnits) -> float:
        """Return the mean squared local correlation."""
        radius = units.radius(None, self.coarse_radius)
        return mean_correlation(fixed, moving, radius)


def image_stiffness(values: NDArray[np.float32], grid: Grid) -> float:
    """Return the mean of an image's `match_stiffness`, weighted by itself."""
    units = VoxelUnits(grid)
    box = units.radius(None, Correlation.radius)
    local = match_stiffness(values.reshape(units.shape), box, units.squared_steps)
    total = np.sum(local, dtype=np.float64)
    return float(np.sum(np.square(local), dtype=np.float64) / total) if total else 0.0


def correlation_force(
    fixed: Array,
    moving: Array,
    radius: tuple[int, int, int],
    squared_steps: Array,
    contrast: tuple[float, float] | None = None,
    nodes: Nodes | None = None,
) -> tuple[Kernel, ...]:
    """Return the kernels that pull ``moving`` to ``fixed``, for `descent`."""
    reference, source = _standardised(fixed, moving, contrast)
    pulled = np.empty_like(source)
    stride = nodes.stride if nodes else (1, 1, 1)
    box = _in_nodes(radius, stride)

    def pull_moving(start: int, stop: int, displacement: Array, *_: object) -> None:
        kernels.pull(start, stop, displacement, stride, source, pulled)

    def push(start: int, stop: int, _: Array, update: Array, totals: Totals) -> None:
        images = reference, pulled, box, stride, squared_steps
        kernels.force(start, stop, *images, update, NO_TENSOR, totals)

    return pull_moving, push


def correlation_terms(
    fixed: Array,
    pulled: Array,
    radius: tuple[int, int, int],
    contrast: tuple[float, float] | None = None,
    nodes: Nodes | None = None,
) -> Terms:
    """Return the force on every node and its curvature, for a linear fit."""
    reference, source = _standardised(fixed, pulled, contrast)
    nodes = nodes or Nodes(reference.shape)
    terms = Terms.empty(nodes.shape)
    how = _in_nodes(radius, nodes.stride), nodes.stride, np.ones(3, np.float32)
    kernels.force(0, nodes.shape[0], reference, source, *how, *terms.arrays)
    return terms


def match_stiffness(
    image: Array,
    radius: tuple[int, int, int],
    squared_steps: Array,
    contrast: float | None = None,
    nodes: Nodes | None = None,
) -> Array:
    """Return the energy's curvature (z, y, x) along the update, at a perfect match.

    It is the force per voxel of displacement of an image from itself: smaller where the
    image is smooth within a box, zero where it has no slope.
    """
    alone = image, image, radius, (contrast, contrast) if contrast else None
    tensor = correlation_terms(*alone, nodes).tensor
    diagonal = (tensor[..., i] for i in (0, 3, 5))
    along = sum(v * step for v, step in zip(diagonal, squared_steps, strict=True))
    return np.asarray(along, np.float32)


def mean_correlation(
    fixed: Array,
    moving: Array,
    radius: tuple[int, int, int],
    contrast: tuple[float, float] | None = None,
) -> float:
    """Return the mean squared local correlation of two images, 0 to 1."""
    reference, source = _standardised(fixed, moving, contrast)
    totals = np.zeros((reference.shape[0], 2))
    steps, no_update = np.ones(3, np.float32), np.empty((0, 0, 0, 3), np.float32)
    arrays = no_update, NO_TENSOR, totals
    how = radius, (1, 1, 1), steps
    kernels.force(0, len(totals), reference, source, *how, *arrays)
    count = totals[:, 1].sum()
    return float(totals[:, 0].sum() / count) if count else float("nan")


def _in_nodes(radius: tuple[int, int, int], stride: tuple[int, int, int]) -> Shape:
    """Return the half-width of a box in nodes whose width is nearest to the given."""
    z, y, x = (
        max(round(((2 * r + 1) / s - 1) / 2), 1) if r else 0
        for r, s in zip(radius, stride, strict=True)
    )
    return z, y, x


def _standardised(
    fixed: Array, moving: Array, contrast: tuple[float, float] | None
) -> list[Array]:
    """Return both images with mean zero and standard deviation one."""
    result = []
    for image, given in zip((fixed, moving), contrast or (None, None), strict=True):
        known = image[np.isfinite(image)]
        mean = float(known.mean(dtype=np.float64)) if known.size else 0.0
        scale = given or (float(known.std(dtype=np.float64)) if known.size else 0) or 1
        result.append(np.asarray((image - mean) / scale, np.float32))
    return result
