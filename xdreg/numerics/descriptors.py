"""Self-similarity descriptors of an image (MIND-SSC), and the kernels of their force.

Every voxel has neighbours at distance one on both sides of each axis. For each pair of
neighbours that are not opposite, the mean squared difference of the patches around them
is measured, relative to the mean over all pairs. The result describes the shape around
the voxel, whatever the modality, by 12 numbers in a volume and 4 in a plane.

Descriptors are bytes, ``(z, y, x, channel)``. The value `NOT_COUNTED` in the first
channel marks a voxel outside the mask. Source: Heinrich et al., Towards realtime
multimodal fusion for image-guided interventions using self-similarities, MICCAI 2013.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from xdreg.numerics.filters import (
    close_plane,
    compiled,
    exact,
    inlined,
    place_in,
    ring_of,
    sum_boxes,
    sum_ring,
)
from xdreg.numerics.nodes import places, row_of
from xdreg.numerics.trilinear import cell

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Descriptors are stored in steps of 1 / SCALE.
SCALE = 254
NOT_COUNTED = 255

#: Differences of patches are divided by their mean around the voxel, or by this share
#: of the image's mean if that is larger: flat parts have no shape.
LEAST_VARIANCE = 0.01


def descriptor(
    image: NDArray[np.float32], radius: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Return the descriptors of an image ``(z, y, x)`` float32, NaN outside the mask.

    NaN adds nothing to the difference of patches. ``radius`` is the half-width of the
    patches compared, in voxels. A line or a single voxel is all `NOT_COUNTED`, as it
    has no two directions.
    """
    pairs = neighbour_pairs(image.shape)
    if not len(pairs):
        return np.full((*image.shape, 1), NOT_COUNTED, np.uint8)
    known = np.isfinite(image)
    values = np.where(known, image - (image[known].mean() if known.any() else 0), 0)
    values = values.astype(np.float32)
    out = np.zeros((*image.shape, len(pairs)), np.uint8)
    # The first pass finds the image's mean difference.
    total = _describe(values, known, pairs, radius, np.float32(0), out)
    mean = np.float32(total / max(1, known.sum()))
    _describe(values, known, pairs, radius, LEAST_VARIANCE * mean, out)
    return out


