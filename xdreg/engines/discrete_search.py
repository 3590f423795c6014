"""A discrete search for motion that is too large for a descent.

A descent follows slopes, which reach a few voxels. Here all displacements up to a share
of the image are tried at every voxel of a coarse copy. The cost of each is the squared
difference of descriptors in a box. Coupled convex optimisation makes a smooth field of
the costs: in turns, every voxel takes the displacement with the least cost, including
its distance from the field, and the field is smoothed, while the coupling grows.

Sources: Heinrich et al., Non-parametric discrete registration with convex optimisation,
WBIR 2014; Siebert et al., ConvexAdam, IEEE TMI 2024.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from xdreg.grid import SPATIAL_DIMS, Grid
from xdreg.numerics.descriptors import IN_SPACE, NOT_COUNTED, SCALE, descriptor
from xdreg.numerics.filters import CHUNK, compiled
from xdreg.numerics.folding import unfold
from xdreg.numerics.kernels import resample_displacement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from xdreg.engines.descent import Array

#: Largest displacement, as a share of the image's extent.
REACH = 0.25

#: Most costs, one per displacement and voxel of the copy, which then has about 20³
#: voxels, or 80² in a plane.
MOST_COSTS = 12_000_000

#: Peak memory of a search in bytes.
SEARCH_BYTES = 5 * MOST_COSTS

#: Half-width in voxels of the boxes compared, and of the descriptors' patches.
BOX_RADIUS = 4
PATCH_RADIUS = 1

#: Cost of a squared distance of one voxel from the field, relative to the mean squared
#: difference of descriptors, in each iteration; and smoothing of the field in voxels.
COUPLINGS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
SIGMA = 1.0


def large_motion(fixed: Array, moving: Array) -> Array:
    """Return a smooth displacement at which boxes of two images are most similar.

    Images are (z, y, x), NaN outside the mask. The displacement (z, y, x, 3), in
    voxels, is as precise as the coarse copy.
    """
    factors = _factors(fixed.shape)
    coarse = [_shrunk(image, factors) for image in (fixed, moving)]
    size = coarse[0].shape
    moves = _moves(size)
    z, y, x = (PATCH_RADIUS if n > 1 else 0 for n in size)
    costs = np.empty((*size, len(moves)), np.float32)
    _costs(*(descriptor(image, (z, y, x)) for image in coarse), moves, costs)
    for axis, n in enumerate(size):
        _average(costs.reshape(math.prod(size[:axis]), n, -1))
    field = np.zeros((*size, 3), np.float32)
    sigma = [*(SIGMA if n > 1 else 0 for n in size), 0]
    for coupling in COUPLINGS:
        _choose(costs, moves, np.float32(coupling), field)
        field = ndimage.gaussian_filter(field, sigma, mode="nearest")
    return _enlarged(field, factors, fixed.shape)


def _factors(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the number of voxels per axis in a voxel of the copy."""
    for n in itertools.count(1):
        factors = tuple(min(n, size) for size in shape)
        coarse = [-(-size // f) for size, f in zip(shape, factors, strict=True)]
        moves = [2 * reach + 1 for reach in _reach(coarse)]
        if math.prod(coarse) * math.prod(moves) <= MOST_COSTS:
            break
    return factors


def _reach(shape: Sequence[int]) -> list[int]:
    """Return the largest displacement per axis in voxels."""
    return [math.ceil(REACH * size) if size > 1 else 0 for size in shape]


def _shrunk(image: Array, factors: tuple[int, ...]) -> Array:
    """Return means of cells, without NaN; NaN where less than half is known."""
    padding = [(0, -size % n) for size, n in zip(image.shape, factors, strict=True)]
    padded = np.pad(image, padding, constant_values=np.nan)
    cells = [
        part
        for size, n in zip(padded.shape, factors, strict=True)
        for part in (size // n, n)
    ]
    values, axes = padded.reshape(cells), (1, 3, 5)
    known = np.isfinite(values)
    count = known.sum(axis=axes)
    total = np.where(known, values, 0).sum(axis=axes)
    enough = 2 * count >= math.prod(factors)
    return np.where(enough, total / np.maximum(count, 1), np.nan).astype(np.float32)


def _moves(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the displacements (n, 3) to try, shortest first, so that ties go to it."""
    reach = _reach(shape)
    every = np.indices([2 * n + 1 for n in reach]).reshape(3, -1).T - np.array(reach)
    order = np.argsort((every**2).sum(axis=1), kind="stable")
    return np.ascontiguousarray(every[order])


def _enlarged(field: Array, factors: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """Return a field in voxels of the copy as one of the image, unfolded."""
    spacing = tuple(map(float, factors))
    centre = tuple((n - 1) / 2 for n in spacing)
    coarse = Grid(SPATIAL_DIMS, field.shape[:3], spacing, centre, None)
    fine = Grid(SPATIAL_DIMS, shape, (1.0,) * 3, (0.0,) * 3, None)
    lengths = np.moveaxis(field * np.array(spacing, np.float32), -1, 0)
    smooth = unfold(np.ascontiguousarray(lengths), coarse)
    found = resample_displacement(smooth, coarse, fine)
    return np.ascontiguousarray(np.moveaxis(found, 0, -1), np.float32)


@compiled
def _costs(fixed, moving, moves, out):  # type: ignore[no-untyped-def]
    """Write the mean squared difference of descriptors for every displacement.

    Where one of the two is outside its mask it is the mean of all, which is neutral.
    """
    nz, ny, nx, width = fixed.shape
    scale = np.float32(1 / (SCALE * SCALE * min(width, IN_SPACE)))
    total, count = np.float64(0), 0
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                here = fixed[z, y, x]
                for n in range(moves.shape[0]):
                    out[z, y, x, n] = -1
                    k, j, i = z + moves[n, 0], y + moves[n, 1], x + moves[n, 2]
                    inside = 0 <= k < nz and 0 <= j < ny and 0 <= i < nx
                    if not inside or here[0] == NOT_COUNTED:
                        continue
                    there = moving[k, j, i]
                    if there[0] == NOT_COUNTED:
                        continue
                    squares = np.float32(0)  # whole numbers, exact
                    for c in range(width):
                        gap = np.float32(here[c]) - np.float32(there[c])
                        squares += gap * gap
                    out[z, y, x, n] = scale * squares
                    total += scale * squares
                    count += 1
    flat, mean = out.reshape(-1), np.float32(total / max(count, 1))
    for n in range(flat.size):
        flat[n] = flat[n] if flat[n] >= 0 else mean


@compiled
def _average(costs):  # type: ignore[no-untyped-def]
    """Average costs (before, axis, after) over boxes along an axis, cut at its ends."""
    before, size, after = costs.shape
    line = np.empty((size, CHUNK), np.float32)
    for b in range(before):
        for start in range(0, after, CHUNK):
            width = min(CHUNK, after - start)
            for k in range(size):
                for n in range(width):
                    line[k, n] = costs[b, k, start + n]
            for k in range(size):
                low, high = max(0, k - BOX_RADIUS), min(size, k + BOX_RADIUS + 1)
                share = np.float32(1) / np.float32(high - low)
                for n in range(width):
                    costs[b, k, start + n] = share * line[low, n]
                for other in range(low + 1, high):
                    for n in range(width):
                        costs[b, k, start + n] += share * line[other, n]


@compiled
def _choose(costs, moves, coupling, field):  # type: ignore[no-untyped-def]
    """Replace each vector of a field by the displacement with the least cost."""
    for z in range(costs.shape[0]):
        for y in range(costs.shape[1]):
            for x in range(costs.shape[2]):
                here, chosen = field[z, y, x], 0
                least = np.float32(np.inf)
                for n in range(moves.shape[0]):
                    dz = np.float32(moves[n, 0]) - here[0]
                    dy = np.float32(moves[n, 1]) - here[1]
                    dx = np.float32(moves[n, 2]) - here[2]
                    far = dz * dz + dy * dy + dx * dx
                    cost = costs[z, y, x, n] + coupling * far
                    if cost < least:
                        least, chosen = cost, n
                for axis in range(3):
                    here[axis] = np.float32(moves[chosen, axis])
