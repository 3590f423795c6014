"""Separable filters on slabs of planes, compiled: Gaussian smoothing and box sums.

Kernels release the GIL. Each plane is written from inputs that no slab changes and
summed in one order, so the bits do not depend on how many threads share the work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

#: Reordering of sums lets loops run as vectors; NaN keep their meaning.
FAST = {"contract", "reassoc", "nsz", "arcp"}

compiled: Callable[..., Any] = numba.njit(cache=True, nogil=True, fastmath=FAST)


def gaussian_taps(sigma: float) -> NDArray[np.float32]:
    """Return the weights of a Gaussian, cut at three sigma; a single one if narrow."""
    radius = int(np.ceil(3 * sigma)) if sigma > 0.1 else 0
    place = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (place / max(sigma, 0.1)) ** 2)
    return np.asarray(weights / weights.sum(), np.float32)


@compiled
def _add_scaled(target, weight, source):  # type: ignore[no-untyped-def]
    for i in range(target.size):
        target[i] += weight * source[i]


@compiled
def _kept(taps, place, size):  # type: ignore[no-untyped-def]
    """Return the offsets that stay on an axis of ``size``, and the sum of weights."""
    radius = taps.size // 2
    low, high = max(-radius, -place), min(radius, size - 1 - place)
    total = np.float32(0)
    for k in range(low, high + 1):
        total += taps[k + radius]
    return low, high, total


@compiled
def smooth_planes(start, stop, field, taps_y, taps_x):  # type: ignore[no-untyped-def]
    """Smooth along y and x, in place; at the edges the weights are renormalised."""
    ny, nx = field.shape[1], field.shape[2]
    ry, rx = taps_y.size // 2, taps_x.size // 2
    plane = np.empty((ny, nx * 3), np.float32)
    line = np.zeros((nx + 2 * rx) * 3, np.float32)
    inner = line[3 * rx : 3 * (rx + nx)]
    scale = np.empty(nx * 3, np.float32)
    for i in range(nx):
        scale[3 * i : 3 * i + 3] = 1 / _kept(taps_x, i, nx)[2]
    for z in range(start, stop):
        rows = field[z].reshape(ny, nx * 3)
        for y in range(ny):
            inner[:] = rows[y]
            row = plane[y]
            row[:] = 0
            for k in range(2 * rx + 1):
                _add_scaled(row, taps_x[k], line[3 * k : 3 * (k + nx)])
            row *= scale
        for y in range(ny):
            low, high, total = _kept(taps_y, y, ny)
            row = rows[y]
            row[:] = 0
            for k in range(low, high + 1):
                _add_scaled(row, taps_y[k + ry] / total, plane[y + k])


@compiled
def smooth_across(start, stop, field, taps, out):  # type: ignore[no-untyped-def]
    """Smooth along z, into ``out``; return the square of the longest vector."""
    nz, ny = field.shape[:2]
    radius = taps.size // 2
    longest = np.float32(0)
    for z in range(start, stop):
        low, high, total = _kept(taps, z, nz)
        for y in range(ny):
            row = out[z, y].reshape(-1)
            row[:] = 0
            for k in range(low, high + 1):
                _add_scaled(row, taps[k + radius] / total, field[z + k, y].reshape(-1))
            for i in range(0, row.size, 3):
                length = row[i] ** 2 + row[i + 1] ** 2 + row[i + 2] ** 2
                longest = max(longest, length)
    return longest


@compiled
def _add(target, source):  # type: ignore[no-untyped-def]
    for i in range(target.size):
        target[i] += source[i]


@compiled
def sum_boxes(padded, ry, rx, rows, out):  # type: ignore[no-untyped-def]
    """Sum over the boxes of a plane (y, x), into ``out``.

    ``padded`` has ``rx`` zeros on both sides of x; ``rows`` is scratch of a plane.
    """
    ny, nx = out.shape
    for j in range(ny):
        row = rows[j]
        row[:] = padded[j, :nx]
        for k in range(1, 2 * rx + 1):
            _add(row, padded[j, k : k + nx])
    for j in range(ny):
        row = out[j]
        row[:] = rows[max(0, j - ry)]
        for k in range(max(0, j - ry) + 1, min(ny, j + ry + 1)):
            _add(row, rows[k])


@compiled
def sum_ring(ring, first, out):  # type: ignore[no-untyped-def]
    """Sum all planes of a ring, from plane ``first`` on, in this order."""
    depth = ring.shape[0]
    flat = out.reshape(-1)
    flat[:] = ring[first % depth].reshape(-1)
    for k in range(1, depth):
        _add(flat, ring[(first + k) % depth].reshape(-1))
