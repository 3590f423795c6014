"""Search for the initial pose of a registration, with a measure of its certainty.

On coarse copies, the moving image is resampled for every rotation and scale of a grid,
and correlated with the fixed image at all shifts at once. The best poses are refined by
`linear`, and the metric decides. The score of the best *different* pose tells how
certain the choice is. Unless it is certain, poses of the mirrored moving image are
searched, too.
"""

from __future__ import annotations

import functools
import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from xdreg.engines.linear import Volume, fit, levels
from xdreg.engines.own_metrics import METRICS
from xdreg.engines.pose_text import DOUBTFUL
from xdreg.engines.shift_search import SMALLEST_SCALE, ShiftSearch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import xarray as xr
    from numpy.typing import ArrayLike

    from xdreg.engines.linear import Matrix
    from xdreg.engines.shift_search import Shift
    from xdreg.grid import Grid
    from xdreg.stages import Kind, OwnMetric

#: Rotations to try in a plane, in degrees.
TURNS = tuple(range(-165, 181, 15))

#: Step of the rotations tried, in degrees.
STEP = {2: 15.0, 3: 22.5}

#: Scales to try with the best rotations, if the kind of transform allows.
SCALES = (SMALLEST_SCALE, 1.0, 1.25)

#: Least distance of rivals from the best pose at a corner, as a share of the fixed
#: image's longest extent.
FAR = 0.4

#: Scores are equal if they differ by less than this share of their range.
NEARLY_EQUAL = 0.02

#: Poses are different if they map a corner of the fixed image to points further apart
#: than this share of its longest extent.
DIFFERENT = 0.05

#: A pose of this margin is certain: none of the mirrored moving image fits better.
CERTAIN = 0.4

#: Margin from which a mirrored pose is better than the others. Organs that are nearly
#: symmetric have smaller ones, of either sign.
BETTER = 0.05

#: Mirrored poses are searched with fewer rotations and finalists, by this factor.
FEWER = 3


@dataclass(frozen=True)
class Effort:
    """How many poses are looked at closely.

    Attributes
    ----------
    look_voxels, looked
        Voxels along the longest axis of a first look at all rotations of a volume, and
        number of best ones that are looked at again.
    scaled
        Number of rotations that are tried with all scales.
    refined
        Number of best poses around which rotations of half the step are tried.
    finalists, last
        Number of poses refined on the coarsest level, and on the level after it.
    rivals
        Number of further finalists, far from the best.
    """

    look_voxels: int = 10
    looked: int = 24
    scaled: int = 16
    refined: int = 4
    finalists: int = 8
    last: int = 5
    rivals: int = 4

    def less(self) -> Effort:
        """Return the effort for poses that are hardly expected."""
        values = {
            name: getattr(self, name) // FEWER
            for name in ("looked", "scaled", "refined", "finalists", "rivals")
        }
        return replace(self, **values)


#: The effort by the number of dimensions, and in a volume after a doubtful result.
USUAL = {2: Effort(finalists=16), 3: Effort()}
THOROUGH = Effort(look_voxels=16, refined=16, finalists=24, last=8)


@dataclass(frozen=True)
class Mirrored:
    """A pose of the mirrored moving image: matrix (ndim + 1, ndim + 1) and score.

    ``other`` is the score of the best pose that does not mirror.
    """

    matrix: Matrix
    score: float
    other: float

    def to_json(self) -> list[Any]:
        """Return all as values of JSON."""
        return [self.matrix.tolist(), self.score, self.other]


