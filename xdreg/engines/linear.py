"""Linear registration of two images in memory by xdreg's own metrics.

Gauss-Newton: the force on every voxel and its curvature are summed into the normal
equations of an affine transform, which are then projected to the kind of transform. An
update is applied *before* the transform, ``T ← T ∘ exp(δ)``, as the pulled image and
its slopes are on the fixed grid. The exponential keeps a rotation a rotation.

Sources: Baker and Matthews, Lucas-Kanade 20 years on: a unifying framework, IJCV 2004;
damping: Marquardt, J. SIAM 1963.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from xdreg.coordinates import coordinates, grid_of
from xdreg.engines.own_metrics import METRICS
from xdreg.engines.voxel_units import VoxelUnits, masked_values
from xdreg.errors import MethodTimeout
from xdreg.grid import pyramid_factors
from xdreg.numerics import kernels

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from xdreg.engines.metric import Terms
    from xdreg.grid import Grid
    from xdreg.stages import Kind, OwnMetric

    Matrix = NDArray[np.float64]

#: Most voxels of the coarsest level, where registration starts.
COARSEST_VOXELS = {2: 48**2, 3: 24**3}

#: Overlap from which a score is not reduced, as a share of the smaller image.
FULL_OVERLAP = 0.5

#: A fit has converged when no corner moves by more than this, in voxels.
REST_VOXELS = 0.02

#: Initial, least and largest damping. The fit ends beyond the largest.
DAMPING = 1e-3
LEAST_DAMPING = 1e-6
MOST_DAMPING = 1e3


@dataclass(frozen=True)
class Volume:
    """An image in memory: values, NaN outside the mask, and their grid."""

    values: NDArray[np.float32]
    grid: Grid

    @classmethod
    def of(cls, image: xr.DataArray, name: str) -> Volume:
        """Return a volume from an image, with its coordinate ``mask``, if any."""
        grid = grid_of(image, name)
        values = masked_values(image, grid).reshape(grid.shape)
        return cls(np.where(np.isfinite(values), values, np.float32(np.nan)), grid)

    def with_spacing(self, spacing: tuple[float, ...]) -> Volume:
        """Return means over cells, for a spacing as near as whole factors allow.

        NaN does not count; it remains where less than half of a cell is known.
        """
        grid = self.grid
        factors = tuple(
            min(max(1, round(target / own)), size)
            for target, own, size in zip(spacing, grid.spacing, grid.shape, strict=True)
        )
        if max(factors) == 1:
            return self
        counts = np.isfinite(self.values)
        share = _cell_means(counts, factors)
        total = _cell_means(np.where(counts, self.values, 0), factors)
        with np.errstate(invalid="ignore", divide="ignore"):
            values = np.where(share >= 0.5, total / share, np.nan)
        return Volume(values.astype(np.float32), grid.coarsen(factors))

    def pulled(self, matrix: Matrix, grid: Grid) -> NDArray[np.float32]:
        """Return the image on a grid, through a transform from there to its own."""
        field = kernels.affine_displacement(matrix, grid)
        return kernels.warp_array(self.values, self.grid, *field, grid)

    @property
    def extent(self) -> float:
        """Area or volume of the known voxels, in physical units."""
        return float(np.isfinite(self.values).sum() * np.prod(self.grid.spacing))

    @property
    def contrast(self) -> float:
        """Standard deviation of the known voxels."""
        if not np.isfinite(self.values).any():
            return 1.0
        return float(np.nanstd(self.values, dtype=np.float64)) or 1.0


def linear(
    fixed: xr.DataArray,
    moving: xr.DataArray,
    *,
    kind: Kind = "affine",
    metric: OwnMetric = "lncc",
    initial: ArrayLike | None = None,
    iterations: int = 50,
    timeout: float | None = None,
) -> Matrix:
    """Register two images, each on its own grid, by a linear transform, coarse to fine.

    Images are ([z], y, x), optionally with a boolean coordinate ``mask``. Returns the
    total transform (ndim + 1, ndim + 1), ``initial`` included: homogeneous, fixed to
    moving, in dims order and the images' units. ``kind`` is that of the update of
    ``initial``. ``iterations`` limits those of each level, ``timeout`` is in seconds.
    """
    images = Volume.of(fixed, "fixed"), Volume.of(moving, "moving")
    matrix = np.eye(images[0].grid.ndim + 1)
    if initial is not None:
        matrix = np.asarray(initial, np.float64)
    until = None if timeout is None else time.perf_counter() + timeout
    for spacing in levels(images[0]):
        pair = images[0].with_spacing(spacing), images[1].with_spacing(spacing)
        matrix, _ = fit(
            *pair, matrix, kind=kind, metric=metric, iterations=iterations, until=until
        )
    return matrix


def linear_displacement(
    fixed: xr.DataArray,
    moving: xr.DataArray,
    *,
    transform: Kind = "rigid",
    metric: OwnMetric = "lncc",
    iterations: int = 50,
    timeout: float | None = None,
) -> xr.DataArray:
    """Register by `linear`; return the displacement at the corners of the fixed image.

    Between them it is linear.
    """
    matrix = linear(
        fixed,
        moving,
        kind=transform,
        metric=metric,
        iterations=iterations,
        timeout=timeout,
    )
    values, corners = kernels.affine_displacement(matrix, grid_of(fixed, "fixed"))
    dims = ("component", *corners.dims)
    return xr.DataArray(values, dims=dims, coords=coordinates(corners))


def fit(
    fixed: Volume,
    moving: Volume,
    start: Matrix,
    *,
    kind: Kind,
    metric: OwnMetric = "lncc",
    iterations: int = 50,
    until: float | None = None,
) -> tuple[Matrix, float]:
    """Refine a linear transform on one level; return the matrix and its score.

    The score is the mean energy where the images overlap, 0 to 1, reduced in proportion
    where the overlap is below `FULL_OVERLAP`. ``until`` is the value of
    ``time.perf_counter`` at which to stop. If a slow factor of brightness is found, the
    fit is continued without it.
    """
    basis = _basis(kind, fixed.grid.ndim)
    problem = _Problem(fixed, moving, metric)
    matrix, score = _climb(problem, start, basis, iterations, until)
    evened = problem.matched(matrix)
    if evened is not None:
        problem = _Problem(evened, moving, metric)
        matrix, score = _climb(problem, matrix, basis, iterations, until)
    return matrix, score


def _climb(
    problem: _Problem,
    start: Matrix,
    basis: Matrix,
    iterations: int,
    until: float | None,
) -> tuple[Matrix, float]:
    """Return the transform of the highest score near a start, and that score."""
    matrix, damping = start, DAMPING
    terms, score = problem.terms(matrix)
    for _ in range(iterations):
        normal, gradient = problem.normal_equations(terms)
        normal, gradient = basis.T @ normal @ basis, basis.T @ gradient
        improved = False
        while damping < MOST_DAMPING and not improved:
            damped = normal + damping * np.diag(np.diag(normal) + 1e-12)
            change = basis @ np.linalg.solve(damped, gradient)
            step = problem.as_matrix(change)
            trial, trial_score = problem.terms(matrix @ step)
            improved = trial_score > score
            damping = damping / 10 if improved else damping * 10
            if until is not None and time.perf_counter() > until:
                msg = "the linear fit took too long; allow more time"
                raise MethodTimeout(msg)
        if not improved:
            break
        matrix, terms, score = matrix @ step, trial, trial_score
        damping = max(damping, LEAST_DAMPING)
        if problem.corner_motion(step) < REST_VOXELS:
            break
    return matrix, score


def levels(fixed: Volume) -> list[tuple[float, ...]]:
    """Return the spacings of all levels, coarse to fine; the last is the image's."""
    grid, spacings = fixed.grid, [fixed.grid.spacing]
    for factors in pyramid_factors(grid, smallest=1):
        if grid.size <= COARSEST_VOXELS[grid.ndim]:
            break
        grid = grid.coarsen(factors)
        spacings.append(grid.spacing)
    return spacings[::-1]


