"""One linear transform on which most blocks agree: robust, numbers only.

Every block tells where it maps a few points of its own. A transform of the kind wanted
is sought that maps the points of most blocks to where they say, as least trimmed
squares (Rousseeuw and Van Driessen, *Computing LTS regression for large data sets*,
Data Mining and Knowledge Discovery 2006); blocks that it misses by far are then left
out, and it is fitted once more to all others. Points far apart tell more of a rotation
than the blocks' own rotations do, whose mean is what others take.
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

#: Share of the weight of all blocks that the first fits go by; up to the rest may be
#: wrong.
TRUSTED = 0.5

#: A block is left out if it is missed by more than so many standard deviations of what
#: is usual, which is estimated from the median.
DEVIATIONS = 4.0
MEDIAN_TO_SIGMA = 1.4826

#: Blocks whose own transforms are starting points, at most, and random groups of
#: blocks that are.
STARTS = 100
GROUPS = 200

#: Rounds of fitting and sorting anew from each start, and of the best ones to the end.
FIRST_ROUNDS, ROUNDS, BEST = 2, 30, 5


@dataclass(frozen=True)
class ConsensusResult:
    """What blocks agree on.

    Parameters
    ----------
    matrix : (ndim + 1, ndim + 1)
        Homogeneous, fixed → moving, in dims order.
    agrees : (blocks,) bool
        Which blocks it was fitted to in the end.
    residual : (blocks,), physical units
        Root mean square distance of where it maps a block's points from where the block
        does.
    """

    matrix: Array
    agrees: NDArray[np.bool_]
    residual: Array


def fit_linear(
    points: ArrayLike, moved: ArrayLike, weights: ArrayLike, kind: Kind
) -> Array:
    """Return the linear transform of a kind that maps points best onto others.

    Parameters
    ----------
    points, moved : (n, ndim)
        Where they are, and where they are to go.
    weights : (n,)
        Of the squared distances.
    kind
        ``"translation"``, ``"rigid"``, ``"similarity"`` or ``"affine"``.

    Returns
    -------
    (ndim + 1, ndim + 1) float64

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
        # No reflection.
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
        Where the block maps them; NaN for a block that says nothing.
    weights : (blocks,), optional
        How much each block counts, for example its similarity; equal by default.
    kind
        ``"translation"``, ``"rigid"``, ``"similarity"`` or ``"affine"``.
    tolerance : float, physical units
        A block that is missed by less is never left out.

    Returns
    -------
    ConsensusResult

    Raises
    ------
    InputError
        If the shapes do not go together, a kind does not exist, or no block counts.

    Examples
    --------
    >>> corners = np.array([[0, 0], [0, 9], [9, 0], [9, 9.0]])
    >>> blocks = np.stack([corners + [0, 10 * i] for i in range(5)])
    >>> said = blocks + [1.0, 2.0]
    >>> said[3] += 40.0  # wrong
    >>> found = find_consensus(blocks, said)
    >>> found.matrix.round(6)[:2, 2].tolist(), found.agrees.tolist()
    ([1.0, 2.0], [True, True, True, False, True])
    """
    if kind not in get_args(Kind):
        msg = f"kind must be one of {get_args(Kind)}, got {kind!r}"
        raise InputError(msg)
    source, target = np.asarray(points, float), np.asarray(moved, float)
    if (
        source.ndim != 3
        or source.shape != target.shape
        or source.shape[2] not in (2, 3)
    ):
        msg = (
            "points and moved must have one shape (blocks, n, ndim), got "
            f"{source.shape} and {target.shape}"
        )
        raise InputError(msg)
    weight = np.ones(len(source)) if weights is None else np.asarray(weights, float)
    if weight.shape != (len(source),):
        msg = f"weights must be one per block, {len(source)}, got {weight.shape}"
        raise InputError(msg)
    usable = np.isfinite(target).all(axis=(1, 2)) & np.isfinite(weight) & (weight > 0)
    if not usable.any():
        msg = "no block says anything to agree on; all are NaN or of weight zero"
        raise InputError(msg)
    problem = _Problem(source[usable], target[usable], weight[usable], kind)
    matrix = problem.trimmed()
    agrees, matrix = problem.reweighted(matrix, tolerance)
    everyone = np.zeros(len(source), bool)
    everyone[usable] = agrees
    residual = np.full(len(source), np.nan)
    residual[usable] = problem.residual(matrix)
    return ConsensusResult(matrix, everyone, residual)


class _Problem:
    """Blocks that count, and fits to some of them."""

    def __init__(self, points: Array, moved: Array, weights: Array, kind: Kind) -> None:
        self._points, self._moved, self._weights = points, moved, weights
        self._kind = kind

    def fit(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> Array:
        """Fit some blocks."""
        source, target = self._points[chosen], self._moved[chosen]
        weights = np.repeat(self._weights[chosen], source.shape[1])
        flat = (-1, source.shape[2])
        return fit_linear(
            source.reshape(flat), target.reshape(flat), weights, self._kind
        )

    def residual(self, matrix: Array) -> Array:
        """Return by how much a transform misses each block."""
        gap = self._points @ matrix[:-1, :-1].T + matrix[:-1, -1] - self._moved
        return np.asarray(np.sqrt((gap**2).sum(axis=2).mean(axis=1)))

    def trimmed(self) -> Array:
        """Return the transform whose best half of all blocks fits best."""
        count = len(self._points)
        rng = np.random.default_rng(0)
        size = min(self._points.shape[2] + 1, count)
        starts = [
            np.array([i])
            for i in np.unique(np.linspace(0, count - 1, STARTS).astype(int))
        ]
        starts += [rng.choice(count, size, replace=False) for _ in range(GROUPS)]
        tried = sorted(
            (self._concentrated(self.fit(start), FIRST_ROUNDS) for start in starts),
            key=lambda result: result[0],
        )
        best = (self._concentrated(matrix, ROUNDS) for _, matrix in tried[:BEST])
        return min(best, key=lambda result: result[0])[1]

    def _concentrated(self, matrix: Array, rounds: int) -> tuple[float, Array]:
        """Fit to the blocks that fit best, again and again; return their error too."""
        error = np.inf
        for _ in range(rounds):
            residual = self.residual(matrix)
            order = np.argsort(residual, kind="stable")
            before = np.cumsum(self._weights[order]) - self._weights[order]
            chosen = order[before < TRUSTED * self._weights.sum()]
            now = float((self._weights[chosen] * residual[chosen] ** 2).sum())
            if not now < error:
                break
            error, matrix = now, self.fit(chosen)
        return error, matrix

    def reweighted(
        self, matrix: Array, tolerance: float
    ) -> tuple[NDArray[np.bool_], Array]:
        """Leave out blocks that are missed by far, and fit the others."""
        agrees = np.zeros(len(self._points), bool)
        for _ in range(ROUNDS):
            residual = self.residual(matrix)
            # Half of all blocks may be wrong: the median is that of the better ones.
            usual = _weighted_median(residual, self._weights)
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
