"""The pull of landmarks: what makes a displacement pass pairs of points.

A landmark is a point of the fixed image and the displacement that is wanted there. What
is missing of it is made up by Gaussians around the landmarks. They are applied *before*
the displacement, bounded so that none folds, and therefore nor does the composition.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import lu_factor, lu_solve
from scipy.spatial.distance import cdist

from xdreg.engines.descent import CompiledLevel
from xdreg.numerics import kernels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from xdreg.grid import Grid
    from xdreg.numerics.nodes import Nodes

    Array = NDArray[np.float32]
    Points = NDArray[np.float64]

#: Standard deviation of a Gaussian, relative to the smoothing of an update, and at
#: least, in points of the displacement. Wider than an update, so that what surrounds a
#: landmark comes along.
WIDTH = 2.0
LEAST_SIGMA = 1.5

#: Least standard deviation where a displacement is settled, in points: of the result
#: every second one is kept, which must not lose what was reached.
LEAST_SETTLED = 4.0

#: Its upper limit, relative to the distance of the nearest other landmark. Wide
#: Gaussians of near landmarks would overshoot between them, and reach where the images
#: know better.
APART = 0.25

#: Gaussians are cut off at this many standard deviations.
CUT_OFF = 3.0

#: Largest slope of a correction: below one it does not fold.
STEEPEST = 0.5

#: Share of the diagonal that is added to the system of the Gaussians: landmarks that
#: are very near are passed in the mean.
RIDGE = 1e-3

#: Shares of the tolerance that are aimed at, and that do: later steps sample the
#: displacement anew.
AIM, ENOUGH = 0.5, 0.75

#: Most corrections by the mean of landmarks, of one width, and of exact ones.
MEANS, ROUNDS = 4, 40


@dataclass(frozen=True)
class Gaussians:
    """Gaussians around places of an array.

    Parameters
    ----------
    places, sigma : (n, d)
        In points of an array with ``d`` axes.
    shape
        That of the array.
    exact
        Whether corrections are exact at the places. Else they are a mean of what near
        places lack, which nowhere overshoots.
    """

    places: Points
    sigma: Points
    shape: tuple[int, ...]
    exact: bool = False

    @cached_property
    def _apart(self) -> Points:
        """Distance of place i from j, in standard deviations of the Gaussian at j."""
        squares = np.zeros((len(self.places),) * 2)
        for places, sigma in zip(self.places.T, self.sigma.T, strict=True):
            squares += ((places[:, np.newaxis] - places) / sigma) ** 2
        return np.asarray(np.sqrt(squares))

    @cached_property
    def _overlap(self) -> Points:
        return np.asarray(np.exp(-0.5 * self._apart**2))

    @cached_property
    def _factor(self) -> Any:
        return lu_factor(self._overlap + RIDGE * np.eye(len(self.places)))

    def add(self, missing: Points, out: Array, sizes: Points) -> None:
        """Add vectors to ``out (*shape, components)``: as much of those missing as may.

        ``sizes`` are the lengths of the array's steps in the unit of the vectors.
        """
        if self.exact:
            heights = lu_solve(self._factor, missing)
        else:
            heights = missing / self._overlap.sum(axis=1, keepdims=True)
        # The slope of a Gaussian is r exp(-r²/2) of its height over its width.
        slopes = self._apart * self._overlap
        np.fill_diagonal(slopes, np.exp(-0.5))
        steep = np.linalg.norm(heights, axis=1) / (self.sigma * sizes).min(axis=1)
        steepest = float((slopes @ steep).max())
        heights = heights * min(1.0, STEEPEST / max(steepest, 1e-30))
        for place, sigma, height in zip(self.places, self.sigma, heights, strict=True):
            window, bump = [], np.ones(())
            for at, width, size in zip(place, sigma, self.shape, strict=True):
                first = max(int(np.ceil(at - CUT_OFF * width)), 0)
                last = min(int(np.floor(at + CUT_OFF * width)) + 1, size)
                window.append(slice(first, last))
                profile = np.exp(-0.5 * ((np.arange(first, last) - at) / width) ** 2)
                bump = bump[..., np.newaxis] * profile
            out[tuple(window)] += (bump[..., np.newaxis] * height).astype(np.float32)


def nearest(points: Points) -> Points:
    """Return the standard deviation ``(n, 1)`` that reaches no other point."""
    apart = cdist(points, points) + np.diag(np.full(len(points), np.inf))
    return np.asarray(APART * apart.min(axis=1, keepdims=True))


def sampled(values: Array, places: Points) -> Points:
    """Return an array ``(*shape, components)`` at places ``(n, d)``, linearly."""
    shape = np.array(values.shape[:-1])
    low = np.clip(np.floor(places), 0, np.maximum(shape - 2, 0)).astype(int)
    share = np.where(shape > 1, places - low, 0.0)
    result = np.zeros((len(places), values.shape[-1]))
    for corner in itertools.product((0, 1), repeat=len(shape)):
        weight = np.prod(np.where(corner, share, 1 - share), axis=1)
        index = np.minimum(low + corner, shape - 1)
        result += weight[:, np.newaxis] * values[tuple(index.T)]
    return result


def beyond(missing: Points, tolerance: float, scale: Points | float = 1.0) -> Points:
    """Return what is missing beyond a tolerance; ``scale`` converts it to its unit."""
    length = np.linalg.norm(missing * scale, axis=1)
    share = np.maximum(length - tolerance, 0) / np.maximum(length, 1e-30)
    return np.asarray(missing * share[:, np.newaxis], np.float64)


@dataclass(frozen=True)
class Landmarks:
    """Landmarks on a grid: points, wanted displacements, and a tolerance, physical."""

    points: Points
    wanted: Points
    tolerance: float

    def within(self, grid: Grid) -> Landmarks | None:
        """Return those inside a grid, None if there are none."""
        inside = grid.contains(self.points)
        if not inside.any():
            return None
        # Nothing moves along an axis of one voxel.
        wanted = np.where(np.array(grid.shape) > 1, self.wanted[inside], 0.0)
        return Landmarks(self.points[inside], wanted, self.tolerance)

    def missing(self, values: Array, grid: Grid) -> Points:
        """Return what a displacement ``(ndim, *grid.shape)`` lacks at the points."""
        return self.wanted - kernels.sample(values, grid, self.points).T

    def settled(self, values: Array, grid: Grid, widths: Sequence[float]) -> Array:
        """Return a displacement that is corrected until it passes the landmarks.

        ``widths`` of Gaussians, physical, are for what near landmarks have in common,
        from wide to narrow. Then each has a Gaussian of its own.
        """
        count = len(self.points)
        for width in widths:
            sigma = np.full((count, 1), width)
            values = self._corrected(values, grid, sigma, MEANS, exact=False)
        sigma = np.minimum(nearest(self.points), widths[-1])
        return self._corrected(values, grid, sigma, ROUNDS, exact=True)

    def _corrected(
        self, values: Array, grid: Grid, sigma: Points, rounds: int, *, exact: bool
    ) -> Array:
        """Return a displacement after so many corrections at most."""
        steps = np.asarray(grid.spacing)
        sigma = np.maximum(sigma / steps, LEAST_SETTLED)
        places = grid.physical_to_index(self.points)
        gaussians = Gaussians(places, sigma, grid.shape, exact)
        for _ in range(rounds):
            missing = self.missing(values, grid)
            if np.linalg.norm(missing, axis=1).max() <= ENOUGH * self.tolerance:
                break
            update = np.zeros((*grid.shape, grid.ndim), np.float32)
            gaussians.add(beyond(missing, AIM * self.tolerance), update, steps)
            change = np.ascontiguousarray(np.moveaxis(update, -1, 0))
            values = kernels.compose_displacements(change, grid, values, grid)
        return values


@dataclass(frozen=True)
class Pull:
    """The pull of landmarks during a descent, whose displacements are in voxels.

    Parameters
    ----------
    gaussians
        On the nodes.
    wanted : (n, 3) voxels
        Displacements.
    lengths : (3,)
        Extent of a voxel relative to the tolerance's unit.
    tolerance
        Distance within which nothing pulls.
    stride
        Voxels per node.
    """

    gaussians: Gaussians
    wanted: Points
    lengths: Points
    tolerance: float
    stride: Points

    @classmethod
    def of(
        cls,
        landmarks: Landmarks,
        grid: Grid,
        nodes: Nodes,
        sigma: tuple[float, ...],
    ) -> Pull:
        """Return the pull on nodes; ``sigma`` in voxels smooths updates."""
        stride = np.array(nodes.stride, float)
        flat = ((0, 0), (3 - grid.ndim, 0))
        index = np.pad(grid.physical_to_index(landmarks.points), flat)
        # A node lies in the middle of its voxels.
        places = (index - (stride - 1) / 2) / stride
        widths = np.minimum(WIDTH * np.array(sigma), nearest(index)) / stride
        widths = np.maximum(widths, LEAST_SIGMA)
        wanted = np.pad(landmarks.wanted / grid.spacing, flat)
        lengths = np.concatenate([np.ones(3 - grid.ndim), grid.spacing])
        gaussians = Gaussians(places, widths, nodes.shape)
        return cls(gaussians, wanted, lengths, landmarks.tolerance, stride)

    def add(self, total: Array, update: Array, step: float) -> None:
        """Add to an update, of vectors up to ``step``, what the landmarks lack."""
        places = self.gaussians.places
        first = sampled(update, places)
        length = np.linalg.norm(first, axis=1, keepdims=True)
        first *= np.minimum(1, step / np.maximum(length, 1e-30))
        reached = first + sampled(total, places + first / self.stride)
        missing = beyond(self.wanted - reached, AIM * self.tolerance, self.lengths)
        if missing.any():
            self.gaussians.add(missing, update, self.stride)


class PulledLevel(CompiledLevel):
    """The operations of an iteration, with the pull of landmarks on every update."""

    def __init__(self, pull: Pull, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._pull = pull

    def move(self, step: float) -> None:
        """Apply the update and what the landmarks lack; smooth the total."""
        self._pull.add(self._total, self._update, step)
        super().move(step)