def neighbour_pairs(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return all pairs of neighbours (pair, 2, 3) that are not opposite."""
    steps = np.eye(3, dtype=np.int64)[np.array(shape) > 1]
    sides = [sign * step for step in steps for sign in (1, -1)]
    pairs = [(a, b) for a, b in combinations(sides, 2) if (a + b).any()]
    return np.array(pairs, np.int64).reshape(len(pairs), 2, 3)


@inlined
def _differences(image, known, pair, k, ry, rx, out):  # type: ignore[no-untyped-def]
    """Write the squared difference of two neighbours of every voxel of a plane.

    Zero where one of them is unknown. Edge voxels are repeated beyond the image.
    """
    nz, ny, nx = image.shape
    az, ay, ax = pair[0]
    bz, by, bx = pair[1]
    ka, kb = min(max(k + az, 0), nz - 1), min(max(k + bz, 0), nz - 1)
    for j in range(ny):
        ja, jb = min(max(j + ay, 0), ny - 1), min(max(j + by, 0), ny - 1)
        for i in range(nx):
            ia, ib = min(max(i + ax, 0), nx - 1), min(max(i + bx, 0), nx - 1)
            difference = image[ka, ja, ia] - image[kb, jb, ib]
            both = known[ka, ja, ia] and known[kb, jb, ib]
            out[ry + j, rx + i] = difference * difference if both else np.float32(0)


@compiled
def _describe(image, known, pairs, radius, least, out):  # type: ignore[no-untyped-def]
    """Write the descriptors; return the sum over voxels of the mean difference."""
    nz, ny, nx = image.shape
    rz, ry, rx = radius
    channels, depth = pairs.shape[0], 2 * rz + 1
    padded = np.zeros((ny + 2 * ry, nx + 2 * rx), np.float32)
    scratch = np.zeros((3, *padded.shape), np.float32)
    ring = ring_of(depth, channels, ny, nx + 2 * rx)
    sums = np.zeros((channels, ny, nx + 2 * rx), np.float32)
    total = np.float64(0)
    for p in range(nz + rz):
        here = ring[place_in(ring, p)]
        if p < nz:
            for c in range(channels):
                _differences(image, known, pairs[c], p, ry, rx, padded)
                sum_boxes(padded, ry, rx, scratch, here[c])
        else:
            here[:] = 0
        close_plane(ring, p)
        o = p - rz
        if o < 0:
            continue
        sum_ring(ring, p, sums)
        for j in range(ny):
            for i in range(nx):
                mean, smallest = np.float32(0), sums[0, j, i]
                for c in range(channels):
                    mean += sums[c, j, i]
                    smallest = min(smallest, sums[c, j, i])
                mean /= channels
                if not known[o, j, i]:
                    out[o, j, i, 0] = NOT_COUNTED
                    continue
                total += mean
                variance = max(mean, least) + np.float32(1e-20)
                for c in range(channels):
                    likeness = np.exp((smallest - sums[c, j, i]) / variance)
                    out[o, j, i, c] = np.uint8(SCALE * likeness + np.float32(0.5))
    return total


@inlined
def _counting(descriptor, weight):  # type: ignore[no-untyped-def]
    """Return a corner's weight, zero if it is `NOT_COUNTED`."""
    return weight if descriptor[0] != NOT_COUNTED else np.float32(0)


@exact
def _pull_plane(k, displacement, at_z, at_y, at_x, source, out):  # type: ignore[no-untyped-def]
    """Sample descriptors at the displaced voxels of a plane; NaN if unknown."""
    nz, ny, nx, channels = source.shape
    half = np.float32(0.5)
    scratch = np.empty((3, 3 * displacement.shape[2]), np.float32)
    row = np.empty((nx, 3), np.float32)
    for j in range(ny):
        row_of(displacement, at_z, at_y, at_x, k, j, scratch, row)
        for i in range(nx):
            z, fz, bz = cell(np.float32(k) + row[i, 0], nz)
            y, fy, by = cell(np.float32(j) + row[i, 1], ny)
            x, fx, bx = cell(np.float32(i) + row[i, 2], nx)
            if not (bz <= half and by <= half and bx <= half):
                out[j, i, 0] = np.nan
                continue
            z1, y1, x1 = min(z + 1, nz - 1), min(y + 1, ny - 1), min(x + 1, nx - 1)
            gz, gy, gx = 1 - fz, 1 - fy, 1 - fx
            w000 = _counting(source[z, y, x], gz * gy * gx)
            w001 = _counting(source[z, y, x1], gz * gy * fx)
            w010 = _counting(source[z, y1, x], gz * fy * gx)
            w011 = _counting(source[z, y1, x1], gz * fy * fx)
            w100 = _counting(source[z1, y, x], fz * gy * gx)
            w101 = _counting(source[z1, y, x1], fz * gy * fx)
            w110 = _counting(source[z1, y1, x], fz * fy * gx)
            w111 = _counting(source[z1, y1, x1], fz * fy * fx)
            known = w000 + w001 + w010 + w011 + w100 + w101 + w110 + w111
            if known < half:
                out[j, i, 0] = np.nan
                continue
            scale = np.float32(1) / (np.float32(SCALE) * known)
            for c in range(channels):
                value = (
                    w000 * np.float32(source[z, y, x, c])
                    + w001 * np.float32(source[z, y, x1, c])
                    + w010 * np.float32(source[z, y1, x, c])
                    + w011 * np.float32(source[z, y1, x1, c])
                    + w100 * np.float32(source[z1, y, x, c])
                    + w101 * np.float32(source[z1, y, x1, c])
                    + w110 * np.float32(source[z1, y1, x, c])
                    + w111 * np.float32(source[z1, y1, x1, c])
                )
                out[j, i, c] = scale * value


@compiled
def force(  # type: ignore[no-untyped-def]
    start,
    stop,
    displacement,
    stride,
    fixed,
    source,
    squared_steps,
    update,
    tensor,
    totals,
):
    """Write update, tensor and totals of a slab; see `correlation_kernels.force`.

    Three planes of pulled descriptors are kept for their slopes. Totals count voxels.
    """
    nz, ny, nx, channels = fixed.shape
    cz, cy, cx = displacement.shape[:3]
    at_z, at_y = places(nz, cz, stride[0]), places(ny, cy, stride[1])
    at_x = places(nx, cx, stride[2])
    wanted = tensor.size > 0
    update[start:stop] = 0
    totals[start:stop] = 0
    if wanted:
        tensor[start:stop] = 0
    first, last = start * stride[0], min(stop * stride[0], nz)
    ring = np.empty((3, ny, nx, channels), np.float32)
    for p in range(max(0, first - 1), min(nz, first + 1)):
        _pull_plane(p, displacement, at_z, at_y, at_x, source, ring[p % 3])
    for k in range(first, last):
        if k + 1 < nz:
            planes = displacement, at_z, at_y, at_x
            _pull_plane(k + 1, *planes, source, ring[(k + 1) % 3])
        here = ring[k % 3]
        below = ring[(k - 1) % 3] if k > 0 else here
        above = ring[(k + 1) % 3] if k + 1 < nz else here
        plane = k // stride[0]
        energy, count = np.float64(0), np.float64(0)
        for j in range(ny):
            south, north = here[max(j - 1, 0)], here[min(j + 1, ny - 1)]
            row = j // stride[1]
            for i in range(nx):
                if fixed[k, j, i, 0] == NOT_COUNTED or np.isnan(here[j, i, 0]):
                    continue
                centre = here[j, i]
                z0 = centre if np.isnan(below[j, i, 0]) else below[j, i]
                z1 = centre if np.isnan(above[j, i, 0]) else above[j, i]
                y0 = centre if np.isnan(south[i, 0]) else south[i]
                y1 = centre if np.isnan(north[i, 0]) else north[i]
                x0, x1 = here[j, max(i - 1, 0)], here[j, min(i + 1, nx - 1)]
                x0 = centre if np.isnan(x0[0]) else x0
                x1 = centre if np.isnan(x1[0]) else x1
                n = i // stride[2]
                squares = np.float32(0)
                vz, vy, vx = np.float32(0), np.float32(0), np.float32(0)
                for c in range(channels):
                    gap = np.float32(fixed[k, j, i, c]) / SCALE - centre[c]
                    dz = np.float32(0.5) * (z1[c] - z0[c])
                    dy = np.float32(0.5) * (y1[c] - y0[c])
                    dx = np.float32(0.5) * (x1[c] - x0[c])
                    squares += gap * gap
                    vz += gap * dz
                    vy += gap * dy
                    vx += gap * dx
                    if wanted:
                        tensor[plane, row, n, 0] += dz * dz
                        tensor[plane, row, n, 1] += dz * dy
                        tensor[plane, row, n, 2] += dz * dx
                        tensor[plane, row, n, 3] += dy * dy
                        tensor[plane, row, n, 4] += dy * dx
                        tensor[plane, row, n, 5] += dx * dx
                update[plane, row, n, 0] += vz
                update[plane, row, n, 1] += vy
                update[plane, row, n, 2] += vx
                energy += 1 - squares / channels
                count += 1
        totals[plane, 0] += energy
        totals[plane, 1] += count
    _scale(start, stop, (nz, ny, nx), stride, squared_steps, update)


@inlined
def _scale(start, stop, size, stride, squared_steps, update):  # type: ignore[no-untyped-def]
    """Divide sums over the voxels of nodes by their number, and apply the steps."""
    sz, sy, sx = stride
    for k in range(start, stop):
        deep = min(sz, size[0] - k * sz)
        for j in range(update.shape[1]):
            high = min(sy, size[1] - j * sy)
            for i in range(update.shape[2]):
                share = np.float32(1) / np.float32(
                    deep * high * min(sx, size[2] - i * sx)
                )
                for c in range(3):
                    update[k, j, i, c] *= share * squared_steps[c]
