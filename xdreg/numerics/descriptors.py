"""Self-similarity descriptors of an image (MIND-SSC), and the kernels of their force.

Every voxel has neighbours at distance one on both sides of each axis. For each pair of
neighbours that are not opposite, the mean squared difference of the patches around them
is measured, relative to the mean over all pairs. The result describes the shape around
the voxel, whatever the modality, by 12 numbers in a volume and 4 in a plane.

Descriptors are bytes, ``(z, y, x, channel)``. In a volume four channels of zeros are
added: 16 numbers fill the processor's registers. The value `NOT_COUNTED` in the first
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
    inlined,
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

#: Numbers of a descriptor in a volume, and bytes that are kept for them.
IN_SPACE = 12
WIDTH = 16

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
    width = WIDTH if len(pairs) == IN_SPACE else len(pairs)
    out = np.zeros((*image.shape, width), np.uint8)
    # The first pass finds the image's mean difference.
    total = _describe(values, known, pairs, radius, np.float32(0), out)
    mean = np.float32(total / max(1, known.sum()))
    _describe(values, known, pairs, radius, LEAST_VARIANCE * mean, out)
    return out


def lanes(descriptors: NDArray[np.uint8]) -> tuple[int, ...]:
    """Return a tuple as long as a descriptor is wide.

    The length of a tuple is part of its type. A loop over a length that is known when
    it is compiled is vectorised whole.
    """
    width: int = descriptors.shape[-1]
    return (0,) * width


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
def _counting(first, weight):  # type: ignore[no-untyped-def]
    """Return a corner's weight, zero if its first channel is `NOT_COUNTED`."""
    return weight if first != NOT_COUNTED else np.float32(0)


@inlined
def _pull_plane(k, displacement, at_z, at_y, at_x, source, lanes, out):  # type: ignore[no-untyped-def]
    """Sample descriptors at the displaced voxels of a plane; NaN if unknown.

    ``out`` is flat.
    """
    nz, ny, nx = source.shape[:3]
    width, values = len(lanes), source.reshape(-1)
    one, half = np.float32(1), np.float32(0.5)
    scratch = np.empty((3, 3 * displacement.shape[2]), np.float32)
    row = np.empty((nx, 3), np.float32)
    dz, dy, dx = cell_steps((nz, ny, nx), width)
    for j in range(ny):
        row_of(displacement, at_z, at_y, at_x, k, j, scratch, row)
        for i in range(nx):
            z, fz, bz = cell(np.float32(k) + row[i, 0], nz)
            y, fy, by = cell(np.float32(j) + row[i, 1], ny)
            x, fx, bx = cell(np.float32(i) + row[i, 2], nx)
            to = np.uintp(width * (j * nx + i))
            if not (bz <= half and by <= half and bx <= half):
                out[to] = np.nan
                continue
            a = np.uintp(width * ((z * ny + y) * nx + x))
            b, c, d = a + dx, a + dy, a + dy + dx
            e, f, g, h = a + dz, b + dz, c + dz, d + dz
            gz, gy, gx = one - fz, one - fy, one - fx
            wa = _counting(values[a], gz * gy * gx)
            wb = _counting(values[b], gz * gy * fx)
            wc = _counting(values[c], gz * fy * gx)
            wd = _counting(values[d], gz * fy * fx)
            we = _counting(values[e], fz * gy * gx)
            wf = _counting(values[f], fz * gy * fx)
            wg = _counting(values[g], fz * fy * gx)
            wh = _counting(values[h], fz * fy * fx)
            known = wa + wb + wc + wd + we + wf + wg + wh
            if known < half:
                out[to] = np.nan
                continue
            scale = one / (np.float32(SCALE) * known)
            for lane in range(width):
                n = np.uintp(lane)
                out[to + n] = scale * (
                    wa * np.float32(values[a + n])
                    + wb * np.float32(values[b + n])
                    + wc * np.float32(values[c + n])
                    + wd * np.float32(values[d + n])
                    + we * np.float32(values[e + n])
                    + wf * np.float32(values[f + n])
                    + wg * np.float32(values[g + n])
                    + wh * np.float32(values[h + n])
                )


@inlined
def _known(values, at, instead):  # type: ignore[no-untyped-def]
    """Return an offset, or another one where the value is NaN."""
    return instead if np.isnan(values[at]) else at


