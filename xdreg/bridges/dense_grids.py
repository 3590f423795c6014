"""Fields as dense arrays of positions or voxels, for networks: torch, VoxelMorph.

With ``i`` the index of a moving voxel along an axis of ``n``, `torch.nn.functional.
grid_sample` has it at ``2 i / (n - 1) - 1`` with ``align_corners``, and at
``(2 i + 1) / n - 1`` without.
"""

from __future__ import annotations

from typing import Any

import dask.array
import numpy as np
import xarray as xr

from xdreg.coordinates import grid_of
from xdreg.errors import InputError
from xdreg.fields.composition import between, compose
from xdreg.fields.field import COMPONENT, field_grid, fixed_grid, moving_grid
from xdreg.grid import Grid
from xdreg.stores.pyramid import image_levels


def to_grid(
    field: xr.Dataset,
    like: Any = None,
    *,
    moving: Any = None,
    normalized: bool = True,
    align_corners: bool = False,
) -> xr.DataArray:
    """Return where each voxel of the fixed image lies in the moving one, lazily.

    Parameters
    ----------
    field : Dataset
        A displacement field.
    like : DataArray or DataTree, optional
        Image whose voxels are mapped; by default the fixed image.
    moving : DataArray or DataTree, optional
        The image that is sampled, at the level that is sampled; by default that of the
        field.
    normalized
        Return positions between -1 and 1, for ``torch.nn.functional.grid_sample``.
        Otherwise displacements in voxels, as VoxelMorph's flow: the index in the moving
        image minus that in the fixed.
    align_corners
        As it is given to ``grid_sample``. Without a meaning for displacements.

    Returns
    -------
    DataArray
        Float32, ``([z], y, x, component)`` with components ``x, y, z``; for
        displacements ``(component, [z], y, x)`` with components ``z, y, x``. Both lack
        the axis of a batch: ``torch.from_numpy(grid.values)[None]``.

    Raises
    ------
    InputError
        If the moving image is not known, or units do not convert.

    Examples
    --------
    >>> from xdreg.fields.displacement import make_field
    >>> grid = Grid(("y", "x"), (4, 5), (2.0, 1.0), (0.0, 0.0))
    >>> field = make_field(np.full((2, 4, 5), 2.0, np.float32), grid, moving=grid)
    >>> to_grid(field, normalized=False)[:, 0, 0].values
    array([1., 2.], dtype=float32)
    """
    target = fixed_grid(field) if like is None else _grid(like, "like")
    image = moving_grid(field) if moving is None else _grid(moving, "moving")
    if image is None:
        msg = "the field does not record its moving image; name it"
        raise InputError(msg, moving=...)
    units = field_grid(field).units
    target, image = target.to_units(units, "like"), image.to_units(units, "moving")
    dense = compose(between(field, target, image), like=target)["displacement"].data
    parts = []
    for axis, (n, step, start) in enumerate(
        zip(image.shape, image.spacing, image.origin, strict=True)
    ):
        shape = [1] * target.ndim
        shape[axis] = -1
        centres = target.axis(target.dims[axis]).reshape(shape)
        index = (dense[axis].astype(np.float64) + centres - start) / step
        if not normalized:
            index = index - np.arange(target.shape[axis]).reshape(shape)
        elif align_corners:
            index = 2 * index / max(n - 1, 1) - 1
        else:
            index = (2 * index + 1) / n - 1
        parts.append(index.astype(np.float32))
    names = list(target.dims)
    if normalized:
        data = dask.array.stack(parts[::-1], axis=-1)
        return xr.DataArray(data, {COMPONENT: names[::-1]}, (*names, COMPONENT))
    return xr.DataArray(
        dask.array.stack(parts), {COMPONENT: names}, (COMPONENT, *names)
    )


def _grid(image: Any, name: str) -> Grid:
    return grid_of(image_levels(image, name)[0], name)
