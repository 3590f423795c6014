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
    copy,
    exact,
    inlined,
    place_in,
    ring_of,
    sum_boxes,
    sum_ring,
)
from xdreg.numerics.nodes import nodes_of, places, row_of
from xdreg.numerics.trilinear import cell, cell_steps, interpolate, interpolate_known

#: Deviations below this share of an image's contrast are noise.
NOISE = 0.05

#: Least share of a box's voxels within the image that must be within the mask.
LEAST_SHARE = 0.2


@compiled
def pull(start, stop, displacement, stride, moving, out):  # type: ignore[no-untyped-def]
    """Sample ``moving`` at the displaced voxels of planes of nodes; NaN outside."""
    nz, ny, nx = moving.shape
    cz, cy, cx = displacement.shape[:3]
    at_z, at_y = places(nz, cz, stride[0]), places(ny, cy, stride[1])
    at_x = places(nx, cx, stride[2])
    scratch, row = np.empty((3, 3 * cx), np.float32), np.empty((nx, 3), np.float32)
    values = moving.reshape(-1)
    steps = cell_steps(moving.shape, 1)
    half = np.float32(0.5)
    for k in range(start * stride[0], min(stop * stride[0], nz)):
        for j in range(ny):
            row_of(displacement, at_z, at_y, at_x, k, j, scratch, row)
            for i in range(nx):
                z, fz, bz = cell(np.float32(k) + row[i, 0], nz)
                y, fy, by = cell(np.float32(j) + row[i, 1], ny)
                x, fx, bx = cell(np.float32(i) + row[i, 2], nx)
                at = np.uintp((z * ny + y) * nx + x)
                value = interpolate(values, at, steps, (fz, fy, fx))
                if value != value:
                    value = interpolate_known(values, at, steps, (fz, fy, fx))
                # The image extends to the edges of its outer voxels.
                inside = bz <= half and by <= half and bx <= half
                out[k, j, i] = value if inside else np.float32(np.nan)


@exact
def _products(fixed, moving, plane, stride, ry, rx, out):  # type: ignore[no-untyped-def]
    """Write the sums over each node's voxels of 1, f, m, f², m² and f·m.

    Voxels outside either mask count as zero.
    """
    nz, ny, nx = fixed.shape
    sz, sy, sx = stride
    high, wide = nodes_of(ny, sy), nodes_of(nx, sx)
    out[:, ry : ry + high, rx : rx + wide] = 0
    zero, one = np.float32(0), np.float32(1)
    for k in range(plane * sz, min((plane + 1) * sz, nz)):
        for j in range(ny):
            f_row, m_row, row = fixed[k, j], moving[k, j], ry + j // sy
            for n in range(wide):
                c, f, m, ff, mm, fm = zero, zero, zero, zero, zero, zero
                for i in range(n * sx, min(n * sx + sx, nx)):
                    a, b = f_row[i], m_row[i]
                    counts = a == a and b == b
                    a = a if counts else zero
                    b = b if counts else zero
                    c += one if counts else zero
                    f += a
                    m += b
                    ff += a * a
                    mm += b * b
                    fm += a * b
                out[0, row, rx + n] += c
                out[1, row, rx + n] += f
                out[2, row, rx + n] += m
                out[3, row, rx + n] += ff
                out[4, row, rx + n] += mm
                out[5, row, rx + n] += fm


@exact
def _moments(count, values, squares, mean, spread):  # type: ignore[no-untyped-def]
    """Write a row's means, and its sums of squared deviations, including noise."""
    for i in range(count.size):
        n = max(count[i], np.float32(1))
        mean[i] = values[i] / n
        deviations = max(squares[i] - values[i] * mean[i], np.float32(0))
        spread[i] = deviations + np.float32(NOISE * NOISE) * n


@exact
def _co_deviations(products, values, mean, out):  # type: ignore[no-untyped-def]
    for i in range(out.size):
        out[i] = products[i] - values[i] * mean[i]


@inlined
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


@exact
def _own_shares(ratio, cross, spread, out):  # type: ignore[no-untyped-def]
    for i in range(out.size):
        out[i] = ratio[i] * cross[i] / spread[i]


@exact
def _constants(ratio, share, own_mean, other_mean, out):  # type: ignore[no-untyped-def]
    for i in range(out.size):
        out[i] = share[i] * own_mean[i] - ratio[i] * other_mean[i]


@inlined
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


@exact
def _slope(low, centre, high, out):  # type: ignore[no-untyped-def]
    """Write the central differences of rows; a NaN neighbour has the centre's value."""
    half = np.float32(0.5)
    for i in range(out.size):
        near = low[i] if low[i] == low[i] else centre[i]
        far = high[i] if high[i] == high[i] else centre[i]
        out[i] = half * (far - near)


@exact
def _slopes(image, k, j, beside, out):  # type: ignore[no-untyped-def]
    """Write the gradient (3, x) of a row of an image, per voxel.

    ``beside (x + 2)`` is work space: the row with its ends repeated.
    """
    nz, ny, nx = image.shape
    row = image[k, j]
    copy(row, beside[1 : nx + 1])
    beside[0], beside[nx + 1] = row[0], row[nx - 1]
    _slope(image[max(k - 1, 0), j], row, image[min(k + 1, nz - 1), j], out[0])
    _slope(image[k, max(j - 1, 0)], row, image[k, min(j + 1, ny - 1)], out[1])
    _slope(beside[:nx], row, beside[2:], out[2])


