"""Kernels of the squared local correlation of two images, and of its gradient.

The energy is the mean squared correlation in a box around every voxel. Its gradient is
exact: the sums over each box give coefficients, and the sums of the coefficients over
the boxes that contain a voxel give the derivatives by its two values.

Planes are streamed: a slab keeps the sums of one box's depth only. Boxes are summed
axis by axis, and anew for every voxel: running sums drift in float32, and their bits
would depend on where a slab begins.

Images are ``(z, y, x)`` float32, NaN outside the mask. Source: Avants et al., Symmetric
diffeomorphic image registration with cross-correlation, Medical Image Analysis 2008.
"""

from __future__ import annotations

import numpy as np

from xdreg.numerics.filters import (
    close_plane,
    compiled,
    place_in,
    ring_of,
    sum_boxes,
    sum_ring,
)
from xdreg.numerics.trilinear import cell, cell_steps, interpolate, interpolate_known

#: Deviations below this share of an image's contrast are noise.
NOISE = 0.05

#: Least share of a box's voxels within the image that must be within the mask.
LEAST_SHARE = 0.2


@compiled
def pull(start, stop, displacement, moving, out):  # type: ignore[no-untyped-def]
    """Sample ``moving`` at every displaced voxel; NaN outside."""
    nz, ny, nx = moving.shape
    values = moving.reshape(-1)
    steps = cell_steps(moving.shape, 1)
    half = np.float32(0.5)
    for k in range(start, stop):
        for j in range(ny):
            for i in range(nx):
                pz = np.float32(k) + displacement[k, j, i, 0]
                py = np.float32(j) + displacement[k, j, i, 1]
                px = np.float32(i) + displacement[k, j, i, 2]
                z, fz, bz = cell(pz, nz)
                y, fy, by = cell(py, ny)
                x, fx, bx = cell(px, nx)
                at = np.uintp((z * ny + y) * nx + x)
                value = interpolate(values, at, steps, (fz, fy, fx))
                if value != value:
                    value = interpolate_known(values, at, steps, (fz, fy, fx))
                # The image extends to the edges of its outer voxels.
                inside = bz <= half and by <= half and bx <= half
                out[k, j, i] = value if inside else np.float32(np.nan)


@compiled
def _products(fixed, moving, ry, rx, out):  # type: ignore[no-untyped-def]
    """Write the quantities to sum: 1, f, m, f², m², f·m; zero outside either mask."""
    ny, nx = fixed.shape
    for j in range(ny):
        for i in range(nx):
            f, m = fixed[j, i], moving[j, i]
            counts = f == f and m == m
            f = f if counts else np.float32(0)
            m = m if counts else np.float32(0)
            out[0, ry + j, rx + i] = np.float32(1) if counts else np.float32(0)
            out[1, ry + j, rx + i] = f
            out[2, ry + j, rx + i] = m
            out[3, ry + j, rx + i] = f * f
            out[4, ry + j, rx + i] = m * m
            out[5, ry + j, rx + i] = f * m


@compiled
def _moments(count, values, squares, mean, spread):  # type: ignore[no-untyped-def]
    """Write a row's means, and its sums of squared deviations, including noise."""
    for i in range(count.size):
        n = max(count[i], np.float32(1))
        mean[i] = values[i] / n
        deviations = max(squares[i] - values[i] * mean[i], np.float32(0))
        spread[i] = deviations + np.float32(NOISE * NOISE) * n


@compiled
def _co_deviations(products, values, mean, out):  # type: ignore[no-untyped-def]
    for i in range(out.size):
        out[i] = products[i] - values[i] * mean[i]


@compiled
def _ratios(count, least, cross, spread_f, spread_m, out):  # type: ignore[no-untyped-def]
    """Write ``2 cross / (spread_f spread_m)``; return the energy and the count."""
    energy, counted = np.float32(0), np.float32(0)
    for i in range(out.size):
        enough = np.float32(1) if count[i] >= least else np.float32(0)
        ratio = enough * cross[i] / (spread_f[i] * spread_m[i])
        out[i] = ratio + ratio
        energy += ratio * cross[i]
        counted += enough
    return energy, counted


@compiled
def _own_shares(ratio, cross, spread, out):  # type: ignore[no-untyped-def]
    for i in range(out.size):
        out[i] = ratio[i] * cross[i] / spread[i]


@compiled
def _constants(ratio, share, own_mean, other_mean, out):  # type: ignore[no-untyped-def]
    for i in range(out.size):
        out[i] = share[i] * own_mean[i] - ratio[i] * other_mean[i]


@compiled
def _coefficients(sums, least, ry, rx, out):  # type: ignore[no-untyped-def]
    """Write the coefficients a to e of the gradient in a plane; return the energy.

    The derivative by the moving image's value is ``f Σa - m Σb + Σc``, that by the
    fixed image's value ``m Σa - f Σd + Σe``. Each loop uses few arrays, as compilers do
    not vectorise loops over many that might overlap.
    """
    ny, nx = out.shape[1] - 2 * ry, out.shape[2] - 2 * rx
    scratch = np.empty((5, nx), np.float32)
    mean_f, mean_m, cross = scratch[0], scratch[1], scratch[2]
    spread_f, spread_m = scratch[3], scratch[4]
    energy, count = np.float64(0), np.float64(0)
    for j in range(ny):
        w, f, m = sums[0, j, :nx], sums[1, j, :nx], sums[2, j, :nx]
        _moments(w, f, sums[3, j, :nx], mean_f, spread_f)
        _moments(w, m, sums[4, j, :nx], mean_m, spread_m)
        _co_deviations(sums[5, j, :nx], f, mean_m, cross)
        row, inner = ry + j, slice(rx, rx + nx)
        a, b, c = out[0, row, inner], out[1, row, inner], out[2, row, inner]
        d, e = out[3, row, inner], out[4, row, inner]
        raised, counted = _ratios(w, least, cross, spread_f, spread_m, a)
        _own_shares(a, cross, spread_m, b)
        _constants(a, b, mean_m, mean_f, c)
        _own_shares(a, cross, spread_f, d)
        _constants(a, d, mean_f, mean_m, e)
        energy += raised
        count += counted
    return energy, count


