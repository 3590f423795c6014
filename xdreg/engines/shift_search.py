"""Search for the best shift between two coarse images, given rotation and scale.

The moving image is resampled, and correlated with the fixed image at all shifts at once
by Fourier transforms. Masks exclude what is outside either image.

Source: Padfield, Masked object registration in the Fourier domain, IEEE TIP 2012.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import fft

from xdreg.grid import Grid
from xdreg.numerics import kernels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xdreg.engines.linear import Matrix, Volume

#: Voxels along the longest axis of the correlated images.
SEARCH_VOXELS = {2: 48, 3: 20}

#: Smallest scale that is searched, at which the moving image is largest.
SMALLEST_SCALE = 0.8

#: Least overlap of a shift, as a share of the smaller image.
LEAST_OVERLAP = 0.2

#: Power of the overlap in the score of a shift. Without it, small parts that agree by
#: chance win over a whole. A higher power misses images that share only a part.
OVERLAP_POWER = 1.5

#: Variance below this share of an image's own is noise.
NOISE = 0.01


@dataclass(frozen=True)
class Shift:
    """A transform, fixed to moving, and the correlation of the coarse images."""

    matrix: Matrix
    score: float


class ShiftSearch:
    """Correlation of two coarse images at all shifts, for one linear map at a time."""

    def __init__(
        self, fixed: Volume, moving: Volume, *, edges: bool, voxels: int | None = None
    ) -> None:
        ndim = fixed.grid.ndim
        extents = [np.subtract(*image.grid.bounds[::-1]) for image in (fixed, moving)]
        self._step = float(max(e.max() for e in extents)) / (
            voxels or SEARCH_VOXELS[ndim]
        )
        spacing = (self._step,) * ndim
        self._moving = _searchable(moving.with_spacing(spacing), edges)
        coarse = _searchable(fixed.with_spacing(spacing), edges)
        self._fixed_grid = self._cover(fixed.grid.centre, extents[0] / 2, fixed.grid)
        values = kernels.warp_array(
            coarse.values,
            coarse.grid,
            *kernels.affine_displacement(np.eye(ndim + 1), self._fixed_grid),
            self._fixed_grid,
        )
        # Padding for the largest rotated image.
        reach = float(np.linalg.norm(extents[1])) / SMALLEST_SCALE
        self._padded = tuple(
            fft.next_fast_len(n + int(np.ceil(reach / self._step)) + 2, real=True)
            for n in self._fixed_grid.shape
        )
        self._parts = [np.conj(self._transform(p)) for p in _moments(values)]
        self._count = np.isfinite(values).sum()

    def best_shift(self, linear: NDArray[np.float64]) -> Shift:
        """Return the best shift for a linear map (ndim, ndim), and its score."""
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
        values = kernels.warp_array(
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
        return Shift(matrix, float(score[best]))

    def _correlate(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the squared correlation at all shifts, weighted by the overlap."""
        moments = [self._transform(part) for part in _moments(values)]

        def sums(one: int, other: int) -> NDArray[np.float32]:
            product = self._parts[one] * moments[other]
            back = fft.irfftn(product, self._padded)
            return np.asarray(back, np.float32)

        count = np.maximum(sums(0, 0), 1.0)
        f, m = sums(1, 0), sums(0, 1)
        cross = sums(1, 1) - f * m / count
        # Noise is relative to the contrast of the images, which is one.
        floor = NOISE * count
        var_f = np.maximum(sums(2, 0) - f * f / count, 0) + floor
        var_m = np.maximum(sums(0, 2) - m * m / count, 0) + floor
        score = cross**2 / (var_f * var_m)
        overlap = count / max(1, min(self._count, np.isfinite(values).sum()))
        score *= np.minimum(1, overlap) ** OVERLAP_POWER
        score[overlap < LEAST_OVERLAP] = 0
        return np.asarray(score)

    def _transform(self, part: NDArray[np.float32]) -> NDArray[np.complex64]:
        return np.asarray(fft.rfftn(part, self._padded))

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
    """Return an image, or the magnitude of its gradient, scaled to contrast one."""
    values = image.values
    if edges:
        slopes = [
            np.gradient(values, step, axis=axis)
            for axis, (step, size) in enumerate(
                zip(image.grid.spacing, image.grid.shape, strict=True)
            )
            if size > 1
        ]
        # An image of one voxel has no gradient, but a shape.
        values = np.sqrt(sum((slope**2 for slope in slopes), np.zeros_like(values)))
    image = replace(image, values=values)
    scaled = (values - np.nanmean(values)) / image.contrast
    return replace(image, values=scaled.astype(np.float32))


def _moments(values: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Return one, value and square of every known voxel, zero elsewhere."""
    counts = np.isfinite(values)
    known = np.where(counts, values, np.float32(0))
    return [counts.astype(np.float32), known, known**2]
