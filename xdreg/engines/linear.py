"""Linear registration of two whole images by xdreg's own metrics.

Gauss-Newton: the force on every voxel, and the curvature against it, are summed into
the normal equations of an affine transform, which are then confined to its kind. The
transform grows by what comes *before* it, ``T ← T ∘ exp(δ)``, for the pulled image and
its slopes live on the fixed grid, and so that a rotation stays one.

Sources: Baker and Matthews, Lucas-Kanade 20 years on: a unifying framework, IJCV 2004;
damped as by Marquardt.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
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

#: Registration starts with a level of at most so many voxels.
COARSEST_VOXELS = {2: 48**2, 3: 24**3}

#: Overlap, as a share of the smaller image, from which a fit counts in full.
FULL_OVERLAP = 0.5

#: A fit is at rest when no corner moves by more than this, in voxels.
REST_VOXELS = 0.02

#: Damping to start with, at least, and beyond which no step is worth another try.
DAMPING = 1e-3
LEAST_DAMPING = 1e-6
MOST_DAMPING = 1e3


@dataclass(frozen=True)
class Volume:
    """An image in memory: values, NaN where they do not count, and their grid."""

    values: NDArray[np.float32]
    grid: Grid

    @classmethod
    def of(cls, image: xr.DataArray, name: str) -> Volume:
        """Take an image whose coordinate ``mask``, if any, says what counts."""
        grid = grid_of(image, name)
        values = masked_values(image, grid).reshape(grid.shape)
        return cls(np.where(np.isfinite(values), values, np.float32(np.nan)), grid)

    def coarsened(self, factors: tuple[int, ...]) -> Volume:
        """Return the means over cells of what counts; NaN where under half does."""
        if max(factors) == 1:
            return self
        counts = np.isfinite(self.values)
        share = _cell_means(counts, factors)
        total = _cell_means(np.where(counts, self.values, 0), factors)
        with np.errstate(invalid="ignore", divide="ignore"):
            values = np.where(share >= 0.5, total / share, np.nan)
        return Volume(values.astype(np.float32), self.grid.coarsen(factors))

    def with_spacing(self, spacing: tuple[float, ...]) -> Volume:
        """Return means over the cells that come nearest to a spacing."""
        factors = [
            min(max(1, round(target / own)), size)
            for target, own, size in zip(
                spacing, self.grid.spacing, self.grid.shape, strict=True
            )
        ]
        return self.coarsened(tuple(factors))

    @property
    def extent(self) -> float:
        """Area or volume of what counts, in physical units."""
        return float(np.isfinite(self.values).sum() * np.prod(self.grid.spacing))

    @property
    def contrast(self) -> float:
        """Standard deviation of what counts."""
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
    """Register two images by a linear transform, coarse to fine.

    Parameters
    ----------
    fixed, moving : DataArray ([z], y, x)
        Images in memory, each on its own grid; a boolean coordinate ``mask`` says
        which voxels count.
    kind
        What the update of ``initial`` may do.
    metric
        ``"lncc"`` or ``"mind"``, as in `xdreg.LocalCorrelation`.
    initial : (ndim + 1, ndim + 1), optional
        Where to start, fixed to moving, in dims order; identity if not given.
    iterations
        At most so many on each level.
    timeout : float, second, optional
        Give up after this long.

    Returns
    -------
    (ndim + 1, ndim + 1) float64
        The total transform, ``initial`` included: homogeneous, fixed to moving, in
        dims order and the images' units.

    Raises
    ------
    MethodTimeout
        If the time is up.

    Examples
    --------
    >>> import xarray as xr
    >>> wave = np.sin(np.arange(60.0) ** 1.3 / 9)
    >>> def image(x):
    ...     coords = {"y": np.arange(60.0), "x": x + np.arange(60.0)}
    ...     return xr.DataArray(np.outer(wave, wave), coords, ("y", "x"))
    >>> linear(image(0.0), image(1.5), kind="translation").round(1)[:2, 2] + 0.0
    array([0. , 1.5])
    """
    images = Volume.of(fixed, "fixed"), Volume.of(moving, "moving")
    matrix = np.eye(images[0].grid.ndim + 1)
    if initial is not None:
        matrix = np.asarray(initial, np.float64)
    until = None if timeout is None else time.perf_counter() + timeout
    for spacing in levels(images[0]):
        one, other = (image.with_spacing(spacing) for image in images)
        matrix, _ = fit(
            one,
            other,
            matrix,
            kind=kind,
            metric=metric,
            iterations=iterations,
            until=until,
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
    """Register a block by a linear transform; return it as a displacement.

    Parameters
    ----------
    fixed, moving, metric, iterations, timeout
        As for `linear`.
    transform
        Its ``kind``.

    Returns
    -------
    DataArray (component, [z], y, x)
        At the corners of the block, between which it is linear.
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
    """Refine a linear transform on one level.

    Parameters
    ----------
    fixed, moving
        The images.
    start, kind, metric, iterations
        As for `linear`.
    until : float, optional
        Value of ``time.perf_counter`` at which to give up.

    Returns
    -------
    matrix : (ndim + 1, ndim + 1) float64
    score
        Mean energy where the images overlap, 0 to 1, lowered in proportion where they
        overlap by less than half of the smaller one.
    """
    problem = _Problem(fixed, moving, metric)
    basis = _basis(kind, fixed.grid.ndim)
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
    """Return the spacings to go through, coarse to fine, down to the image's own."""
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
        grid = fixed.grid
        self._units = VoxelUnits(grid)
        self._smaller = min(fixed.extent, moving.extent)
        self._size = float(np.mean(np.subtract(*grid.bounds[::-1]))) / 2
        # In half extents from the centre, so that parameters are of one magnitude.
        index = np.moveaxis(np.indices(grid.shape), 0, -1).reshape(-1, grid.ndim)
        place = (grid.index_to_physical(index) - grid.centre) / self._size
        self._place = np.concatenate([place, np.ones((len(place), 1))], axis=1)
        self._terms = METRICS[metric].linear_terms(
            fixed.values.reshape(self._units.shape),
            self._units,
            (fixed.contrast, moving.contrast),
        )

    def terms(self, matrix: Matrix) -> tuple[Terms, float]:
        """Return the linearised energy at a transform, and the score."""
        grid = self._fixed.grid
        pulled = kernels.warp_array(
            self._moving.values,
            self._moving.grid,
            *kernels.affine_displacement(matrix, grid),
            grid,
        )
        terms = self._terms(pulled.reshape(self._units.shape))
        if not self._smaller:
            # A mask of few voxels may leave nothing on a coarse level.
            return terms, 0.0
        overlap = terms.count * float(np.prod(grid.spacing)) / self._smaller
        return terms, terms.energy * min(1.0, overlap / FULL_OVERLAP)

    def normal_equations(self, terms: Terms) -> tuple[Matrix, Matrix]:
        """Return matrix and right-hand side for the entries of an affine change."""
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
        """Return the homogeneous matrix of a change of an affine transform."""
        ndim = self._fixed.grid.ndim
        generator = np.zeros((ndim + 1, ndim + 1))
        generator[:ndim] = change.reshape(ndim, ndim + 1)
        frame = np.eye(ndim + 1)
        frame[:ndim, :ndim] *= self._size
        frame[:ndim, ndim] = self._fixed.grid.centre
        return np.asarray(frame @ _exponential(generator) @ np.linalg.inv(frame))

    def corner_motion(self, matrix: Matrix) -> float:
        """Return how far a transform moves the corner that it moves most, in voxels."""
        displacement, _ = kernels.affine_displacement(matrix, self._fixed.grid)
        spacing = np.reshape(
            self._fixed.grid.spacing, (-1,) + (1,) * self._fixed.grid.ndim
        )
        return float(np.abs(displacement / spacing).max())


