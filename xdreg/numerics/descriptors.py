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
    place_in,
    ring_of,
    sum_boxes,
    sum_ring,
)
from xdreg.numerics.nodes import places, row_of
from xdreg.numerics.trilinear import cell, cell_steps

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
    pairs = _pairs(image.shape)
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


def _pairs(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return all pairs of neighbours (pair, 2, 3) that are not opposite."""
    steps = np.eye(3, dtype=np.int64)[np.array(shape) > 1]
    sides = [sign * step for step in steps for sign in (1, -1)]
    pairs = [(a, b) for a, b in combinations(sides, 2) if (a + b).any()]
    return np.array(pairs, np.int64).reshape(len(pairs), 2, 3)


@compiled
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


@exact
def _interpolate(values, at, weights, scale, out):  # type: ignore[no-untyped-def]
    """Write the weighted sum of the descriptors at eight offsets, times ``scale``."""
    a, b, c, d, e, f, g, h = at
    wa, wb, wc, wd, we, wf, wg, wh = weights
    for channel in range(out.size):
        n = np.uintp(channel)
        near = wa * np.float32(values[a + n]) + wb * np.float32(values[b + n])
        near += wc * np.float32(values[c + n]) + wd * np.float32(values[d + n])
        far = we * np.float32(values[e + n]) + wf * np.float32(values[f + n])
        far += wg * np.float32(values[g + n]) + wh * np.float32(values[h + n])
        out[n] = scale * (near + far)


@exact
def _pull_plane(k, displacement, at_z, at_y, at_x, source, out):  # type: ignore[no-untyped-def]
    """Sample descriptors at the displaced voxels of a plane; NaN if unknown.

    Corners of a cell that are `NOT_COUNTED` have no weight.
    """
    nz, ny, nx, channels = source.shape
    half, one, none = np.float32(0.5), np.float32(1), np.float32(0)
    values, steps = source.reshape(-1), cell_steps(source.shape[:3], channels)
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
            gz, gy, gx = one - fz, one - fy, one - fx
            a = np.uintp(((z * ny + y) * nx + x) * channels)
            b, c, d = a + steps[2], a + steps[1], a + steps[1] + steps[2]
            e, f, g = a + steps[0], b + steps[0], c + steps[0]
            h = d + steps[0]
            wa = gz * gy * gx if values[a] != NOT_COUNTED else none
            wb = gz * gy * fx if values[b] != NOT_COUNTED else none
            wc = gz * fy * gx if values[c] != NOT_COUNTED else none
            wd = gz * fy * fx if values[d] != NOT_COUNTED else none
            we = fz * gy * gx if values[e] != NOT_COUNTED else none
            wf = fz * gy * fx if values[f] != NOT_COUNTED else none
            wg = fz * fy * gx if values[g] != NOT_COUNTED else none
            wh = fz * fy * fx if values[h] != NOT_COUNTED else none
            known = wa + wb + wc + wd + we + wf + wg + wh
            if known < half:
                out[j, i, 0] = np.nan
                continue
            scale = one / (np.float32(SCALE) * known)
            weights = wa, wb, wc, wd, we, wf, wg, wh
            _interpolate(values, (a, b, c, d, e, f, g, h), weights, scale, out[j, i])


@exact
def _known(values, at, other):  # type: ignore[no-untyped-def]
    """Return an offset, or another where its descriptor is unknown."""
    return at if values[at] == values[at] else other


@exact
def _add_curvature(values, offsets, channels, out):  # type: ignore[no-untyped-def]
    """Add the products of the slopes of a voxel's descriptor, summed over channels."""
    z0, z1, y0, y1, x0, x1 = offsets
    quarter = np.float32(0.25)
    for channel in range(channels):
        n = np.uintp(channel)
        dz, dy = values[z1 + n] - values[z0 + n], values[y1 + n] - values[y0 + n]
        dx = values[x1 + n] - values[x0 + n]
        out[0] += quarter * dz * dz
        out[1] += quarter * dz * dy
        out[2] += quarter * dz * dx
        out[3] += quarter * dy * dy
        out[4] += quarter * dy * dx
        out[5] += quarter * dx * dx


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
    where = displacement, at_z, at_y, at_x, source
    wanted = tensor.size > 0
    update[start:stop] = 0
    totals[start:stop] = 0
    if wanted:
        tensor[start:stop] = 0
    first, last = start * stride[0], min(stop * stride[0], nz)
    ring = np.empty((3, ny, nx, channels), np.float32)
    pulled, reference = ring.reshape(-1), fixed.reshape(-1)
    half, share = np.float32(0.5), np.float32(1 / SCALE)
    for p in range(max(0, first - 1), min(nz, first + 1)):
        _pull_plane(p, *where, ring[p % 3])
    size = ny * nx * channels
    for k in range(first, last):
        if k + 1 < nz:
            _pull_plane(k + 1, *where, ring[(k + 1) % 3])
        plane = k // stride[0]
        here, below, above = k % 3, max(k - 1, 0) % 3, min(k + 1, nz - 1) % 3
        energy, count = np.float64(0), np.float64(0)
        for j in range(ny):
            south, north = max(j - 1, 0), min(j + 1, ny - 1)
            for i in range(nx):
                at = np.uintp((j * nx + i) * channels)
                own = np.uintp(k * size) + at
                o = np.uintp(here * size) + at
                if reference[own] == NOT_COUNTED or pulled[o] != pulled[o]:
                    continue
                z0 = _known(pulled, np.uintp(below * size) + at, o)
                z1 = _known(pulled, np.uintp(above * size) + at, o)
                line = here * ny
                y0 = _known(pulled, np.uintp(((line + south) * nx + i) * channels), o)
                y1 = _known(pulled, np.uintp(((line + north) * nx + i) * channels), o)
                row = (line + j) * nx
                x0 = np.uintp((row + max(i - 1, 0)) * channels)
                x1 = np.uintp((row + min(i + 1, nx - 1)) * channels)
                x0, x1 = _known(pulled, x0, o), _known(pulled, x1, o)
                squares = np.float32(0)
                vz, vy, vx = np.float32(0), np.float32(0), np.float32(0)
                for channel in range(channels):
                    n = np.uintp(channel)
                    gap = share * np.float32(reference[own + n]) - pulled[o + n]
                    squares += gap * gap
                    vz += gap * (pulled[z1 + n] - pulled[z0 + n])
                    vy += gap * (pulled[y1 + n] - pulled[y0 + n])
                    vx += gap * (pulled[x1 + n] - pulled[x0 + n])
                v, m = j // stride[1], i // stride[2]
                update[plane, v, m, 0] += half * vz
                update[plane, v, m, 1] += half * vy
                update[plane, v, m, 2] += half * vx
                energy += 1 - squares / channels
                count += 1
                if wanted:
                    offsets = z0, z1, y0, y1, x0, x1
                    _add_curvature(pulled, offsets, channels, tensor[plane, v, m])
        totals[plane, 0] += energy
        totals[plane, 1] += count
    _scale(start, stop, (nz, ny, nx), stride, squared_steps, update)


@exact
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
