"""Resampling of images by cubic B-splines, and of labels by votes.

*Cubic* is the cubic B-spline through the voxels, as in ITK and scipy. The error of the
cheaper cubic convolution (Keys) is several times as large on fine detail. A recursive
filter over the image gives the coefficients. A voxel's share in them falls by a factor
of 0.27 per voxel, so with a halo of `HALO` voxels they are the same in any window, to
float32 precision. Source: Unser, Splines: a perfect fit for signal and image
processing, IEEE Signal Processing Magazine 1999.

*Votes*: the label with the largest weight among the voxels around a position wins, so
that no new value arises. Weights are those of linear interpolation with ``"majority"``,
and integrals of a Gaussian over the voxels with ``"gaussian"``, as in ITK's
``LabelImageGaussianInterpolateImageFunction``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import ndimage

from xdreg.numerics import kernels
from xdreg.numerics.kernel_files import kernel
from xdreg.numerics.kernels import axis_tables, field_row, lift, lift_field

if TYPE_CHECKING:
    from typing import Any

    from xdreg.grid import Grid
    from xdreg.numerics.kernels import Array

Labels = Literal["nearest", "majority", "gaussian"]
Order = Literal[0, 1, 3]

_compiled = kernel()

#: The pole of the cubic B-spline's filter.
POLE = math.sqrt(3.0) - 2.0

#: Voxels around a window for its coefficients: |POLE| ** 12 is 1.4e-7.
HALO = 12

#: Standard deviation of the Gaussian votes in voxels of the moving image, 1 as in ANTs,
#: and their cutoff in standard deviations.
SIGMA_VOXELS = 1.0
CUTOFF = 3.0

#: Most voxels on either side that vote.
REACH = math.ceil(SIGMA_VOXELS * CUTOFF)


def margin_of(order: Order, labels: Labels | None) -> int:
    """Return how many voxels of an image are needed around what a window maps onto."""
    if labels == "gaussian":
        return REACH + 1
    return HALO + 2 if order == 3 else 1


def resample(
    image: Array,
    image_grid: Grid,
    displacement: Array,
    displacement_grid: Grid,
    target: Grid,
    *,
    order: Order = 1,
    labels: Labels | None = None,
    fill: float = np.nan,
) -> Array:
    """Resample an image onto a grid through a displacement field.

    ``image`` is the moving image, or the window of it that the target maps onto, with
    `margin_of` voxels around it. ``displacement (ndim, *displacement_grid.shape)`` in
    physical units.

    Order 0 takes the nearest voxel and keeps the dtype. 1 interpolates linearly, 3 by
    cubic B-splines; both return float32. Where linear interpolation is NaN, order 3 is,
    too. ``labels``, in place of ``order``, keeps the dtype.
    """
    geometry = (image_grid, displacement, displacement_grid, target)
    if labels is None and order == 3:
        return Spline(image, image_grid).resample(*geometry[1:], fill=fill)
    if labels in (None, "nearest"):
        nearest = labels == "nearest" or order == 0
        kind: Literal[0, 1] = 0 if nearest else 1
        return kernels.warp_array(image, *geometry, order=kind, fill=fill)
    source = np.ascontiguousarray(lift(image))
    out = np.full(target.shape, fill, source.dtype)
    uniform = np.empty((2, *source.shape), np.bool_)
    _find_uniform(source, uniform)
    path = _path(*geometry)
    _pull_votes(source, uniform[1], labels == "gaussian", *path, lift(out))
    return out


def _path(
    image_grid: Grid, displacement: Array, displacement_grid: Grid, target: Grid
) -> tuple[Any, ...]:
    """Return the arguments of the kernels that locate target voxels in the image."""
    *axes, scale = axis_tables(target, displacement_grid, image_grid)
    return (lift_field(displacement), *map(tuple, axes), scale)


class Spline:
    """An image as a cubic B-spline, to be resampled more than once. It may contain NaN.

    If ``limited``, values are limited to the range of the voxels around. Splines
    overshoot next to edges, which adds structure.
    """

    def __init__(self, image: Array, grid: Grid, *, limited: bool = False) -> None:
        self.grid = grid
        values = np.array(lift(image), np.float32, order="C")
        self._known = np.isfinite(values)
        self._limits = values.copy() if limited else np.empty((0, 0, 0), np.float32)
        self._coefficients = spline_coefficients(values, self._known)

    def resample(
        self,
        displacement: Array,
        displacement_grid: Grid,
        target: Grid,
        *,
        fill: float = np.nan,
    ) -> Array:
        """Resample onto a grid through a displacement field; see `resample`."""
        path = _path(self.grid, displacement, displacement_grid, target)
        out = np.full(target.shape, fill, np.float32)
        source = self._coefficients, self._known, self._limits
        _pull_cubic(*source, *path, lift(out))
        return out


def spline_coefficients(values: Array, known: Array) -> Array:
    """Return the cubic B-spline coefficients of ``values (z, y, x)`` float32.

    The image is mirrored at the outermost voxels. Values that are not ``known`` are
    replaced by the nearest known one. ``values`` is overwritten.
    """
    if not known.all() and known.any():
        # The recursive filter would spread a NaN over the window.
        nearest = ndimage.distance_transform_edt(
            ~known, return_distances=False, return_indices=True
        )
        values = values[tuple(nearest)]
    for axis, size in enumerate(values.shape):
        if size > 1:
            turned = np.ascontiguousarray(np.moveaxis(values, axis, 0))
            _filter_planes(turned)
            values = np.moveaxis(turned, 0, axis)
    return np.ascontiguousarray(values)


@_compiled
def _filter_planes(values):  # type: ignore[no-untyped-def]
    """Filter along the first axis, there and back, in place."""
    size = values.shape[0]
    planes = values.reshape(size, -1)
    width = planes.shape[1]
    pole = np.float32(POLE)
    gain = np.float32((1 - POLE) * (1 - 1 / POLE))
    # Sum over the mirrored line, up to float32 precision. A short line repeats in it.
    short = size <= 2 * HALO
    count = 2 * size - 2 if short else 2 * HALO
    start = np.zeros(width)
    power = 1.0
    for n in range(count):
        plane = planes[n if n < size else 2 * size - 2 - n]
        for i in range(width):
            start[i] += power * plane[i]
        power *= POLE
    for i in range(width):
        planes[0, i] = gain * (start[i] / (1 - power) if short else start[i])
    for k in range(1, size):
        for i in range(width):
            planes[k, i] = gain * planes[k, i] + pole * planes[k - 1, i]
    last = np.float32(POLE / (POLE * POLE - 1))
    for i in range(width):
        planes[-1, i] = last * (planes[-1, i] + pole * planes[-2, i])
    for k in range(size - 2, -1, -1):
        for i in range(width):
            planes[k, i] = pole * (planes[k + 1, i] - planes[k, i])


@_compiled
def _place_row(row, z, y, starts, scale, cells, places, found):  # type: ignore[no-untyped-def]
    """Write the positions of a target row in the image, ``found (3, x)``, voxels."""
    last = row.shape[1] - 1
    for i in range(found.shape[1]):
        x0, fx = cells[i], places[i]
        x1 = min(x0 + 1, last)
        found[0, i] = z + scale[0] * (row[0, x0] * (1 - fx) + row[0, x1] * fx)
        found[1, i] = y + scale[1] * (row[1, x0] * (1 - fx) + row[1, x1] * fx)
        found[2, i] = starts[i] + scale[2] * (row[2, x0] * (1 - fx) + row[2, x1] * fx)


@_compiled
def _inside(place, shape):  # type: ignore[no-untyped-def]
    """Return whether a position is in the image, edges of outer voxels included."""
    return (
        -0.5 <= place[0] <= shape[0] - 0.5
        and -0.5 <= place[1] <= shape[1] - 0.5
        and -0.5 <= place[2] <= shape[2] - 0.5
    )


@_compiled
def _cubic_taps(place, size, taps, weights):  # type: ignore[no-untyped-def]
    """Write the four voxels of an axis and their weights, mirrored at its ends."""
    if size == 1:
        taps[:] = 0
        weights[:] = 0
        weights[1] = 1
        return
    place = min(max(place, 0.0), size - 1.0)
    base = min(int(place), size - 2)
    t = np.float32(place - base)
    s = np.float32(1) - t
    sixth = np.float32(1 / 6)
    weights[0] = s * s * s * sixth
    weights[1] = np.float32(2 / 3) - t * t * (np.float32(1) - np.float32(0.5) * t)
    weights[2] = np.float32(2 / 3) - s * s * (np.float32(1) - np.float32(0.5) * s)
    weights[3] = t * t * t * sixth
    for n in range(4):
        tap = abs(base - 1 + n)
        taps[n] = tap if tap < size else 2 * (size - 1) - tap


@_compiled
def _cell_is_known(known, place):  # type: ignore[no-untyped-def]
    """Return whether linear interpolation at a position uses known voxels only."""
    nz, ny, nx = known.shape
    z = int(min(max(place[0], 0.0), nz - 1.0))
    y = int(min(max(place[1], 0.0), ny - 1.0))
    x = int(min(max(place[2], 0.0), nx - 1.0))
    for k in range(z, min(z + 2, nz)):
        for j in range(y, min(y + 2, ny)):
            for i in range(x, min(x + 2, nx)):
                if not known[k, j, i]:
                    return False
    return True


@_compiled
def _pull_cubic(  # type: ignore[no-untyped-def]
    coefficients, known, limits, field, cells, places, start, scale, out
):
    """Pull a B-spline through ``field``; outside the image ``out`` is not changed.

    Values are limited to the range of ``limits`` in the cell, unless it is empty.
    """
    shape = coefficients.shape
    row = np.empty((3, field.shape[3]), np.float32)
    found = np.empty((3, out.shape[2]))
    taps = np.empty((3, 4), np.int64)
    weights = np.empty((3, 4), np.float32)
    complete = known.all()
    for k in range(out.shape[0]):
        for j in range(out.shape[1]):
            field_row(field, cells[0][k], places[0][k], cells[1][j], places[1][j], row)
            _place_row(
                row, start[0][k], start[1][j], start[2], scale, cells[2], places[2],
                found,
            )  # fmt: skip
            for i in range(out.shape[2]):
                place = found[:, i]
                if not _inside(place, shape):
                    continue
                if not complete and not _cell_is_known(known, place):
                    out[k, j, i] = np.nan
                    continue
                for axis in range(3):
                    _cubic_taps(place[axis], shape[axis], taps[axis], weights[axis])
                total = np.float32(0)
                for a in range(4):
                    if weights[0, a] == 0:
                        continue
                    plane = np.float32(0)
                    for b in range(4):
                        line = np.float32(0)
                        for c in range(4):
                            value = coefficients[taps[0, a], taps[1, b], taps[2, c]]
                            line += weights[2, c] * value
                        plane += weights[1, b] * line
                    total += weights[0, a] * plane
                if limits.size:
                    low = high = limits[taps[0, 1], taps[1, 1], taps[2, 1]]
                    for corner in range(1, 8):
                        value = limits[
                            taps[0, 1 + corner // 4],
                            taps[1, 1 + corner // 2 % 2],
                            taps[2, 1 + corner % 2],
                        ]
                        low, high = min(low, value), max(high, value)
                    total = min(max(total, low), high)
                out[k, j, i] = total


@_compiled
def _find_uniform(labels, uniform):  # type: ignore[no-untyped-def]
    """Write into ``uniform[1]`` where a label and its 26 neighbours are the same.

    Together they have the majority at every position in the central voxel: with the
    Gaussian at least 0.8 of the weight along an axis, which is 0.53 of all.

    Axis by axis, neighbours must be uniform so far and have the same label.
    """
    uniform[0] = True
    nz, ny, nx = labels.shape
    for axis in range(3):
        dz, dy, dx = int(axis == 0), int(axis == 1), int(axis == 2)
        for z in range(nz):
            for y in range(ny):
                for x in range(nx):
                    same = True
                    for step in range(-1, 2):
                        k, j, i = z + step * dz, y + step * dy, x + step * dx
                        if 0 <= k < nz and 0 <= j < ny and 0 <= i < nx:
                            same &= uniform[0, k, j, i]
                            same &= labels[k, j, i] == labels[z, y, x]
                    uniform[1, z, y, x] = same
        uniform[0] = uniform[1]


@_compiled
def _vote_weights(place, size, gaussian, weights):  # type: ignore[no-untyped-def]
    """Write the weights of an axis; return the first voxel that votes, and a count."""
    if size == 1:
        weights[0] = 1
        return 0, 1
    if not gaussian:
        place = min(max(place, 0.0), size - 1.0)
        base = min(int(place), size - 2)
        weights[0], weights[1] = 1 - (place - base), place - base
        return base, 2
    first = max(int(np.floor(place + 0.5 - SIGMA_VOXELS * CUTOFF)), 0)
    last = min(int(np.ceil(place + 0.5 + SIGMA_VOXELS * CUTOFF)), size)
    scale = 1 / (math.sqrt(2.0) * SIGMA_VOXELS)
    below = math.erf((first - 0.5 - place) * scale)
    for n in range(last - first):
        above = math.erf((first + n + 0.5 - place) * scale)
        weights[n] = above - below
        below = above
    return first, last - first


@_compiled
def _pull_votes(  # type: ignore[no-untyped-def]
    labels, uniform, gaussian, field, cells, places, start, scale, out
):
    """Pull labels through ``field`` by the votes of the voxels around each position."""
    shape = labels.shape
    row = np.empty((3, field.shape[3]), np.float32)
    found = np.empty((3, out.shape[2]))
    wz, wy, wx = (
        np.empty(2 * REACH + 2),
        np.empty(2 * REACH + 2),
        np.empty(2 * REACH + 2),
    )
    seen = np.empty((2 * REACH + 2) ** 3, labels.dtype)
    votes = np.empty((2 * REACH + 2) ** 3)
    for k in range(out.shape[0]):
        for j in range(out.shape[1]):
            field_row(field, cells[0][k], places[0][k], cells[1][j], places[1][j], row)
            _place_row(
                row, start[0][k], start[1][j], start[2], scale, cells[2], places[2],
                found,
            )  # fmt: skip
            for i in range(out.shape[2]):
                place = found[:, i]
                if not _inside(place, shape):
                    continue
                z = min(int(np.floor(place[0] + 0.5)), shape[0] - 1)
                y = min(int(np.floor(place[1] + 0.5)), shape[1] - 1)
                x = min(int(np.floor(place[2] + 0.5)), shape[2] - 1)
                if uniform[z, y, x]:
                    out[k, j, i] = labels[z, y, x]
                    continue
                z0, nz = _vote_weights(place[0], shape[0], gaussian, wz)
                y0, ny = _vote_weights(place[1], shape[1], gaussian, wy)
                x0, nx = _vote_weights(place[2], shape[2], gaussian, wx)
                # The nearest voxel's label is first, so that it wins ties.
                seen[0], votes[0], count, at = labels[z, y, x], 0.0, 1, 0
                for a in range(nz):
                    for b in range(ny):
                        weight = wz[a] * wy[b]
                        for c in range(nx):
                            label = labels[z0 + a, y0 + b, x0 + c]
                            if seen[at] != label:
                                at = 0
                                while at < count and seen[at] != label:
                                    at += 1
                                if at == count:
                                    seen[at], votes[at] = label, 0.0
                                    count += 1
                            votes[at] += weight * wx[c]
                best = 0
                for n in range(1, count):
                    if votes[n] > votes[best]:
                        best = n
                out[k, j, i] = seen[best]