@exact
def _residual(own, other, by_own, by_other, constant, out):  # type: ignore[no-untyped-def]
    for i in range(out.size):
        out[i] = own[i] * by_own[i] - other[i] * by_other[i] + constant[i]


@exact
def _times(weight, values, out):  # type: ignore[no-untyped-def]
    for i in range(out.size):
        out[i] = weight[i] * values[i]


@exact
def _add_products(a, b, c, d, out):  # type: ignore[no-untyped-def]
    """Add ``a b + c d`` where that is known: where both images are."""
    for i in range(out.size):
        value = a[i] * b[i] + c[i] * d[i]
        out[i] += value if value == value else np.float32(0)


@exact
def _add_curvature(b, of_m, by_m, d, of_f, by_f, out):  # type: ignore[no-untyped-def]
    """Add ``b ∇m ∇m + d ∇f ∇f`` of a row: zz, zy, zx, yy, yx, xx."""
    n = 0
    for p in range(3):
        _times(b, of_m[p], by_m[p])
        _times(d, of_f[p], by_f[p])
        for q in range(p, 3):
            _add_products(by_m[p], of_m[q], by_f[p], of_f[q], out[n])
            n += 1


@exact
def _spread(nodes, stride, sign, out):  # type: ignore[no-untyped-def]
    """Give every voxel of a row the value of its node, times ``sign``."""
    if stride == 1:
        for i in range(out.size):
            out[i] = sign * nodes[i]
        return
    for n in range(out.size // 2):
        out[2 * n] = out[2 * n + 1] = sign * nodes[n]
    if out.size % 2:
        out[out.size - 1] = sign * nodes[out.size // 2]


@exact
def _gather(rows, stride, factors, out):  # type: ignore[no-untyped-def]
    """Write the means of rows (c, x) over the voxels of nodes, times factors (c)."""
    size = rows.shape[1]
    for c in range(rows.shape[0]):
        row, factor = rows[c], np.float32(factors[c])
        if stride == 1:
            for n in range(size):
                out[n, c] = factor * row[n]
            continue
        half = np.float32(0.5) * factor
        for n in range(size // 2):
            out[n, c] = half * (row[2 * n] + row[2 * n + 1])
        if size % 2:
            out[size // 2, c] = factor * row[size - 1]


@exact
def _push(fixed, pulled, plane, stride, sums, squared_steps, update, tensor):  # type: ignore[no-untyped-def]
    """Write the update of a plane of nodes: the mean over their voxels' gradients.

    The gradient is ``g ∇m + h ∇f``. Also write the curvature of a least-squares fit
    into ``tensor`` unless that is empty: zz, zy, zx, yy, yx, xx.
    """
    wanted = tensor.size > 0
    nz, ny, nx = fixed.shape
    sz, sy, sx = stride
    weights, beside = np.empty((5, nx), np.float32), np.empty(nx + 2, np.float32)
    of_f, of_m = np.empty((3, nx), np.float32), np.empty((3, nx), np.float32)
    by_f, by_m = np.empty((3, nx), np.float32), np.empty((3, nx), np.float32)
    g, h = np.empty(nx, np.float32), np.empty(nx, np.float32)
    total, curvature = np.empty((3, nx), np.float32), np.empty((6, nx), np.float32)
    first, last = plane * sz, min((plane + 1) * sz, nz)
    for row in range(update.shape[1]):
        for n in range(5):
            _spread(sums[n, row], sx, np.float32(-1 if n == 4 else 1), weights[n])
        a, b, c, d, e = weights[0], weights[1], weights[2], weights[3], weights[4]
        total[:], curvature[:] = 0, 0
        top, bottom = row * sy, min(row * sy + sy, ny)
        for k in range(first, last):
            for j in range(top, bottom):
                _residual(fixed[k, j], pulled[k, j], a, b, c, g)
                _residual(fixed[k, j], pulled[k, j], d, a, e, h)
                _slopes(pulled, k, j, beside, of_m)
                _slopes(fixed, k, j, beside, of_f)
                for p in range(3):
                    _add_products(g, of_m[p], h, of_f[p], total[p])
                if wanted:
                    _add_curvature(b, of_m, by_m, d, of_f, by_f, curvature)
        # Boxes lie around nodes only: each stands for those of its voxels.
        share = np.float32(0.5 * sz * sy * sx / ((last - first) * (bottom - top)))
        _gather(total, sx, share * squared_steps, update[plane, row])
        if wanted:
            share_of_all = np.full(6, share, np.float32)
            _gather(curvature, sx, share_of_all, tensor[plane, row])


@compiled
def force(  # type: ignore[no-untyped-def]
    start, stop, fixed, pulled, radius, stride, squared_steps, update, tensor, totals
):
    """Write update, tensor and totals of a slab of nodes, plane by plane.

    Products, their box sums, coefficients, and the box sums of these give the update.
    Boxes lie around nodes; ``radius`` is their half-width in nodes. With an empty
    ``update`` only the totals are written: energy and number of nodes.
    """
    size = fixed.shape
    nz, ny = nodes_of(size[0], stride[0]), nodes_of(size[1], stride[1])
    nx = nodes_of(size[2], stride[2])
    rz, ry, rx = radius
    depth = 2 * rz + 1
    room = 1
    for axis in range(3):
        room *= min((2 * radius[axis] + 1) * stride[axis], size[axis])
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
            _products(fixed, pulled, p, stride, ry, rx, padded)
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
            _push(fixed, pulled, k, stride, pulls, squared_steps, update, tensor)