class _Problem:
    """Two images on one level, and the energy of transforms between them."""

    def __init__(self, fixed: Volume, moving: Volume, metric: OwnMetric) -> None:
        self._fixed, self._moving = fixed, moving
        self._metric = METRICS[metric]
        grid = fixed.grid
        self._units = VoxelUnits(grid)
        self._smaller = min(fixed.extent, moving.extent)
        self._size = float(np.mean(np.subtract(*grid.bounds[::-1]))) / 2
        # In half extents from the centre, so that parameters are of one magnitude.
        index = np.moveaxis(np.indices(grid.shape), 0, -1).reshape(-1, grid.ndim)
        place = (grid.index_to_physical(index) - grid.centre) / self._size
        self._place = np.concatenate([place, np.ones((len(place), 1))], axis=1)
        self._terms = self._metric.linear_terms(
            fixed.values.reshape(self._units.shape),
            self._units,
            (fixed.contrast, moving.contrast),
        )

    def terms(self, matrix: Matrix) -> tuple[Terms, float]:
        """Return the linearised energy at a transform, and the score."""
        grid = self._fixed.grid
        terms = self._terms(self._pulled(matrix))
        if not self._smaller:
            # A small mask may be empty on a coarse level.
            return terms, 0.0
        overlap = terms.count * float(np.prod(grid.spacing)) / self._smaller
        return terms, terms.energy * min(1.0, overlap / FULL_OVERLAP)

    def matched(self, matrix: Matrix) -> Volume | None:
        """Return fixed without a slow factor of brightness, if it has one."""
        values = self._fixed.values.reshape(self._units.shape)
        evened = self._metric.matched(values, self._pulled(matrix), self._units)
        if evened is values:
            return None
        return replace(self._fixed, values=evened.reshape(self._fixed.grid.shape))

    def _pulled(self, matrix: Matrix) -> NDArray[np.float32]:
        """Return the moving image (z, y, x) on the fixed grid."""
        pulled = self._moving.pulled(matrix, self._fixed.grid)
        return pulled.reshape(self._units.shape)

    def normal_equations(self, terms: Terms) -> tuple[Matrix, Matrix]:
        """Return matrix and right-hand side for the entries of an affine update."""
        ndim = self._fixed.grid.ndim
        scale = self._size / np.asarray(self._fixed.grid.spacing)
        force = terms.force.reshape(-1, 3)[:, 3 - ndim :] * scale
        gradient = np.einsum("na,ni->ia", self._place, force.astype(np.float64))
        normal = np.zeros((ndim, ndim + 1, ndim, ndim + 1))
        flat = terms.tensor.reshape(-1, 6)
        for number, (i, j) in enumerate(zip(*np.triu_indices(3), strict=True)):
            i, j = i - (3 - ndim), j - (3 - ndim)
            if i < 0:
                continue
            weight = flat[:, number, None] * (scale[i] * scale[j])
            block = self._place.T @ (weight * self._place)
            normal[i, :, j, :] = block
            normal[j, :, i, :] = block
        size = ndim * (ndim + 1)
        return normal.reshape(size, size), gradient.reshape(size)

    def as_matrix(self, change: Matrix) -> Matrix:
        """Return the homogeneous matrix of an affine update."""
        ndim = self._fixed.grid.ndim
        generator = np.zeros((ndim + 1, ndim + 1))
        generator[:ndim] = change.reshape(ndim, ndim + 1)
        frame = np.eye(ndim + 1)
        frame[:ndim, :ndim] *= self._size
        frame[:ndim, ndim] = self._fixed.grid.centre
        return np.asarray(frame @ _exponential(generator) @ np.linalg.inv(frame))

    def corner_motion(self, matrix: Matrix) -> float:
        """Return the largest displacement of a corner, in voxels."""
        displacement, _ = kernels.affine_displacement(matrix, self._fixed.grid)
        vectors = np.moveaxis(displacement, 0, -1)
        return float(np.abs(vectors / self._fixed.grid.spacing).max())


