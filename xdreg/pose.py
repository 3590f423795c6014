"""Where to start: the pose, of many, that fits best.

Both images are made coarse. For every turn and scale of a grid the moving image is
resampled, and correlated with the fixed one at all shifts at once; masks keep what lies
outside either image from counting. The best few are then fitted by `xdreg.linear`, and
the metric itself decides.

Source: Padfield, Masked object registration in the Fourier domain, IEEE TIP 2012.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from xdreg import kernels
from xdreg.grid import Grid
from xdreg.linear import FULL_OVERLAP, Volume, fit, levels

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import xarray as xr
    from numpy.typing import NDArray

    from xdreg.linear import Matrix
    from xdreg.options import Kind, OwnMetric

#: Voxels along the longest axis of the images that are correlated at all shifts.
SEARCH_VOXELS = {2: 48, 3: 20}

#: Turns to try, in degrees: in a plane all round, in space about 13 axes.
TURNS = {2: tuple(range(-165, 181, 15)), 3: (22.5, 45.0)}

#: Scales to try where the kind of transform has one.
SCALES = (0.8, 1.0, 1.25)

#: Shifts at which less than this share of the smaller image overlaps do not count.
LEAST_OVERLAP = 0.2

#: So many of the best are fitted, on so many levels.
FINALISTS = 8
DECIDING_LEVELS = 2

#: Scores that differ by less than this share of their range say nothing.
NEARLY_EQUAL = 0.02

#: Variance below this share of an image's own is noise.
NOISE = 0.01


def find_pose(
    fixed: xr.DataArray,
    moving: xr.DataArray,
    *,
    kind: Kind = "affine",
    metric: OwnMetric = "lncc",
) -> Matrix:
    """Find where the moving image lies, whatever its position and turn.

    Where the images lie already, and centre on centre, are always among what is tried.

    Parameters
    ----------
    fixed, moving : DataArray ([z], y, x)
        Images in memory, each on its own grid; a boolean coordinate ``mask`` says
        which voxels count.
    kind
        What the transform may do: ``"translation"``, ``"rigid"``, or ``"similarity"``
        and ``"affine"``, for which scales are tried, too.
    metric
        What decides between the best, as in `xdreg.linear.linear`.

    Returns
    -------
    (ndim + 1, ndim + 1) float64
        Homogeneous, fixed to moving, in dims order and the images' units; without
        shear.
    """
    images = Volume.of(fixed, "fixed"), Volume.of(moving, "moving")
    ndim = images[0].grid.ndim
    search = _Search(*images, edges=metric == "mind")
    turns = [np.eye(ndim)]
    if kind != "translation":
        turns += list(_turns(ndim))
    found = [search.best_shift(turn) for turn in turns]
    if kind in ("similarity", "affine"):
        found.sort(key=lambda pose: -pose.score)
        scaled = [
            search.best_shift(scale * pose.matrix[:-1, :-1])
            for pose in found[:FINALISTS]
            for scale in SCALES
            if scale != 1
        ]
        found += scaled
    found.sort(key=lambda pose: -pose.score)
    # In this order: of nearly equal ones the first wins, the least moved.
    candidates = [np.eye(ndim + 1), np.eye(ndim + 1)]
    candidates[1][:-1, -1] = images[1].grid.centre - images[0].grid.centre
    candidates += [pose.matrix for pose in found[:FINALISTS] if pose.score > 0]
    allowed = "similarity" if kind == "affine" else kind
    scores = [0.0] * len(candidates)
    for spacing in levels(images[0])[:DECIDING_LEVELS]:
        one, other = (image.with_spacing(spacing) for image in images)
        fits = [fit(one, other, c, kind=allowed, metric=metric) for c in candidates]
        candidates, scores = [c for c, _ in fits], [score for _, score in fits]
    least = max(scores) - NEARLY_EQUAL * (max(scores) - min(scores))
    return candidates[next(i for i, score in enumerate(scores) if score >= least)]


@dataclass(frozen=True)
class _Pose:
    """A transform, fixed to moving, and how well the coarse images agree then."""

    matrix: Matrix
    score: float


def _turns(ndim: int) -> Iterator[NDArray[np.float64]]:
    """Yield rotation matrices, in dims order."""
    if ndim == 2:
        for degrees in TURNS[2]:
            if degrees:
                c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
                yield np.array([[c, -s], [s, c]])
        return
    for degrees in TURNS[3]:
        for axis in itertools.product((-1, 0, 1), repeat=3):
            if any(axis):
                yield _rotation(axis, np.radians(degrees))


def _rotation(axis: Sequence[float], angle: float) -> NDArray[np.float64]:
    """Return the turn about an axis (Rodrigues)."""
    x, y, z = np.asarray(axis, float) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(
        np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    )


class _Search:
    """Correlates two coarse images at all shifts, for one turn after the other."""

    def __init__(self, fixed: Volume, moving: Volume, *, edges: bool) -> None:
        ndim = fixed.grid.ndim
        extents = [np.subtract(*image.grid.bounds[::-1]) for image in (fixed, moving)]
        self._step = float(max(e.max() for e in extents)) / SEARCH_VOXELS[ndim]
        spacing = (self._step,) * ndim
        self._moving = _searchable(moving.with_spacing(spacing), edges)
        coarse = _searchable(fixed.with_spacing(spacing), edges)
        self._fixed_grid = self._cover(fixed.grid.centre, extents[0] / 2, fixed.grid)
        values = kernels.warp(
            coarse.values,
            coarse.grid,
            *kernels.affine_displacement(np.eye(ndim + 1), self._fixed_grid),
            self._fixed_grid,
        )
        # Room for the largest turned image beside the fixed one.
        reach = float(np.linalg.norm(extents[1])) / min(SCALES)
        self._padded = tuple(
            _quick_size(n + int(np.ceil(reach / self._step)) + 2)
            for n in self._fixed_grid.shape
        )
        self._parts = [np.conj(self._transform(p)) for p in _moments(values)]
        self._count = np.isfinite(values).sum()

    def best_shift(self, linear: NDArray[np.float64]) -> _Pose:
        """Return the best shift for a turn and scale, and its score."""
        # y -> centre + linear @ y, over all of the moving image.
        grid = self._moving.grid
        ndim = grid.ndim
        lower, upper = grid.bounds
        corners = np.array(list(itertools.product(*zip(lower, upper, strict=True))))
        inverse = np.linalg.inv(linear)
        half = np.abs((corners - grid.centre) @ inverse.T).max(axis=0)
        turned = self._cover(np.zeros(ndim), half, grid)
        matrix = np.eye(ndim + 1)
        matrix[:ndim, :ndim] = linear
        matrix[:ndim, ndim] = grid.centre
        values = kernels.warp(
            self._moving.values,
            grid,
            *kernels.affine_displacement(matrix, turned),
            turned,
        )
        score = self._correlate(values)
        best = np.unravel_index(int(np.argmax(score)), score.shape)
        # turned voxel = fixed voxel + shift; shifts beyond the middle are negative.
        shift = np.array(
            [
                b if b < n else b - p
                for b, n, p in zip(best, turned.shape, self._padded, strict=True)
            ]
        )
        offset = np.asarray(turned.origin) + self._step * shift
        offset = offset - np.asarray(self._fixed_grid.origin)
        matrix[:ndim, ndim] = grid.centre + linear @ offset
        return _Pose(matrix, float(score[best]))

    def _correlate(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the squared correlation at all shifts, less where little overlaps."""
        moments = [self._transform(part) for part in _moments(values)]

        def sums(one: int, other: int) -> NDArray[np.float32]:
            product = self._parts[one] * moments[other]
            back = np.fft.irfftn(product, self._padded, range(len(self._padded)))
            return np.asarray(back, np.float32)

        count = np.maximum(sums(0, 0), 1.0)
        f, m = sums(1, 0), sums(0, 1)
        cross = sums(1, 1) - f * m / count
        # Images have contrast one, so noise is measured against that.
        floor = NOISE * count
        var_f = np.maximum(sums(2, 0) - f * f / count, 0) + floor
        var_m = np.maximum(sums(0, 2) - m * m / count, 0) + floor
        score = cross**2 / (var_f * var_m)
        overlap = count / max(1, min(self._count, np.isfinite(values).sum()))
        score *= np.minimum(1, overlap / FULL_OVERLAP)
        score[overlap < LEAST_OVERLAP] = 0
        return np.asarray(score)

    def _transform(self, part: NDArray[np.float32]) -> NDArray[np.complex64]:
        return np.asarray(np.fft.rfftn(part, self._padded, range(part.ndim)))

    def _cover(
        self, centre: NDArray[np.float64], half: NDArray[np.float64], like: Grid
    ) -> Grid:
        """Return an isotropic grid about a centre."""
        shape = np.maximum(np.ceil(2 * half / self._step - 1e-6), 1).astype(int)
        origin = centre - 0.5 * self._step * (shape - 1)
        return Grid(
            like.dims,
            tuple(shape.tolist()),
            (self._step,) * like.ndim,
            tuple(origin.tolist()),
            like.units,
        )


def _searchable(image: Volume, edges: bool) -> Volume:
    """Return an image of contrast one, or the strength of its edges."""
    values = image.values
    if edges:
        slopes = [
            np.gradient(values, step, axis=axis)
            for axis, (step, size) in enumerate(
                zip(image.grid.spacing, image.grid.shape, strict=True)
            )
            if size > 1
        ]
        values = np.sqrt(sum(slope**2 for slope in slopes))
    image = replace(image, values=values)
    scaled = (values - np.nanmean(values)) / image.contrast
    return replace(image, values=scaled.astype(np.float32))


def _moments(values: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Return one, value and square where there is a value, zero elsewhere."""
    counts = np.isfinite(values)
    known = np.where(counts, values, np.float32(0))
    return [counts.astype(np.float32), known, known**2]


def _quick_size(size: int) -> int:
    """Return the next size whose only factors are 2, 3 and 5."""
    while True:
        rest = size
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += 1