@dataclass(frozen=True)
class Pose:
    """Initial pose of a registration, and its certainty.

    ``matrix`` (ndim + 1, ndim + 1) is homogeneous, fixed to moving, in dims order and
    the images' units, without shear. ``score`` is the similarity on a coarse level, 0
    to 1, ``runner_up`` that of the best *different* pose, or zero. ``origin`` is where
    it started: the images' own positions, centre on centre, or the search. ``turn`` is
    in degrees, ``shift`` that of the fixed image's centre, ``scale`` the length in the
    moving image of a unit of length in the fixed image. ``mirrored`` is a pose of the
    mirrored moving image that fits better and was not allowed, if there is one.
    """

    matrix: Matrix
    score: float
    runner_up: float
    origin: Literal["identity", "centres", "search"]
    turn: float
    shift: tuple[float, ...]
    scale: float
    mirrored: Mirrored | None = None

    @property
    def margin(self) -> float:
        """Share of what the runner-up leaves unexplained that this pose explains.

        Zero if both fit equally well, one if this one fits perfectly.
        """
        return _margin(self.score, self.runner_up)

    def to_json(self) -> dict[str, Any]:
        """Return all attributes as values of JSON."""
        values = asdict(self) | {"matrix": self.matrix.tolist()}
        return values | {"mirrored": self.mirrored and self.mirrored.to_json()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Pose:
        """Return a pose from the result of `to_json`."""
        mirrored = stored["mirrored"]
        found = {
            "matrix": np.array(stored["matrix"]),
            "shift": tuple(stored["shift"]),
            "mirrored": mirrored and Mirrored(np.array(mirrored[0]), *mirrored[1:]),
        }
        return cls(**{**stored, **found})

    def to_dict(self) -> dict[str, Any]:
        """Return rounded attributes as values of JSON, with a mirrored matrix only."""
        better = {"mirrored": self.mirrored.to_json()} if self.mirrored else {}
        return better | {
            "origin": self.origin,
            "mirror": bool(np.linalg.det(self.matrix[:-1, :-1]) < 0),
            "turn": round(self.turn, 1),
            "shift": [float(f"{s:.4g}") for s in self.shift],
            "scale": round(self.scale, 3),
            "score": round(self.score, 4),
            "runner_up": round(self.runner_up, 4),
            "margin": round(self.margin, 3),
        }


def find_pose(
    fixed: xr.DataArray,
    moving: xr.DataArray,
    *,
    kind: Kind = "affine",
    metric: OwnMetric = "lncc",
    allow_mirror: bool = False,
    threads: int = 1,
) -> Pose:
    """Find the pose of the moving image, whatever its position and rotation.

    The images' own positions, and centre on centre, are always among the candidates.
    Images are those of `linear.linear`. The kinds ``"similarity"`` and ``"affine"``
    search for a scale, too. With ``allow_mirror`` the moving image may be mirrored. The
    bits do not depend on the number of threads.
    """
    with ThreadPoolExecutor(threads) as pool:
        search = _Search(fixed, moving, kind, metric, pool)
        effort = USUAL[search.ndim]
        best, rest = search.best_and_rest(effort)
        # Descriptors have large margins also where nothing fits.
        certain = metric == "lncc" and _margin(best.score, rest) > CERTAIN
        if kind == "translation" or certain:
            return search.pose(best, rest)
        found = search.best(effort if allow_mirror else effort.less(), mirrored=True)
        score = found[0].score if found else 0.0
        margin = max(_margin(best.score, rest), _margin(score, best.score))
        if margin < DOUBTFUL and search.ndim == 3:
            again = search.best_and_rest(THOROUGH)
            best, rest = max((best, rest), again, key=lambda one: one[0].score)
        if _margin(score, best.score) < BETTER:
            return search.pose(best, rest)
        if not allow_mirror:
            better = Mirrored(found[0].matrix, score, best.score)
            return search.pose(best, rest, better)
        rest = max(other.score for other in (best, *found[1:]))
        return search.pose(found[0], rest)


def _margin(score: float, runner_up: float) -> float:
    return max(0.0, 1 - (1 - score) / max(1 - runner_up, 1e-6))


@dataclass(frozen=True)
class _Fit:
    """A pose, its score, and the number of its start."""

    matrix: Matrix
    score: float
    number: int


class _Search:
    """The search for poses of two images."""

    def __init__(
        self,
        fixed: xr.DataArray,
        moving: xr.DataArray,
        kind: Kind,
        metric: OwnMetric,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._images = Volume.of(fixed, "fixed"), Volume.of(moving, "moving")
        self._grid = self._images[0].grid
        self._kind, self._metric, self._pool = kind, metric, pool

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self._grid.ndim

    def best_and_rest(self, effort: Effort) -> tuple[_Fit, float]:
        """Return the best pose, and the score of the best different one or zero."""
        best, *others = self.best(effort)
        return best, max((other.score for other in others), default=0.0)

    def best(self, effort: Effort, *, mirrored: bool = False) -> list[_Fit]:
        """Return the best poses that differ, best first."""
        grid, starts = self._grid, self._searched(effort, mirrored=mirrored)
        if not mirrored:
            # Of nearly equal poses the first wins: the one that moves least.
            centred = np.eye(grid.ndim + 1)
            centred[:-1, -1] = self._images[1].grid.centre - grid.centre
            starts = [np.eye(grid.ndim + 1), centred, *starts]
        if not starts:
            return []
        coarsest, *rest = levels(self._images[0])
        fits = [_Fit(matrix, 0.0, number) for number, matrix in enumerate(starts)]
        found = self._fitted(fits, coarsest)
        fits = _best_different(found, grid)[: effort.last]
        if not rest:
            return fits
        # The positions that were given go on: a slow factor of brightness, which is
        # not seen yet, may be worth more than all structure.
        given = [] if mirrored else found[:2]
        fits += [f for f in given if _differs(f, fits, grid)]
        return _best_different(self._fitted(fits, rest[0]), grid)

    def _fitted(self, starts: list[_Fit], spacing: tuple[float, ...]) -> list[_Fit]:
        """Refine poses on one level."""
        one, other = (image.with_spacing(spacing) for image in self._images)
        kind: Kind = "similarity" if self._kind == "affine" else self._kind

        def refined(start: _Fit) -> _Fit:
            result = fit(one, other, start.matrix, kind=kind, metric=self._metric)
            return _Fit(*result, start.number)

        return list(self._pool.map(refined, starts))

    def _searched(self, effort: Effort, *, mirrored: bool) -> list[Matrix]:
        """Return the poses of best correlation, best first, and some far from them."""
        grid, ndim = self._grid, self._grid.ndim
        edges = METRICS[self._metric].matches_edges
        search = ShiftSearch(*self._images, edges=edges)
        find = functools.partial(self._pool.map, search.best_shift)
        mirror = np.diag([1.0] * (ndim - 1) + [-1.0 if mirrored else 1.0])
        turns = [mirror]
        if self._kind != "translation" and ndim == 2:
            turns += [mirror @ _plane_rotation(np.radians(t)) for t in TURNS if t]
        elif self._kind != "translation":
            look = ShiftSearch(*self._images, edges=edges, voxels=effort.look_voxels)
            every = [mirror @ turn for turn in _all_turns()]
            seen = _by_score(self._pool.map(look.best_shift, every))
            turns += [pose.matrix[:-1, :-1] for pose in seen[: effort.looked]]
        found = list(find(turns))
        if self._kind in ("similarity", "affine"):
            found = _by_score(found)
            found += find(
                scale * pose.matrix[:-1, :-1]
                for pose in found[: effort.scaled]
                for scale in SCALES
                if scale != 1
            )
        found = _by_score(found)
        if self._kind != "translation":
            found += find(
                turn @ pose.matrix[:-1, :-1]
                for pose in found[: effort.refined]
                for turn in _small_turns(ndim)
            )
        found = _by_score(pose for pose in found if pose.score > 0)
        chosen, others = found[: effort.finalists], found[effort.finalists :]
        # The best may all be one pose, whose certainty only others show.
        far = [
            p
            for p in others
            if _distance(p.matrix, found[0].matrix, grid) > FAR * _extent(grid)
        ]
        return [pose.matrix for pose in chosen + far[: effort.rivals]]

    def pose(self, best: _Fit, rest: float, mirrored: Mirrored | None = None) -> Pose:
        """Return a fit as a pose; ``rest`` is the score of the best different one."""
        grid, part = self._grid, best.matrix[:-1, :-1]
        determinant = float(np.linalg.det(part))
        scale = abs(determinant) ** (1 / grid.ndim)
        # After a mirror along the last axis, if there is one, comes a turn.
        diagonal = np.diag(part) / scale
        diagonal[-1] *= np.sign(determinant)
        cosine = diagonal.sum() / 2 if grid.ndim == 2 else (diagonal.sum() - 1) / 2
        shift = part @ grid.centre + best.matrix[:-1, -1] - grid.centre
        searched = determinant < 0 or best.number >= 2
        return Pose(
            best.matrix,
            best.score,
            rest,
            "search" if searched else ("identity", "centres")[best.number],
            float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))),
            tuple(shift.tolist()),
            scale,
            mirrored,
        )