def _cell_means(values: NDArray[np.generic], factors: tuple[int, ...]) -> Matrix:
    kept = tuple(slice(n - n % f) for n, f in zip(values.shape, factors, strict=True))
    split = [
        part for n, f in zip(values.shape, factors, strict=True) for part in (n // f, f)
    ]
    cells = np.asarray(values[kept], np.float32).reshape(split)
    odd = tuple(range(1, 2 * values.ndim, 2))
    return np.asarray(cells.mean(axis=odd, dtype=np.float64))


def _basis(kind: Kind, ndim: int) -> Matrix:
    """Return the changes that a kind allows (ndim · (ndim + 1), parameters)."""
    size = ndim * (ndim + 1)
    if kind == "affine":
        return np.eye(size)
    columns = []
    for i in range(ndim):
        shift = np.zeros((ndim, ndim + 1))
        shift[i, ndim] = 1
        columns.append(shift)
    if kind != "translation":
        for i in range(ndim):
            for j in range(i):
                turn = np.zeros((ndim, ndim + 1))
                turn[i, j], turn[j, i] = 1, -1
                columns.append(turn)
    if kind == "similarity":
        columns.append(np.eye(ndim, ndim + 1))
    return np.stack([column.reshape(size) for column in columns], axis=1)


def _exponential(generator: Matrix) -> Matrix:
    """Return the matrix exponential, by scaling and squaring."""
    small = generator / 2**8
    result = term = np.eye(len(generator))
    for power in range(1, 9):
        term = term @ small / power
        result = result + term
    for _ in range(8):
        result = result @ result
    return result
