"""Resampling by cubic B-splines on arrays of any kind, as `interpolation.Spline`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from xdreg.numerics.arrays import along, blended
from xdreg.numerics.kernels import axis_tables, lift, lift_field

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xdreg.grid import Grid
    from xdreg.numerics.arrays import Array, ArraySpace


def pull_limited(
    space: ArraySpace,
    image: NDArray[np.float32],
    image_grid: Grid,
    displacement: NDArray[np.float32],
    displacement_grid: Grid,
    target: Grid,
) -> NDArray[np.float32]:
    """Resample an image onto a grid; values are limited to those of the voxels around.

    All arrays are of NumPy. The result is NaN outside the image, and where one of the
    voxels around is.
    """
    values = lift(image)
    known = np.isfinite(values)
    if not known.any():
        return np.full(target.shape, np.nan, np.float32)
    filled = values
    if not known.all():
        # The recursive filter would spread a NaN over the image.
        nearest = ndimage.distance_transform_edt(
            ~known, return_distances=False, return_indices=True
        )
        filled = values[tuple(nearest)]
    *axes, scale = axis_tables(target, displacement_grid, image_grid)
    position, inside = _positions(space, lift_field(displacement), axes, scale, values)
    result = space.ndimage.map_coordinates(
        space.put(filled), position, output=np.float32, order=3, mode="mirror"
    )
    before = space.xp.floor(position)
    if not known.all():
        inside &= _in_cells(space, known.astype(np.float32), before, "minimum") > 0.5
    last = along(np.maximum(np.array(values.shape, np.float32) - 2, 0), 0, 4)
    before = space.xp.minimum(before, space.put(last))
    result = space.xp.maximum(result, _in_cells(space, filled, before, "minimum"))
    result = space.xp.minimum(result, _in_cells(space, filled, before, "maximum"))
    found = space.fetch(space.xp.where(inside, result, np.nan))
    return found.reshape(target.shape)


def _positions(
    space: ArraySpace,
    field: NDArray[np.float32],
    axes: Any,
    scale: tuple[float, ...],
    image: NDArray[np.float32],
) -> tuple[Array, Array]:
    """Return where in the image target voxels lie, within it, and which are inside."""
    position = space.put(field)
    cells, places, starts = axes
    for axis, (cell, place) in enumerate(zip(cells, places, strict=True), start=1):
        after = np.minimum(cell + 1, field.shape[axis] - 1)
        low, high, share = map(space.put, (cell, after, place))
        position = blended(space, position, low, high, share, axis)
    for axis, start in enumerate(starts):
        first = space.put(np.asarray(start, np.float32))
        position[axis] *= float(scale[axis])
        position[axis] += along(first, axis, 3)
    last = space.put(along(np.array(image.shape, np.float32) - 1, 0, 4))
    # The image extends to the edges of its outer voxels.
    inside = ((position >= -0.5) & (position <= last + 0.5)).all(axis=0)
    return space.xp.minimum(space.xp.maximum(position, 0.0), last), inside


def _in_cells(
    space: ArraySpace, values: NDArray[np.float32], before: Array, kind: str
) -> Array:
    """Return the least or largest value of the voxels around, by the first of them."""
    size = [min(2, n) for n in values.shape]
    filter_ = getattr(space.ndimage, f"{kind}_filter")
    origin = [-1 if n > 1 else 0 for n in values.shape]
    extremes = filter_(space.put(values), size=size, origin=origin, mode="nearest")
    return space.ndimage.map_coordinates(
        extremes, before, output=np.float32, order=0, mode="nearest"
    )
