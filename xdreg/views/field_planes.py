"""Planes through a displacement field, read for a picture.

Of a field only the plane is read, and for gradients the points beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import dask
import numpy as np
import xarray as xr

from xdreg.fields.field import field_grid, open_displacement, ordered_displacement
from xdreg.fields.measures import jacobian_determinant
from xdreg.fields.preimage import affine_part
from xdreg.numerics import kernels
from xdreg.views.planes import Plane, checked_cut, cut_at
from xdreg.views.viewed import PICTURE_PIXELS

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: An affine part with less than this determinant cannot be taken out.
LEAST_DETERMINANT = 1e-6


@dataclass(frozen=True)
class FieldPlane:
    """A displacement field in a plane of its own grid.

    Parameters
    ----------
    plane
        Where: every so many points of the field.
    displacement : (ndim, *plane.shape) float32, physical units
        The displacement there.
    local : (ndim, *plane.shape) float64, physical units
        What is left of it without the field's affine part, turned back into the fixed
        image: how far from where the affine part comes from does a point come from?
    jacobian : (*plane.shape) float32
        The smallest Jacobian determinant of the points that a pixel stands for.
    """

    plane: Plane
    displacement: NDArray[np.float32]
    local: NDArray[np.float64]
    jacobian: NDArray[np.float32]


def field_plane(
    field: xr.Dataset, cut: str | None = None, at: float | None = None
) -> FieldPlane:
    """Read a field in a plane: the points in it, and those beside it for gradients.

    Parameters
    ----------
    field : Dataset
        A displacement field.
    cut, at
        As of `Viewed.plane`; by default in the middle of the field.

    Returns
    -------
    FieldPlane
    """
    grid = field_grid(field)
    plane = cut_at(grid, checked_cut(grid, cut), at)
    step = max(1, -(-max(plane.shape) // (2 * PICTURE_PIXELS)))
    every = dict.fromkeys(plane.dims, step)
    displacement = ordered_displacement(field, grid)
    slab, inner = displacement, {}
    if plane.cut is not None:
        axis = grid.dims.index(plane.cut)
        index = round(
            (plane.grid.origin[axis] - grid.origin[axis]) / grid.spacing[axis]
        )
        start = max(index - 1, 0)
        slab = displacement.isel({plane.cut: slice(start, index + 2)})
        inner = {plane.cut: index - start}
    jacobian = jacobian_determinant(xr.Dataset({"displacement": slab}))
    # The smallest of several: a fold must not fall between two pixels.
    smallest = jacobian.isel(inner).drop_vars(grid.dims, errors="ignore")
    smallest = smallest.coarsen(every, boundary="pad").min()
    values = slab.isel(inner)
    values = values.isel({d: slice(None, None, k) for d, k in every.items()})
    vectors, determinants = dask.compute(values.data, smallest.data)
    shown = tuple(-(-n // step) if n > 1 else 1 for n in plane.grid.shape)
    wider = tuple(
        s * step if d in plane.dims else s
        for d, s in zip(grid.dims, plane.grid.spacing, strict=True)
    )
    picture = Plane(replace(plane.grid, shape=shown, spacing=wider), plane.cut)
    local = _local_part(
        np.asarray(vectors), picture, affine_part(open_displacement(field))
    )
    return FieldPlane(
        picture,
        np.asarray(vectors, np.float32),
        local,
        np.asarray(determinants, np.float32),
    )


def _local_part(
    displacement: NDArray[np.float32], plane: Plane, matrix: NDArray[np.float64]
) -> NDArray[np.float64]:
    points = kernels.grid_points(plane.grid).T
    moved = points + displacement.reshape(points.shape)
    linear, shift = matrix[:-1, :-1], matrix[:-1, -1:]
    if abs(np.linalg.det(linear)) < LEAST_DETERMINANT:
        linear = np.eye(len(linear))
    back = np.linalg.solve(linear, moved - shift)
    return np.asarray((back - points).reshape(displacement.shape))