@compiled
def _slope(low, centre, high):  # type: ignore[no-untyped-def]
    """Return the central difference; a NaN neighbour has the centre's value."""
    low = low if low == low else centre
    high = high if high == high else centre
    return np.float32(0.5) * (high - low)


@compiled
def _slopes(image, k, j, i):  # type: ignore[no-untyped-def]
    """Return the gradient of an image at a voxel, per voxel."""
    nz, ny, nx = image.shape
    centre = image[k, j, i]
    return (
        _slope(image[max(k - 1, 0), j, i], centre, image[min(k + 1, nz - 1), j, i]),
        _slope(image[k, max(j - 1, 0), i], centre, image[k, min(j + 1, ny - 1), i]),
        _slope(image[k, j, max(i - 1, 0)], centre, image[k, j, min(i + 1, nx - 1)]),
    )


@compiled
def _push(fixed, pulled, k, sums, squared_steps, update, tensor):  # type: ignore[no-untyped-def]
    """Write the update of plane ``k``: the gradient of the energy.

    Also write the curvature of a least-squares fit into ``tensor`` unless that is
    empty: zz, zy, zx, yy, yx, xx.
    """
    wanted = tensor.size > 0
    sz, sy, sx = squared_steps
    half = np.float32(0.5)
    for j in range(pulled.shape[1]):
        for i in range(pulled.shape[2]):
            f, m = fixed[k, j, i], pulled[k, j, i]
            if not (f == f and m == m):
                update[k, j, i, 0] = 0
                update[k, j, i, 1] = 0
                update[k, j, i, 2] = 0
                if wanted:
                    tensor[k, j, i] = 0
                continue
            a = half * sums[0, j, i]
            b, d = half * sums[1, j, i], half * sums[3, j, i]
            g = f * a - m * b + half * sums[2, j, i]
            h = m * a - f * d + half * sums[4, j, i]
            mz, my, mx = _slopes(pulled, k, j, i)
            fz, fy, fx = _slopes(fixed, k, j, i)
            update[k, j, i, 0] = sz * (g * mz - h * fz)
            update[k, j, i, 1] = sy * (g * my - h * fy)
            update[k, j, i, 2] = sx * (g * mx - h * fx)
            if wanted:
                tensor[k, j, i, 0] = b * mz * mz + d * fz * fz
                tensor[k, j, i, 1] = b * mz * my + d * fz * fy
                tensor[k, j, i, 2] = b * mz * mx + d * fz * fx
                tensor[k, j, i, 3] = b * my * my + d * fy * fy
                tensor[k, j, i, 4] = b * my * mx + d * fy * fx
                tensor[k, j, i, 5] = b * mx * mx + d * fx * fx


@compiled
def force(start, stop, fixed, pulled, radius, squared_steps, update, tensor, totals):  # type: ignore[no-untyped-def]
    """Write update, tensor and totals of a slab, plane by plane.

    Products, their box sums, coefficients, and the box sums of these give the update.
    With an empty ``update`` only the totals are written: energy and number of voxels.
    """
    nz, ny, nx = fixed.shape
    rz, ry, rx = radius
    depth = 2 * rz + 1
    room = min(depth, nz) * min(2 * ry + 1, ny) * min(2 * rx + 1, nx)
    least = np.float32(LEAST_SHARE * room)
    high, wide = ny + 2 * ry, nx + 2 * rx
    padded = np.zeros((6, high, wide), np.float32)
    weights = np.zeros((5, high, wide), np.float32)
    scratch = np.zeros((3, high, wide), np.float32)
    sums = np.zeros((6, ny, wide), np.float32)
    pulls = np.zeros((5, ny, wide), np.float32)
    products = ring_of(depth, 6, ny, wide)
    coefficients = ring_of(depth, 5, ny, wide)
    for p in range(max(0, start - 2 * rz), stop + 2 * rz):
        here = products[place_in(products, p)]
        if p < nz:
            _products(fixed[p], pulled[p], ry, rx, padded)
            for q in range(6):
                sum_boxes(padded[q], ry, rx, scratch, here[q])
        else:
            here[:] = 0
        close_plane(products, p)
        centre = p - rz
        if centre < 0 or centre < start - rz:
            continue
        if centre < nz:
            sum_ring(products, p, sums)
            raised, count = _coefficients(sums, least, ry, rx, weights)
            if start <= centre < stop:
                totals[centre, 0] = raised
                totals[centre, 1] = count
        if update.size == 0:
            continue
        here = coefficients[place_in(coefficients, centre)]
        if centre < nz:
            for q in range(5):
                sum_boxes(weights[q], ry, rx, scratch, here[q])
        else:
            here[:] = 0
        close_plane(coefficients, centre)
        k = centre - rz
        if start <= k < stop:
            sum_ring(coefficients, centre, pulls)
            _push(fixed, pulled, k, pulls, squared_steps, update, tensor)
