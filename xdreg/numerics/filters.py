"""Compiled separable filters on slabs of planes: Gaussian smoothing and box sums.

Each is a weighted sum of shifted copies of a flat array, padded with zeros so that no
shift needs a bounds test. Compilers vectorise such long loops without branches.

Kernels release the GIL. Each plane or row is written from inputs that no other slab
changes, and summed in one order, so the bits do not depend on the number of threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xdreg.numerics.kernel_files import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Reordered sums can be vectorised. NaN keep their meaning.
FAST = {"contract", "reassoc", "nsz", "arcp"}

compiled = kernel(fastmath=FAST, error_model="numpy")

#: For fast kernels that others call.
inlined = kernel(fastmath=FAST, error_model="numpy", forceinline=True)

#: Without `FAST`: rounded as written, in whatever they are compiled into.
exact = kernel(error_model="numpy")

#: Variance above which a sampled Gaussian has the one it is made for.
LEAST_VARIANCE = 0.3

#: Most numbers to sum one by one. More are summed by threes, which takes fewer steps
#: but one more pass.
FEW = 7

#: Numbers per chunk of a sum, which stay in the nearest cache.
CHUNK = 1024


def node_taps(sigma: float, stride: int) -> NDArray[np.float32]:
    """Return the weights on nodes of the same variance as `gaussian_taps` on voxels.

    Where it is too small for a sampled Gaussian, three weights have it.
    """
    taps = gaussian_taps(sigma)
    if stride == 1:
        return taps
    place = np.arange(taps.size) - taps.size // 2
    variance = float(np.sum(taps * place**2, dtype=np.float64)) / stride**2
    if variance > LEAST_VARIANCE:
        return gaussian_taps(variance**0.5)
    half = variance / 2
    return np.asarray([half, 1 - variance, half], np.float32)


def gaussian_taps(sigma: float) -> NDArray[np.float32]:
    """Return the weights of a Gaussian, cut at three sigma; one weight if narrow."""
    radius = int(np.ceil(3 * sigma)) if sigma > 0.1 else 0
    place = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (place / max(sigma, 0.1)) ** 2)
    return np.asarray(weights / weights.sum(), np.float32)


@exact
def _one(source, offset, weight, start, stop, out):  # type: ignore[no-untyped-def]
    a = np.uintp(offset)
    for n in range(start, stop):
        i = np.uintp(n)  # A signed index is tested for being negative.
        out[i] = weight * source[i + a]


@exact
def _three(source, offsets, weights, start, stop, out):  # type: ignore[no-untyped-def]
    a, b, c = np.uintp(offsets[0]), np.uintp(offsets[1]), np.uintp(offsets[2])
    u, v, w = weights[0], weights[1], weights[2]
    for n in range(start, stop):
        i = np.uintp(n)
        out[i] = u * source[i + a] + v * source[i + b] + w * source[i + c]


@exact
def _four_more(source, offsets, weights, start, stop, out):  # type: ignore[no-untyped-def]
    a, b = np.uintp(offsets[0]), np.uintp(offsets[1])
    c, d = np.uintp(offsets[2]), np.uintp(offsets[3])
    t, u, v, w = weights[0], weights[1], weights[2], weights[3]
    for n in range(start, stop):
        i = np.uintp(n)
        near, far = t * source[i + a] + u * source[i + b], v * source[i + c]
        out[i] += near + (far + w * source[i + d])


@exact
def weighted_sums(source, offsets, weights, out):  # type: ignore[no-untyped-def]
    """Write ``out[i] = Σ weights[k] · source[i + offsets[k]]`` for an odd count of k.

    The order of the sum does not depend on ``i`` or on the length of ``out``.
    """
    count = weights.size
    for start in range(0, out.size, CHUNK):
        stop = min(start + CHUNK, out.size)
        if count % 4 == 1:
            _one(source, offsets[0], weights[0], start, stop, out)
        else:
            _three(source, offsets, weights, start, stop, out)
        for k in range(count % 4, count, 4):
            _four_more(source, offsets[k:], weights[k:], start, stop, out)


@exact
def copy(source, out):  # type: ignore[no-untyped-def]
    """Copy numbers one by one.

    Assigning a slice takes seconds to compile, because of the errors it may raise.
    """
    for i in range(out.size):
        out[i] = source[i]


@exact
def _inverse_weights(taps, size):  # type: ignore[no-untyped-def]
    """Return factors that make the weights within an axis sum to one, per position."""
    radius = taps.size // 2
    result = np.empty(size, np.float32)
    for place in range(size):
        kept = taps[max(0, radius - place) : min(taps.size, radius + size - place)]
        result[place] = 1 / kept.sum()
    return result


@compiled
def smooth_planes(start, stop, field, taps_y, taps_x):  # type: ignore[no-untyped-def]
    """Smooth along y and x, in place; weights are renormalised at the edges."""
    ny, nx = field.shape[1], field.shape[2]
    ry, rx = taps_y.size // 2, taps_x.size // 2
    width = 3 * (nx + 2 * rx)
    padded = np.zeros((ny + 2 * ry, width), np.float32)
    rows, out = np.zeros_like(padded), np.empty((ny, width), np.float32)
    flat_rows, flat_out = rows.reshape(-1), out.reshape(-1)
    # Sums across the end of a row are meaningless and not read.
    inner = flat_rows[: rows.size - 6 * rx]
    along, down = 3 * np.arange(taps_x.size), width * np.arange(taps_y.size)
    scale_y, scale_x = _inverse_weights(taps_y, ny), _inverse_weights(taps_x, nx)
    for z in range(start, stop):
        for y in range(ny):
            copy(field[z, y].reshape(-1), padded[ry + y, 3 * rx : 3 * (rx + nx)])
        weighted_sums(padded.reshape(-1), along, taps_x, inner)
        weighted_sums(flat_rows, down, taps_y, flat_out)
        for y in range(ny):
            for x in range(nx):
                scale = scale_y[y] * scale_x[x]
                for c in range(3):
                    field[z, y, x, c] = scale * out[y, 3 * x + c]


@compiled
def smooth_across(start, stop, field, taps, resistance):  # type: ignore[no-untyped-def]
    """Smooth rows ``start`` to ``stop`` of y along z, in place, and divide.

    ``resistance`` is the divisor, (z, y, x) or (1, 1, 1). Return the squared length of
    the longest resulting vector.
    """
    nz, _, nx = field.shape[:3]
    radius, width = taps.size // 2, 3 * nx
    padded = np.zeros((nz + 2 * radius, width), np.float32)
    sums = np.empty((nz, width), np.float32)
    down, scale = width * np.arange(taps.size), _inverse_weights(taps, nz)
    longest = np.float32(0)
    for y in range(start, stop):
        for z in range(nz):
            copy(field[z, y].reshape(-1), padded[radius + z])
        weighted_sums(padded.reshape(-1), down, taps, sums.reshape(-1))
        for z in range(nz):
            against = resistance[z % resistance.shape[0], y % resistance.shape[1]]
            for x in range(nx):
                factor = scale[z] / against[x if against.size > 1 else 0]
                a, b, c = sums[z, 3 * x], sums[z, 3 * x + 1], sums[z, 3 * x + 2]
                a, b, c = factor * a, factor * b, factor * c
                field[z, y, x, 0], field[z, y, x, 1], field[z, y, x, 2] = a, b, c
                longest = max(longest, a * a + b * b + c * c)
    return longest


@exact
def _ones(count):  # type: ignore[no-untyped-def]
    return np.ones(count, np.float32)


@exact
def _sum_runs(numbers, at, triples_at, step, length, out):  # type: ignore[no-untyped-def]
    """Write ``out[i]``, the sum of ``length`` numbers from ``at + i``, ``step`` apart.

    Sums of three are written from ``triples_at`` on, and then summed.
    """
    count = length // 3 if length > FEW else 0
    if count:
        size = out.size + 3 * step * (count - 1)
        triples = numbers[triples_at : triples_at + size]
        weighted_sums(numbers, at + step * np.arange(3), _ones(3), triples)
    offsets = np.empty(count + length - 3 * count, np.int64)
    for n in range(count):
        offsets[n] = triples_at + 3 * step * n
    for n in range(count, offsets.size):
        offsets[n] = at + step * (n + 2 * count)
    weighted_sums(numbers, offsets, _ones(offsets.size), out)


@exact
def sum_boxes(padded, ry, rx, scratch, out):  # type: ignore[no-untyped-def]
    """Sum over the boxes of a plane, into the first columns of ``out (y, x + 2 rx)``.

    ``padded (ry + y + ry, rx + x + rx)`` is zero around the plane. ``scratch (3,
    *padded.shape)``, initially zero, is work space: the plane, sums of three, and sums
    along x. The last columns of ``out`` are meaningless.
    """
    flat, size, values = scratch.reshape(-1), padded.size, padded.reshape(-1)
    # Sums across the end of a row are meaningless and not read.
    rows = flat[2 * size : 3 * size - 2 * rx]
    if 2 * rx + 1 > FEW:
        copy(values, flat[:size])
        values = flat
    _sum_runs(values, 0, size, 1, 2 * rx + 1, rows)
    width = padded.shape[1]
    _sum_runs(flat, 2 * size, 0, width, 2 * ry + 1, out.reshape(-1))


@exact
def ring_of(depth, quantities, ny, nx):  # type: ignore[no-untyped-def]
    """Return a ring buffer of planes for boxes of a depth, filled with zeros.

    It holds all planes of a box. If there are more than `FEW`, it holds the last three
    planes and their ``depth - 2`` sums of three.
    """
    places = depth if depth <= FEW else depth + 1
    return np.zeros((places, quantities, ny, nx), np.float32)


@exact
def place_in(ring, plane):  # type: ignore[no-untyped-def]
    """Return the position of a plane in a ring."""
    return plane % (ring.shape[0] if ring.shape[0] <= FEW else 3)


@exact
def close_plane(ring, plane):  # type: ignore[no-untyped-def]
    """Mark a plane as complete: the planes before are complete already."""
    if ring.shape[0] > FEW:
        offsets = ring[0].size * ((plane + np.arange(1, 4)) % 3)
        triple = ring[3 + plane % (ring.shape[0] - 3)].reshape(-1)
        weighted_sums(ring.reshape(-1), offsets, _ones(3), triple)


@exact
def sum_ring(ring, plane, out):  # type: ignore[no-untyped-def]
    """Sum the planes of a box whose last one is ``plane``.

    The order of the sum does not depend on the first plane that was filled in.
    """
    many = ring.shape[0] > FEW
    depth = ring.shape[0] - 1 if many else ring.shape[0]
    count = depth // 3 if many else 0
    single = depth - 3 * count
    places = np.empty(single + count, np.int64)
    for n in range(single):
        places[n] = place_in(ring, plane - n)
    for n in range(count):
        places[single + n] = 3 + (plane - single - 3 * n) % (ring.shape[0] - 3)
    ones = _ones(places.size)
    weighted_sums(ring.reshape(-1), out.size * places, ones, out.reshape(-1))