def _by_score(poses: Iterable[Shift]) -> list[Shift]:
    return sorted(poses, key=lambda pose: -pose.score)


def _best_different(fits: list[_Fit], grid: Grid) -> list[_Fit]:
    """Return the different poses among fits, best first.

    Nearly equal best fits, and fits of the same pose, are represented by the one with
    the earliest start.
    """
    scores = [f.score for f in fits]
    least = max(scores) - NEARLY_EQUAL * (max(scores) - min(scores))
    equals = [f for f in fits if f.score >= least]
    others = [f for f in fits if f.score < least]
    equals.sort(key=lambda f: f.number)
    others.sort(key=lambda f: -f.score)
    kept: list[_Fit] = []
    for candidate in equals + others:
        if _differs(candidate, kept, grid):
            kept.append(candidate)
    return kept


def _differs(candidate: _Fit, others: list[_Fit], grid: Grid) -> bool:
    """Return whether a pose differs from all others."""
    apart = DIFFERENT * _extent(grid)
    return all(_distance(candidate.matrix, o.matrix, grid) > apart for o in others)


def _extent(grid: Grid) -> float:
    return float(np.subtract(*grid.bounds[::-1]).max())


def _distance(one: Matrix, other: Matrix, grid: Grid) -> float:
    """Return the largest distance between where two transforms map a corner."""
    corners = np.array(list(itertools.product(*zip(*grid.bounds, strict=True))))
    gap = (one - other)[:-1]
    return float(np.linalg.norm(corners @ gap[:, :-1].T + gap[:, -1], axis=1).max())


