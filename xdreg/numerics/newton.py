"""Compiled inversion of a displacement field by Newton's method, point by point.

It uses the trilinear interpolant of the field, cell by cell. Mostly one step suffices,
and the residual after it is known without another evaluation. Otherwise steps that do
not reduce the residual are halved. Where the Jacobian determinant has another sign than
the affine part's, or Newton's method stalls, a fixed-point step with the affine part is
taken (Chen et al., A simple fixed-point approach to invert a deformation field, Medical
Physics 2008).

Everything is three-dimensional, in units of the field's cells from its first point.
Fields are extrapolated linearly by one cell, as everywhere in xdreg. Beyond, the
difference from the affine part is constant, so that the inverse of a rotation is a
rotation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba
import numpy as np

from xdreg.numerics.filters import FAST, compiled, inlined
from xdreg.numerics.trilinear import cell_steps

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: For functions of the innermost loop, which LLVM does not inline by itself.
_inlined: Callable[..., Any] = numba.njit(
    nogil=True, error_model="numpy", fastmath=FAST, inline="always"
)

#: Largest residual of a solution, in cells of the field.
TOLERANCE = 1e-4

#: Most evaluations of the field per point.
MOST_STEPS = 60

#: Least length of a halved step, as a share of the full step.
LEAST_SCALE = 0.02

#: Flags of a point: its preimage is in the fixed image, outside, or does not exist.
INSIDE, OUTSIDE, FOLDED = 0, 1, 2


@inlined
def _cell_and_rest(position, size):  # type: ignore[no-untyped-def]
    """Return the cell, the position in it, and the distance beyond that."""
    if size == 1:
        return 0, np.float32(0.0), 0.0
    base = min(max(int(np.floor(position)), 0), size - 2)
    place = min(max(position - base, -1.0), 2.0)
    return base, np.float32(place), position - base - place


@inlined
def _place(shape, q):  # type: ignore[no-untyped-def]
    """Locate a point in a flat field.

    Return the offset of its cell in ``(z, y, x, 3)``, offsets between the cell's
    corners, the position in the cell, and the distance beyond the extrapolation.
    """
    nz, ny, nx = shape
    z, fz, ez = _cell_and_rest(q[0], nz)
    y, fy, ey = _cell_and_rest(q[1], ny)
    x, fx, ex = _cell_and_rest(q[2], nx)
    # Unsigned: a signed index is tested for being negative.
    at = np.uintp(((z * ny + y) * nx + x) * 3)
    return at, cell_steps(shape, 3), (fz, fy, fx), (ez, ey, ex)


@inlined
def _component(field, at, steps, place):  # type: ignore[no-untyped-def]
    """Interpolate one component: value, slopes along z, y, x, and mixed derivatives.

    Mixed are those by zy, zx, yx and zyx. At a distance ``s`` within the cell the value
    is exactly ``value + slopes·s + zy sz sy + zx sz sx + ...``.
    """
    dz, dy, dx = steps
    fz, fy, fx = place
    a, b = field[at], field[at + dy]
    d, e = field[at + dz], field[at + dz + dy]
    da, db = field[at + dx] - a, field[at + dy + dx] - b
    dd, de = field[at + dz + dx] - d, field[at + dz + dy + dx] - e
    a, b, d, e = a + fx * da, b + fx * db, d + fx * dd, e + fx * de
    near, far = a + fy * (b - a), d + fy * (e - d)
    along, back = da + fy * (db - da), dd + fy * (de - dd)
    zy, zx, zyx = (e - d) - (b - a), back - along, (de - dd) - (db - da)
    slopes = far - near, (b - a) + fz * zy, along + fz * zx
    return near + fz * (far - near), slopes, (zy, zx, (db - da) + fz * zyx, zyx)


@_inlined
def _evaluate(field, shape, linear, t, q):  # type: ignore[no-untyped-def]
    """Return the residual ``q + u(q) - t`` and its derivatives.

    ``field`` is ``(z, y, x, 3)`` flattened, in cells. ``linear`` is the affine part
    minus identity. Also return the gradient of ``q + u(q)``, 9 numbers row by row; for
    each component of u the mixed derivatives as in `_component`; and the place in the
    cell and the rest beyond, as in `_place`.
    """
    at, steps, place, rest = _place(shape, q)
    uz, (zz, zy, zx), of_z = _component(field, at, steps, place)
    uy, (yz, yy, yx), of_y = _component(field, at + np.uintp(1), steps, place)
    ux, (xz, xy, xx), of_x = _component(field, at + np.uintp(2), steps, place)
    f = (q[0] - t[0] + uz, q[1] - t[1] + uy, q[2] - t[2] + ux)
    ez, ey, ex = rest
    # Beyond the extrapolation only the affine part changes.
    if ez != 0.0:
        zz, yz, xz = _column(linear, 0)
    if ey != 0.0:
        zy, yy, xy = _column(linear, 1)
    if ex != 0.0:
        zx, yx, xx = _column(linear, 2)
    if ez != 0.0 or ey != 0.0 or ex != 0.0:
        f = (
            f[0] + linear[0, 0] * ez + linear[0, 1] * ey + linear[0, 2] * ex,
            f[1] + linear[1, 0] * ez + linear[1, 1] * ey + linear[1, 2] * ex,
            f[2] + linear[2, 0] * ez + linear[2, 1] * ey + linear[2, 2] * ex,
        )
    one = np.float32(1.0)
    gradient = (zz + one, zy, zx, yz, yy + one, yx, xz, xy, xx + one)
    residual = np.float32(f[0]), np.float32(f[1]), np.float32(f[2])
    return residual, gradient, (of_z, of_y, of_x), place, rest


@inlined
def _column(matrix, c):  # type: ignore[no-untyped-def]
    return np.float32(matrix[0, c]), np.float32(matrix[1, c]), np.float32(matrix[2, c])


@inlined
def _square(f):  # type: ignore[no-untyped-def]
    return f[0] * f[0] + f[1] * f[1] + f[2] * f[2]


@inlined
def _inverse_matrix(m):  # type: ignore[no-untyped-def]
    """Return the inverse of a 3 × 3 matrix, row by row, and its determinant."""
    a, b, c, d, e, f, g, h, i = m
    k0, k3, k6 = e * i - f * h, f * g - d * i, d * h - e * g
    determinant = a * k0 + b * k3 + c * k6
    r = np.float32(1.0) / determinant
    return (
        k0 * r, (c * h - b * i) * r, (b * f - c * e) * r,
        k3 * r, (a * i - c * g) * r, (c * d - a * f) * r,
        k6 * r, (b * g - a * h) * r, (a * e - b * d) * r,
    ), determinant  # fmt: skip


@inlined
def _times(m, v):  # type: ignore[no-untyped-def]
    return (
        m[0] * v[0] + m[1] * v[1] + m[2] * v[2],
        m[3] * v[0] + m[4] * v[1] + m[5] * v[2],
        m[6] * v[0] + m[7] * v[1] + m[8] * v[2],
    )


@inlined
def _sign_of(m):  # type: ignore[no-untyped-def]
    """Return the sign of the determinant of a 3 × 3 matrix."""
    return np.float32(1.0) if _inverse_matrix(m)[1] > 0.0 else np.float32(-1.0)


@inlined
def _solve(field, shape, linear, back, sign, t, q):  # type: ignore[no-untyped-def]
    """Find ``q`` with ``q + u(q) = t``, starting at the given ``q``.

    Return whether it was found with a determinant of the gradient of this sign, ``q``,
    its residual, and the inverse of the gradient there, 9 numbers.
    """
    f, gradient, _, _, _ = _evaluate(field, shape, linear, t, q)
    least = _square(f)
    inverse, determinant = _inverse_matrix(gradient)
    newton, scale = sign * determinant > 0.0, 1.0
    for _ in range(MOST_STEPS):
        if least < TOLERANCE * TOLERANCE:
            return sign * determinant > 0.0, q, f, inverse
        step = _times(inverse, f) if newton else _times(back, f)
        p = (q[0] - scale * step[0], q[1] - scale * step[1], q[2] - scale * step[2])
        r, gradient, _, _, _ = _evaluate(field, shape, linear, t, p)
        if _square(r) < least:
            q, f, least = p, r, _square(r)
            inverse, determinant = _inverse_matrix(gradient)
            newton, scale = sign * determinant > 0.0, 1.0
        else:
            scale *= 0.5
            if scale < LEAST_SCALE:
                if not newton:
                    break
                newton, scale = False, 1.0
    return False, q, f, inverse


@inlined
def _mixed(m, s):  # type: ignore[no-untyped-def]
    zy, zx, yx, zyx = m
    return s[0] * (zy * s[1] + zx * s[2] + zyx * s[1] * s[2]) + yx * s[1] * s[2]


@inlined
def _still(place, rest, step):  # type: ignore[no-untyped-def]
    """Return whether a step along an axis stays in the cell, or its continuation."""
    if rest != 0.0:
        return rest * (rest + step) > 0.0
    return np.floor(place + step) == np.floor(place)


@_inlined
def _step_within(field, shape, linear, sign, t, q):  # type: ignore[no-untyped-def]
    """Take one step of Newton's method; return the same as `_solve`.

    Within a cell the remaining residual is that of the mixed derivatives, so the field
    need not be evaluated again.
    """
    f, gradient, mixed, place, rest = _evaluate(field, shape, linear, t, q)
    inverse, determinant = _inverse_matrix(gradient)
    step = _times(inverse, f)
    q = (q[0] - step[0], q[1] - step[1], q[2] - step[2])
    within = sign * determinant > 0.0
    for c in range(3):
        within = within and _still(place[c], rest[c], -step[c])
    zero = np.float32(0.0)
    s = (
        zero if rest[0] != 0.0 else -step[0],
        zero if rest[1] != 0.0 else -step[1],
        zero if rest[2] != 0.0 else -step[2],
    )
    f = (_mixed(mixed[0], s), _mixed(mixed[1], s), _mixed(mixed[2], s))
    return within and _square(f) < TOLERANCE * TOLERANCE, q, f, inverse


@inlined
def _flag(found, q, bounds):  # type: ignore[no-untyped-def]
    """Return the flag of a point.

    Outside, without a solution, only the extrapolation of the field folds.
    """
    for c in range(3):
        if not bounds[0, c] <= q[c] <= bounds[1, c]:
            return OUTSIDE
    return INSIDE if found else FOLDED


@inlined
def _guess(start, t):  # type: ignore[no-untyped-def]
    """Return the preimage by the affine part alone."""
    return (
        start[0, 0] * t[0] + start[0, 1] * t[1] + start[0, 2] * t[2] + start[0, 3],
        start[1, 0] * t[0] + start[1, 1] * t[1] + start[1, 2] * t[2] + start[1, 3],
        start[2, 0] * t[0] + start[2, 1] * t[1] + start[2, 2] * t[2] + start[2, 3],
    )


@inlined
def _clipped(q, bounds):  # type: ignore[no-untyped-def]
    return (
        min(max(q[0], bounds[0, 0]), bounds[1, 0]),
        min(max(q[1], bounds[0, 1]), bounds[1, 1]),
        min(max(q[2], bounds[0, 2]), bounds[1, 2]),
    )


@inlined
def _linear_part(start):  # type: ignore[no-untyped-def]
    return (
        start[0, 0], start[0, 1], start[0, 2],
        start[1, 0], start[1, 1], start[1, 2],
        start[2, 0], start[2, 1], start[2, 2],
    )  # fmt: skip


@inlined
def _length(f, spacing):  # type: ignore[no-untyped-def]
    return np.sqrt(
        (f[0] * spacing[0]) ** 2 + (f[1] * spacing[1]) ** 2 + (f[2] * spacing[2]) ** 2
    )


@compiled
def solve_grid(  # type: ignore[no-untyped-def]
    field, shape, linear, start, axes, bounds, spacing, out, flags, residual
):
    """Solve at every point of a grid, starting at the previous solution in its row."""
    back = _linear_part(start)
    sign = _sign_of(back)
    nz, ny, nx = flags.shape
    off = (0.0, 0.0, 0.0)
    for k in range(nz):
        for j in range(ny):
            t = (axes[0][k], axes[1][j], axes[2][0])
            guess = _guess(start, t)
            # Add the difference from the affine part in the previous row.
            q = (guess[0] + off[0], guess[1] + off[1], guess[2] + off[2])
            for i in range(nx):
                p = q
                for _ in range(2):
                    found, p, f, inverse = _step_within(
                        field, shape, linear, sign, t, p
                    )
                    if found:
                        break
                if found:
                    q = p
                else:
                    found, q, f, inverse = _solve(
                        field, shape, linear, back, sign, t, q
                    )
                if not found:
                    again = _clipped(_guess(start, t), bounds)
                    other = _solve(field, shape, linear, back, sign, t, again)
                    if other[0]:
                        found, q, f, inverse = other
                flags[k, j, i] = _flag(found, q, bounds)
                residual[k, j, i] = _length(f, spacing)
                out[0, k, j, i] = spacing[0] * (q[0] - t[0])
                out[1, k, j, i] = spacing[1] * (q[1] - t[1])
                out[2, k, j, i] = spacing[2] * (q[2] - t[2])
                if i == 0:
                    off = (0.0, 0.0, 0.0)
                    if found:
                        off = (q[0] - guess[0], q[1] - guess[1], q[2] - guess[2])
                if i + 1 < nx:
                    ahead = axes[2][i + 1] - t[2]
                    t = (t[0], t[1], axes[2][i + 1])
                    if found:
                        q = (
                            q[0] + inverse[2] * ahead,
                            q[1] + inverse[5] * ahead,
                            q[2] + inverse[8] * ahead,
                        )
                    else:
                        q = _guess(start, t)


@compiled
def solve_points(  # type: ignore[no-untyped-def]
    field, shape, linear, start, points, bounds, spacing, out, flags, residual
):
    """Solve at points ``(n, 3)``; ``out (n, 3)`` is in cells."""
    back = _linear_part(start)
    sign = _sign_of(back)
    for n in range(points.shape[0]):
        t = (points[n, 0], points[n, 1], points[n, 2])
        guess = _guess(start, t)
        found, q, f, _ = _solve(field, shape, linear, back, sign, t, guess)
        if not found:
            again = _clipped(guess, bounds)
            other = _solve(field, shape, linear, back, sign, t, again)
            if other[0]:
                found, q, f, _ = other
        flags[n] = _flag(found, q, bounds)
        residual[n] = _length(f, spacing)
        out[n, 0], out[n, 1], out[n, 2] = q