@compiled
def force(  # type: ignore[no-untyped-def]
    start,
    stop,
    displacement,
    stride,
    fixed,
    source,
    lanes,
    squared_steps,
    update,
    tensor,
    totals,
):
    """Write update, tensor and totals of a slab; see `correlation_kernels.force`.

    Three planes of pulled descriptors are kept for their slopes. Totals count voxels.
    ``lanes`` is that of the descriptors `fixed` and `source`.
    """
    nz, ny, nx = fixed.shape[:3]
    cz, cy, cx = displacement.shape[:3]
    at_z, at_y = places(nz, cz, stride[0]), places(ny, cy, stride[1])
    at_x = places(nx, cx, stride[2])
    wanted = tensor.size > 0
    update[start:stop] = 0
    totals[start:stop] = 0
    if wanted:
        tensor[start:stop] = 0
    width, line = len(lanes), len(lanes) * nx
    plane = line * ny
    size, unit = min(width, IN_SPACE), np.float32(1 / SCALE)
    half, quarter = np.float32(0.5), np.float32(0.25)
    first, last = start * stride[0], min(stop * stride[0], nz)
    ring = np.empty((3, plane), np.float32)
    pulled, reference = ring.reshape(-1), fixed.reshape(-1)
    for p in range(max(0, first - 1), min(nz, first + 1)):
        _pull_plane(p, displacement, at_z, at_y, at_x, source, lanes, ring[p % 3])
    for k in range(first, last):
        if k + 1 < nz:
            planes = displacement, at_z, at_y, at_x
            _pull_plane(k + 1, *planes, source, lanes, ring[(k + 1) % 3])
        here = plane * (k % 3)
        below = plane * ((k - 1) % 3) if k > 0 else here
        above = plane * ((k + 1) % 3) if k + 1 < nz else here
        node = k // stride[0]
        energy, count = np.float64(0), np.float64(0)
        for j in range(ny):
            south = here - line if j > 0 else here
            north = here + line if j + 1 < ny else here
            row = j // stride[1]
            for i in range(nx):
                at = width * (j * nx + i)
                still, centre = np.uintp(k * plane + at), np.uintp(here + at)
                if reference[still] == NOT_COUNTED or np.isnan(pulled[centre]):
                    continue
                z0 = _known(pulled, np.uintp(below + at), centre)
                z1 = _known(pulled, np.uintp(above + at), centre)
                y0 = _known(pulled, np.uintp(south + at), centre)
                y1 = _known(pulled, np.uintp(north + at), centre)
                x0 = np.uintp(here + at - width) if i > 0 else centre
                x1 = np.uintp(here + at + width) if i + 1 < nx else centre
                x0, x1 = _known(pulled, x0, centre), _known(pulled, x1, centre)
                squares = np.float32(0)
                vz, vy, vx = np.float32(0), np.float32(0), np.float32(0)
                for lane in range(width):
                    n = np.uintp(lane)
                    gap = unit * np.float32(reference[still + n]) - pulled[centre + n]
                    squares += gap * gap
                    vz += gap * (pulled[z1 + n] - pulled[z0 + n])
                    vy += gap * (pulled[y1 + n] - pulled[y0 + n])
                    vx += gap * (pulled[x1 + n] - pulled[x0 + n])
                m = i // stride[2]
                update[node, row, m, 0] += half * vz
                update[node, row, m, 1] += half * vy
                update[node, row, m, 2] += half * vx
                energy += 1 - squares / size
                count += 1
                if not wanted:
                    continue
                for lane in range(width):
                    n = np.uintp(lane)
                    dz = pulled[z1 + n] - pulled[z0 + n]
                    dy = pulled[y1 + n] - pulled[y0 + n]
                    dx = pulled[x1 + n] - pulled[x0 + n]
                    tensor[node, row, m, 0] += quarter * dz * dz
                    tensor[node, row, m, 1] += quarter * dz * dy
                    tensor[node, row, m, 2] += quarter * dz * dx
                    tensor[node, row, m, 3] += quarter * dy * dy
                    tensor[node, row, m, 4] += quarter * dy * dx
                    tensor[node, row, m, 5] += quarter * dx * dx
        totals[node, 0] += energy
        totals[node, 1] += count
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
