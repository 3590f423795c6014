"""Planes through a displacement field.

Only the plane is read of a field, and for gradients the points next to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import dask
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xdreg.errors import InputError
from xdreg.fields.displacement import open_displacement, ordered_displacement
from xdreg.fields.field import field_grid
from xdreg.fields.measures import jacobian_determinant
from xdreg.fields.preimage import affine_part
from xdreg.numerics import kernels
from xdreg.views.planes import Plane, checked_cut, cut_at

#: Most pixels of a field's picture along an axis.
FIELD_PIXELS = 1024

#: Most points of a field in a plane, all of which are read.
MOST_POINTS = 10**10

#: An affine part with a smaller determinant is not inverted.
LEAST_DETERMINANT = 1e-6


@dataclass(frozen=True)
class FieldPlane:
    """A displacement field in a plane of its own grid, perhaps with a stride.

    ``displacement`` and ``local`` are ``(ndim, rows, columns)`` in physical units.
    ``local`` is without the field's affine part, as distances in the fixed image.
    ``jacobian`` ``(rows, columns)`` is the smallest among the points of each pixel.
    """

    plane: Plane
    displacement: NDArray[np.float32]
    local: NDArray[np.float64]
    jacobian: NDArray[np.float32]

    def vectors(self, *, affine: bool) -> NDArray[np.floating]:
        """Return the displacement, with the field's affine part or without."""
        return self.displacement if affine else self.local

    def length(self, *, affine: bool) -> NDArray[np.floating]:
        """Return the length of the displacement, ``(rows, columns)``."""
        return np.asarray(np.linalg.norm(self.vectors(affine=affine), axis=0))

    def components(self, *, affine: bool) -> NDArray[np.floating]:
        """Return the parts of the displacement along rows and along columns."""
        return self.vectors(affine=affine)[list(self.plane.axes)]


def field_plane(
    field: xr.Dataset,
    cut: str | None = None,
    at: float | None = None,
    *,
    anatomical: bool = False,
) -> FieldPlane:
    """Read a field in the plane of `checked_cut` and `cut_at`."""
    grid = field_grid(field)
    plane = cut_at(grid, checked_cut(grid, cut), at)
    if math.prod(plane.shape) > MOST_POINTS:
        msg = (
            f"the field has {math.prod(plane.shape):.3g} points in the plane to draw; "
            f"expected at most {MOST_POINTS:.0e}. Sample it on a coarser grid first: "
            "xdreg.compose(field, like=...)"
        )
        raise InputError(msg)
    step = max(1, -(-max(plane.shape) // FIELD_PIXELS))
    every = dict.fromkeys(plane.dims, step)
    slab, inner = ordered_displacement(field, grid), {}
    if plane.cut is not None and plane.position is not None:
        axis = grid.dims.index(plane.cut)
        index = round((plane.position - grid.origin[axis]) / grid.spacing[axis])
        start = max(index - 1, 0)
        slab = slab.isel({plane.cut: slice(start, index + 2)})
        inner = {plane.cut: index - start}
    jacobian = jacobian_determinant(xr.Dataset({"displacement": slab}))
    jacobian = jacobian.isel(inner).drop_vars(grid.dims, errors="ignore")
    # The smallest of a pixel, so that no fold is lost between two pixels.
    smallest = jacobian.coarsen(every, boundary="pad").min()
    values = slab.isel(inner).isel({d: slice(None, None, step) for d in plane.dims})
    vectors, determinants = dask.compute(values.data, smallest.data)
    steps = [every.get(dim, 1) for dim in grid.dims]
    picture = Plane(plane.grid.strided(steps), plane.cut, anatomical)
    vectors = np.asarray(vectors, np.float32)
    local = _local_part(vectors, picture, affine_part(open_displacement(field)))
    return FieldPlane(picture, vectors, local, np.asarray(determinants, np.float32))


def field_plane_near(field: xr.Dataset, plane: Plane) -> FieldPlane:
    """Read a field in a plane of the fixed image, or the nearest that it reaches."""
    at = plane.position
    if plane.cut is not None and at is not None:
        grid = field_grid(field)
        low, high = (float(v[grid.dims.index(plane.cut)]) for v in grid.bounds)
        at = min(max(at, low), high)
    return field_plane(field, plane.cut, at, anatomical=plane.anatomical)


def _local_part(
    displacement: NDArray[np.float32], plane: Plane, matrix: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return a displacement without an affine transform, which is undone after it."""
    points = kernels.grid_points(plane.grid).T
    moved = points + displacement.reshape(points.shape)
    linear, shift = matrix[:-1, :-1], matrix[:-1, -1:]
    if abs(np.linalg.det(linear)) < LEAST_DETERMINANT:
        linear = np.eye(len(linear))
    back = np.linalg.solve(linear, moved - shift)
    return np.asarray((back - points).reshape(displacement.shape))
