"""Compiled trilinear interpolation in the cell of eight voxels around a position.

Arrays are flat. Offsets are unsigned, which saves the test for negative indices.
"""

from __future__ import annotations

import numpy as np

from xdreg.numerics.filters import inlined


@inlined
def cell(position, size):  # type: ignore[no-untyped-def]
    """Return the voxel before a position, the rest, and the distance off the axis.

    Beyond the ends of the axis its last voxel is repeated.
    """
    zero, last = np.float32(0), np.float32(size - 1)
    # In this order NaN becomes 0, at a NaN distance.
    inside = position if position > zero else zero
    inside = inside if inside < last else last
    base = min(np.int64(inside), max(size - 2, 0))
    return base, np.float32(inside - np.float32(base)), abs(position - inside)


@inlined
def cell_steps(shape, components):  # type: ignore[no-untyped-def]
    """Return the offsets between the voxels of a cell along (z, y, x)."""
    nz, ny, nx = shape
    return (
        np.uintp(components * ny * nx if nz > 1 else 0),
        np.uintp(components * nx if ny > 1 else 0),
        np.uintp(components if nx > 1 else 0),
    )


@inlined
def interpolate(values, at, steps, place):  # type: ignore[no-untyped-def]
    """Interpolate linearly in the cell at offset ``at``."""
    dz, dy, dx = steps
    fz, fy, fx = place
    a, b = values[at], values[at + dy]
    c, d = values[at + dz], values[at + dz + dy]
    a += fx * (values[at + dx] - a)
    b += fx * (values[at + dy + dx] - b)
    c += fx * (values[at + dz + dx] - c)
    d += fx * (values[at + dz + dy + dx] - d)
    near, far = a + fy * (b - a), c + fy * (d - c)
    return near + fz * (far - near)


@inlined
def corner(number, at, steps, place):  # type: ignore[no-untyped-def]
    """Return the offset and the weight of one of a cell's eight corners."""
    weight = np.float32(1)
    for axis in range(3):
        share = place[axis]
        if number >> axis & 1:
            at += steps[axis]
        else:
            share = np.float32(1) - share
        weight *= share
    return at, weight


@inlined
def interpolate_known(values, at, steps, place):  # type: ignore[no-untyped-def]
    """Interpolate among the known corners; NaN if their weight is below one half.

    So a mask is shifted by up to half a voxel, rather than narrowed by a voxel.
    """
    total, known = np.float32(0), np.float32(0)
    for number in range(8):
        there, weight = corner(number, at, steps, place)
        value = values[there]
        if value == value:
            total += weight * value
            known += weight
    return total / known if known >= np.float32(0.5) else np.float32(np.nan)