def _all_turns() -> list[Matrix]:
    """Return rotations of a volume, to 28° of one of which every rotation comes.

    These are the 24 that map axes to axes, each followed by further turns.
    """
    axes = [
        np.array([np.eye(3)[i] * s for i, s in zip(order, signs, strict=True)])
        for order in itertools.permutations(range(3))
        for signs in itertools.product((-1, 1), repeat=3)
    ]
    local = [np.eye(3)]
    local += [_rotation(axis, np.radians(45.0)) for axis in np.eye(3)]
    diagonals = itertools.product((-1, 1), repeat=3)
    local += [_rotation(axis, np.radians(40.0)) for axis in diagonals]
    return [a @ b for a in axes if np.linalg.det(a) > 0 for b in local]


def _small_turns(ndim: int) -> list[Matrix]:
    """Return rotations by half a step, in all directions."""
    half = np.radians(STEP[ndim]) / 2
    if ndim == 2:
        return [_plane_rotation(-half), _plane_rotation(half)]
    return [_rotation(axis, half) for axis in (*np.eye(3), *-np.eye(3))]


def _plane_rotation(angle: float) -> Matrix:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])


def _rotation(axis: ArrayLike, angle: float) -> Matrix:
    """Return the rotation about an axis (Rodrigues).

    Scipy's ``Rotation`` differs in the last bits, and so would the poses.
    """
    x, y, z = np.asarray(axis, float) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(
        np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    )
