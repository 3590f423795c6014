"""Kernels that interpolate and compose displacement fields.

Compiled kernels release the GIL, so that blocks run in parallel threads. Arrays of two
dimensions become volumes of one plane, so that both run the same code.

A displacement is ``(ndim, *shape)`` float32 in physical units, its components in the
order of the dims, with ``x_moving = x_fixed + u(x_fixed)``. Fields are interpolated
linearly, as in ITK and OME-Zarr, and extrapolated linearly by at most one cell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from xdreg.grid import Grid
from xdreg.numerics.kernel_files import kernel
from xdreg.numerics.trilinear import cell, cell_steps, interpolate

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[Any]

_compiled = kernel()


@_compiled
def _cell(position, size):  # type: ignore[no-untyped-def]
    """Return the cell of a fractional index, and the position within it."""
    if size == 1:
        return 0, 0.0
    base = int(np.floor(position))
    base = min(max(base, 0), size - 2)
    return base, min(max(position - base, -1.0), 2.0)


@_compiled
def _interpolate(field, pz, py, px, values):  # type: ignore[no-untyped-def]
    """Interpolate ``field (c, z, y, x)`` at a fractional index into ``values (c)``."""
    components, nz, ny, nx = field.shape
    z, fz = _cell(pz, nz)
    y, fy = _cell(py, ny)
    x, fx = _cell(px, nx)
    z1, y1, x1 = min(z + 1, nz - 1), min(y + 1, ny - 1), min(x + 1, nx - 1)
    for c in range(components):
        a = field[c, z, y, x] * (1 - fx) + field[c, z, y, x1] * fx
        b = field[c, z, y1, x] * (1 - fx) + field[c, z, y1, x1] * fx
        d = field[c, z1, y, x] * (1 - fx) + field[c, z1, y, x1] * fx
        e = field[c, z1, y1, x] * (1 - fx) + field[c, z1, y1, x1] * fx
        near, far = a * (1 - fy) + b * fy, d * (1 - fy) + e * fy
        values[c] = near * (1 - fz) + far * fz


@_compiled
def _sample_points(field, index, out):  # type: ignore[no-untyped-def]
    """Interpolate ``field (c, z, y, x)`` at ``index (n, 3)`` into ``out (c, n)``."""
    for n in range(index.shape[0]):
        _interpolate(field, index[n, 0], index[n, 1], index[n, 2], out[:, n])


@_compiled
def _compose(update, before, start, scale, out):  # type: ignore[no-untyped-def]
    """Write ``update(x) + before(x + update(x))``.

    ``start`` is, per axis, the position of every point in cells of ``before``.
    ``scale`` converts a displacement to cells.
    """
    earlier = np.empty(3)
    for k in range(out.shape[1]):
        for j in range(out.shape[2]):
            for i in range(out.shape[3]):
                pz = start[0][k] + scale[0] * update[0, k, j, i]
                py = start[1][j] + scale[1] * update[1, k, j, i]
                px = start[2][i] + scale[2] * update[2, k, j, i]
                _interpolate(before, pz, py, px, earlier)
                for c in range(3):
                    out[c, k, j, i] = update[c, k, j, i] + earlier[c]


@_compiled
def field_row(field, z, fz, y, fy, row):  # type: ignore[no-untyped-def]
    """Interpolate the field in z and y, along a line in x."""
    nz, ny, nx = field.shape[1], field.shape[2], field.shape[3]
    z1, y1 = min(z + 1, nz - 1), min(y + 1, ny - 1)
    w00, w01 = (1 - fz) * (1 - fy), (1 - fz) * fy
    w10, w11 = fz * (1 - fy), fz * fy
    for c in range(3):
        for x in range(nx):
            row[c, x] = (
                w00 * field[c, z, y, x]
                + w01 * field[c, z, y1, x]
                + w10 * field[c, z1, y, x]
                + w11 * field[c, z1, y1, x]
            )


@_compiled
def _resample(field, cells, places, out):  # type: ignore[no-untyped-def]
    """Interpolate ``field`` on a grid; the arguments are those of `_pull_linear`."""
    row = np.empty((3, field.shape[3]), np.float32)
    last = field.shape[3] - 1
    for k in range(out.shape[1]):
        for j in range(out.shape[2]):
            field_row(field, cells[0][k], places[0][k], cells[1][j], places[1][j], row)
            for i in range(out.shape[3]):
                x0, fx = cells[2][i], places[2][i]
                x1 = min(x0 + 1, last)
                for c in range(3):
                    out[c, k, j, i] = row[c, x0] * (1 - fx) + row[c, x1] * fx


@_compiled
def _pull_linear(image, field, cells, places, start, scale, out):  # type: ignore[no-untyped-def]
    """Pull ``image`` through ``field``; outside the image ``out`` is not changed.

    ``cells`` and ``places`` are, per axis, the field cell of every output voxel and the
    position within it. ``start`` is its undisplaced position in image voxels, and
    ``scale`` converts a displacement to image voxels.
    """
    nz, ny, nx = image.shape
    values = image.reshape(-1)
    steps = cell_steps(image.shape, 1)
    row = np.empty((3, field.shape[3]), np.float32)
    last, one = field.shape[3] - 1, np.float32(1)
    for k in range(out.shape[0]):
        for j in range(out.shape[1]):
            field_row(field, cells[0][k], places[0][k], cells[1][j], places[1][j], row)
            for i in range(out.shape[2]):
                x0, fx = cells[2][i], places[2][i]
                x1, gx = min(x0 + 1, last), one - fx
                pz = start[0][k] + scale[0] * (row[0, x0] * gx + row[0, x1] * fx)
                py = start[1][j] + scale[1] * (row[1, x0] * gx + row[1, x1] * fx)
                px = start[2][i] + scale[2] * (row[2, x0] * gx + row[2, x1] * fx)
                z, wz, beyond_z = cell(pz, nz)
                y, wy, beyond_y = cell(py, ny)
                x, wx, beyond_x = cell(px, nx)
                # The image extends to the edges of its outer voxels, as in ITK.
                # NaN compares false.
                if not (beyond_z <= 0.5 and beyond_y <= 0.5 and beyond_x <= 0.5):
                    continue
                at = np.uintp((z * ny + y) * nx + x)
                out[k, j, i] = interpolate(values, at, steps, (wz, wy, wx))


@_compiled
def _pull_nearest(shape, field, cells, places, start, scale, out):  # type: ignore[no-untyped-def]
    """Write the flat index of the nearest image voxel, or -1 outside the image."""
    nz, ny, nx = shape
    row = np.empty((3, field.shape[3]), np.float32)
    last = field.shape[3] - 1
    for k in range(out.shape[0]):
        for j in range(out.shape[1]):
            field_row(field, cells[0][k], places[0][k], cells[1][j], places[1][j], row)
            for i in range(out.shape[2]):
                x0, fx = cells[2][i], places[2][i]
                x1 = min(x0 + 1, last)
                pz = start[0][k] + scale[0] * (row[0, x0] * (1 - fx) + row[0, x1] * fx)
                py = start[1][j] + scale[1] * (row[1, x0] * (1 - fx) + row[1, x1] * fx)
                px = start[2][i] + scale[2] * (row[2, x0] * (1 - fx) + row[2, x1] * fx)
                if (
                    -0.5 <= pz <= nz - 0.5
                    and -0.5 <= py <= ny - 0.5
                    and -0.5 <= px <= nx - 0.5
                ):
                    # Half is rounded up, as in ITK, but not beyond the image.
                    iz = min(int(np.floor(pz + 0.5)), nz - 1)
                    iy = min(int(np.floor(py + 0.5)), ny - 1)
                    ix = min(int(np.floor(px + 0.5)), nx - 1)
                    out[k, j, i] = (iz * ny + iy) * nx + ix
                else:
                    out[k, j, i] = -1


def lift(array: Array, leading: int = 0) -> Array:
    """Insert an axis of one plane before the spatial axes of a 2-D array."""
    if array.ndim - leading == 3:
        return array
    return np.expand_dims(array, leading)


def lift_field(field: Array) -> Array:
    """Return a displacement as ``(3, z, y, x)`` contiguous float32."""
    if field.shape[0] == 2:
        lifted = np.zeros((3, 1, *field.shape[1:]), np.float32)
        lifted[1:, 0] = field
        return lifted
    return np.ascontiguousarray(field, np.float32)


def axis_tables(
    target: Grid, field_grid: Grid, image_grid: Grid
) -> tuple[list[Array], list[Array], list[Array], tuple[float, ...]]:
    """Return the arguments of the pull kernels that depend on the geometry only."""
    centres = [target.axis(dim) for dim in target.dims]
    cells, places = _field_cells(centres, field_grid)
    starts = [
        (values - image_grid.origin[i]) / image_grid.spacing[i]
        for i, values in enumerate(centres)
    ]
    scale = tuple(1.0 / s for s in image_grid.spacing)
    if target.ndim == 2:
        starts, scale = [np.zeros(1), *starts], (1.0, *scale)
    return cells, places, starts, scale


def _field_cells(
    centres: list[Array], field_grid: Grid
) -> tuple[list[Array], list[Array]]:
    """Return, per axis, the field cell of every coordinate, and the position in it."""
    cells, places = [], []
    for i, values in enumerate(centres):
        position = (values - field_grid.origin[i]) / field_grid.spacing[i]
        size = field_grid.shape[i]
        base = np.clip(np.floor(position), 0, max(size - 2, 0))
        place = np.clip(position - base, -1.0, 2.0) if size > 1 else 0.0 * position
        cells.append(base.astype(np.int64))
        places.append(place.astype(np.float32))
    if len(centres) == 2:
        cells.insert(0, np.zeros(1, np.int64))
        places.insert(0, np.zeros(1, np.float32))
    return cells, places


def warp_array(
    image: Array,
    image_grid: Grid,
    displacement: Array,
    displacement_grid: Grid,
    target: Grid,
    *,
    order: Literal[0, 1] = 1,
    fill: float = np.nan,
) -> Array:
    """Resample an image onto a grid through a displacement field.

    ``image`` is the moving image, or the window of it that the target needs.
    ``displacement (ndim, *displacement_grid.shape)`` in physical units is interpolated
    on the fly, without an array on the target grid. Order 1 interpolates linearly and
    returns float32. 0 takes the nearest voxel and keeps the dtype, for labels.
    """
    cells, places, starts, scale = axis_tables(target, displacement_grid, image_grid)
    field = lift_field(displacement)
    axes = (tuple(cells), tuple(places), tuple(starts), scale)
    if order == 1:
        out = np.full(target.shape, fill, np.float32)
        source = np.ascontiguousarray(lift(image), np.float32)
        _pull_linear(source, field, *axes, lift(out))
        return out
    source = np.ascontiguousarray(lift(image))
    index = np.empty(target.shape, np.int64)
    _pull_nearest(source.shape, field, *axes, lift(index))
    values = source.ravel()[np.maximum(index, 0)]
    values[index < 0] = fill
    return values


def sample(field: Array, field_grid: Grid, points: ArrayLike) -> Array:
    """Interpolate a displacement ``(ndim, *shape)`` at physical points ``(n, ndim)``.

    Returns ``(ndim, n)`` float32.
    """
    index = field_grid.physical_to_index(points)
    index = np.pad(index, ((0, 0), (3 - field_grid.ndim, 0)))
    out = np.empty((field.shape[0], len(index)), np.float32)
    source = np.ascontiguousarray(lift(field, leading=1), np.float32)
    _sample_points(source, np.ascontiguousarray(index, np.float64), out)
    return out


def grid_points(grid: Grid) -> Array:
    """Return every voxel centre of a grid, ``(size, ndim)``, in C order."""
    axes = np.meshgrid(*(grid.axis(dim) for dim in grid.dims), indexing="ij")
    return np.stack([axis.ravel() for axis in axes], axis=1)


def resample_displacement(field: Array, field_grid: Grid, grid: Grid) -> Array:
    """Interpolate a displacement ``(ndim, *shape)`` on the points of another grid."""
    if field_grid == grid:
        return np.asarray(field, np.float32)
    cells, places, _, _ = axis_tables(grid, field_grid, field_grid)
    source = lift_field(field)
    out = np.empty((3, *(len(cell) for cell in cells)), np.float32)
    _resample(source, tuple(cells), tuple(places), out)
    return out[-grid.ndim :].reshape(-1, *grid.shape)


def compose_displacements(
    update: Array, grid: Grid, before: Array, before_grid: Grid
) -> Array:
    """Return ``update(x) + before(x + update(x))``, ``(ndim, *grid.shape)`` float32.

    ``update`` on ``grid`` was found on an image pulled through ``before``, the earlier
    displacement.
    """
    _, _, starts, scale = axis_tables(grid, before_grid, before_grid)
    source = lift_field(update)
    out = np.empty_like(source)
    _compose(source, lift_field(before), tuple(starts), scale, out)
    return out[-grid.ndim :].reshape(update.shape)


def moved_bounds(displacement: Array, displacement_grid: Grid, grid: Grid) -> Array:
    """Return the exact physical bounding box ``(2, ndim)`` of the image of a region.

    The region is all points between the first and last voxel centres of ``grid``. It
    may extend beyond the field's grid. The mapping is multilinear within a cell of the
    field, so its extremes are at the corners of cells, clipped to the region. The
    corners of the region alone would miss bumps.
    """
    knots = []
    for dim, step in zip(grid.dims, displacement_grid.spacing, strict=True):
        centres, own = grid.axis(dim), displacement_grid.axis(dim)
        low, high = centres[0], centres[-1]
        # One cell beyond its grid a field becomes constant.
        corners = np.concatenate([[own[0] - step], own, [own[-1] + step]])
        inside = corners[(corners > low) & (corners < high)]
        knots.append(np.unique(np.concatenate([[low], inside, [high]])))
    cells, places = _field_cells(knots, displacement_grid)
    values = np.empty((3, *(len(cell) for cell in cells)), np.float32)
    _resample(lift_field(displacement), tuple(cells), tuple(places), values)
    bounds = np.empty((2, grid.ndim))
    for i, axis in enumerate(knots):
        shape = [1] * values[0].ndim
        shape[3 - grid.ndim + i] = -1
        moved = values[3 - grid.ndim + i] + axis.reshape(shape)
        bounds[:, i] = moved.min(), moved.max()
    return bounds


def affine_displacement(matrix: Array, grid: Grid) -> tuple[Array, Grid]:
    """Return a linear transform as a displacement ``(ndim, 2, ...)``, and its grid.

    The grid has the corners of ``grid`` only: linear interpolation between two points
    per axis reproduces the transform exactly. ``matrix`` is homogeneous.
    """
    spacing = tuple(
        s * max(n - 1, 1) for s, n in zip(grid.spacing, grid.shape, strict=True)
    )
    corners = Grid(grid.dims, (2,) * grid.ndim, spacing, grid.origin, grid.units)
    points = grid_points(corners)
    moved = points @ matrix[:-1, :-1].T + matrix[:-1, -1]
    displacement = (moved - points).T.reshape(-1, *corners.shape)
    return displacement.astype(np.float32), corners