def _cell_means(values: NDArray[np.generic], factors: tuple[int, ...]) -> Matrix:
    sizes = list(zip(values.shape, factors, strict=True))
    kept = tuple(slice(n - n % f) for n, f in sizes)
    split = [part for n, f in sizes for part in (n // f, f)]
    cells = np.asarray(values[kept], np.float32).reshape(split)
    odd = tuple(range(1, 2 * values.ndim, 2))
    return np.asarray(cells.mean(axis=odd, dtype=np.float64))


def _basis(kind: Kind, ndim: int) -> Matrix:
    """Return a basis of the updates of a kind (ndim · (ndim + 1), parameters)."""
    affine = np.eye(ndim * (ndim + 1))
    if kind == "affine":
        return affine
    entries = affine.reshape(ndim, ndim + 1, -1)
    columns = list(entries[:, ndim])
    if kind != "translation":
        columns += [
            entries[i, j] - entries[j, i] for i in range(ndim) for j in range(i)
        ]
    if kind == "similarity":
        columns.append(np.eye(ndim, ndim + 1).ravel())
    return np.stack(columns, axis=1)


def _exponential(generator: Matrix) -> Matrix:
    """Return the matrix exponential, by scaling and squaring.

    `scipy.linalg.expm` differs in the last bits, and so would the transforms.
    """
    small = generator / 2**8
    result = term = np.eye(len(generator))
    for power in range(1, 9):
        term = term @ small / power
        result = result + term
    for _ in range(8):
        result = result @ result
    return result
