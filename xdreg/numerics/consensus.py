"""The one linear transform on which most blocks agree, by a robust fit.

Every block maps a few points of its own. The transform of the wanted kind is fitted to
the points of most blocks by least trimmed squares (Rousseeuw and Van Driessen,
*Computing LTS regression for large data sets*, Data Mining and Knowledge Discovery
2006). Blocks far from that fit are left out, and it is repeated with all others. Points
far apart determine a rotation better than a mean of the blocks' own rotations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import numpy as np

from xdreg.errors import InputError
from xdreg.stages import Kind

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]

#: Share of the blocks' total weight that the first fits use; the rest may be wrong.
TRUSTED = 0.5

#: A block is left out if its residual is more than this many standard deviations, which
#: are estimated from the median.
DEVIATIONS = 4.0
MEDIAN_TO_SIGMA = 1.4826

#: Number of starting points: fits to single blocks, at most, and to random groups.
STARTS = 100
GROUPS = 200

#: Rounds of fitting and sorting for each start, for the best ones, and how many are.
FIRST_ROUNDS, ROUNDS, BEST = 2, 30, 5


@dataclass(frozen=True)
class ConsensusResult:
    """The transform on which blocks agree.

    Parameters
    ----------
    matrix : (ndim + 1, ndim + 1)
        Homogeneous, fixed → moving, in dims order.
    agrees : (blocks,) bool
        Blocks that the final fit used.
    residual : (blocks,), physical units
        Root mean square distance between the points of a block as mapped by the
        transform and by the block.
    """

    matrix: Array
    agrees: NDArray[np.bool_]
    residual: Array


def fit_linear(
    points: ArrayLike, moved: ArrayLike, weights: ArrayLike, kind: Kind
) -> Array:
    """Return the linear transform of a kind that best maps points to others.

    ``points`` and ``moved`` are ``(n, ndim)``, ``weights`` of the squared distances
    ``(n,)``; the matrix is homogeneous, float64.

    References
    ----------
    Umeyama, *Least-squares estimation of transformation parameters between two point
    patterns*, IEEE TPAMI 1991.
    """
    source, target = np.asarray(points, float), np.asarray(moved, float)
    share = np.asarray(weights, float)[:, None] / np.sum(weights)
    ndim = source.shape[1]
    centre, goal = (share * source).sum(axis=0), (share * target).sum(axis=0)
    a, b = source - centre, target - goal
    linear = np.eye(ndim)
    if kind == "affine":
        root = np.sqrt(share)
        linear = np.linalg.lstsq(root * a, root * b, rcond=None)[0].T
    elif kind != "translation":
        u, sizes, vt = np.linalg.svd((share * b).T @ a)
        # Excludes reflections.
        signs = np.ones(ndim)
        signs[-1] = np.sign(np.linalg.det(u @ vt)) or 1.0
        linear = (u * signs) @ vt
        spread = (share * a**2).sum()
        if kind == "similarity" and spread > 0:
            linear = linear * ((sizes * signs).sum() / spread)
    matrix = np.eye(ndim + 1)
    matrix[:ndim, :ndim] = linear
    matrix[:ndim, ndim] = goal - linear @ centre
    return matrix


def find_consensus(
    points: ArrayLike,
    moved: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    kind: Kind = "rigid",
    tolerance: float = 0.0,
) -> ConsensusResult:
    """Find the linear transform on which most blocks agree.

    Parameters
    ----------
    points : (blocks, n, ndim), physical units
        Points of each block, such as its corners.
    moved : (blocks, n, ndim)
        The points as the block maps them; NaN for a block without a result.
    weights : (blocks,), optional
        Weights of the blocks, for example their similarity; equal by default.
    kind
        ``"translation"``, ``"rigid"``, ``"similarity"`` or ``"affine"``.
    tolerance : float, physical units
        Blocks with a smaller residual are never left out.

    Returns
    -------
    ConsensusResult

    Raises
    ------
    InputError
        If the shapes do not match, the kind is unknown, or no block has a finite result
        and a positive weight.

    Examples
    --------
    >>> corners = np.array([[0, 0], [0, 9], [9, 0], [9, 9.0]])
    >>> blocks = np.stack([corners + [0, 10 * i] for i in range(5)])
    >>> moved = blocks + [1.0, 2.0]
    >>> moved[3] += 40.0  # an outlier
    >>> found = find_consensus(blocks, moved)
    >>> found.matrix.round(6)[:2, 2].tolist(), found.agrees.tolist()
    ([1.0, 2.0], [True, True, True, False, True])
    """
    source, target, weight = _checked(points, moved, weights, kind)
    usable = np.isfinite(target).all(axis=(1, 2)) & np.isfinite(weight) & (weight > 0)
    if not usable.any():
        msg = "no block has a result to agree on; all are NaN or have weight zero"
        raise InputError(msg)
    problem = _Problem(source[usable], target[usable], weight[usable], kind)
    matrix = problem.trimmed()
    agrees, matrix = problem.reweighted(matrix, tolerance)
    everyone = np.zeros(len(source), bool)
    everyone[usable] = agrees
    residual = np.full(len(source), np.nan)
    residual[usable] = problem.residual(matrix)
    return ConsensusResult(matrix, everyone, residual)


def _checked(
    points: ArrayLike, moved: ArrayLike, weights: ArrayLike | None, kind: Kind
) -> tuple[Array, Array, Array]:
    """Return the arguments of `find_consensus` as arrays; raise if one is wrong."""
    if kind not in get_args(Kind):
        msg = f"kind must be one of {get_args(Kind)}, got {kind!r}"
        raise InputError(msg)
    source, target = np.asarray(points, float), np.asarray(moved, float)
    matching = source.ndim == 3 and source.shape == target.shape
    if not matching or source.shape[2] not in (2, 3):
        msg = (
            "points and moved must have one shape (blocks, n, ndim), got "
            f"{source.shape} and {target.shape}"
        )
        raise InputError(msg)
    weight = np.ones(len(source)) if weights is None else np.asarray(weights, float)
    if weight.shape != (len(source),):
        msg = f"weights must be one per block, {len(source)}, got {weight.shape}"
        raise InputError(msg)
    return source, target, weight


@dataclass(frozen=True)
class _Problem:
    """The blocks with results, and fits to subsets of them."""

    points: Array
    moved: Array
    weights: Array
    kind: Kind

    def fit(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> Array:
        """Return the fit to some blocks."""
        points, moved = self.points[chosen], self.moved[chosen]
        weights = np.repeat(self.weights[chosen], points.shape[1])
        flat = (-1, points.shape[2])
        return fit_linear(points.reshape(flat), moved.reshape(flat), weights, self.kind)

    def residual(self, matrix: Array) -> Array:
        """Return the root mean square distance of a transform from each block."""
        gap = self.points @ matrix[:-1, :-1].T + matrix[:-1, -1] - self.moved
        return np.asarray(np.sqrt((gap**2).sum(axis=2).mean(axis=1)))

    def trimmed(self) -> Array:
        """Return the fit with the smallest error over its best half of the blocks."""
        count = len(self.points)
        rng = np.random.default_rng(0)
        size = min(self.points.shape[2] + 1, count)
        single = np.unique(np.linspace(0, count - 1, STARTS).astype(int))
        starts = list(single[:, None])
        starts += [rng.choice(count, size, replace=False) for _ in range(GROUPS)]
        tried = sorted(
            (self._concentrated(self.fit(start), FIRST_ROUNDS) for start in starts),
            key=lambda result: result[0],
        )
        best = (self._concentrated(matrix, ROUNDS) for _, matrix in tried[:BEST])
        return min(best, key=lambda result: result[0])[1]

    def _concentrated(self, matrix: Array, rounds: int) -> tuple[float, Array]:
        """Repeat the fit with the blocks that fit best; return its error and itself."""
        error = np.inf
        for _ in range(rounds):
            residual = self.residual(matrix)
            order = np.argsort(residual, kind="stable")
            before = np.cumsum(self.weights[order]) - self.weights[order]
            chosen = order[before < TRUSTED * self.weights.sum()]
            now = float((self.weights[chosen] * residual[chosen] ** 2).sum())
            if not now < error:
                break
            error, matrix = now, self.fit(chosen)
        return error, matrix

    def reweighted(
        self, matrix: Array, tolerance: float
    ) -> tuple[NDArray[np.bool_], Array]:
        """Return the blocks with small residuals, and the fit to them."""
        agrees = np.zeros(len(self.points), bool)
        for _ in range(ROUNDS):
            residual = self.residual(matrix)
            usual = _weighted_median(residual, self.weights)
            limit = max(DEVIATIONS * MEDIAN_TO_SIGMA * usual, tolerance)
            fitting = residual <= limit
            if (fitting == agrees).all():
                break
            agrees, matrix = fitting, self.fit(fitting)
        return agrees, matrix


def _weighted_median(values: Array, weights: Array) -> float:
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, 0.5 * total[-1])])
