"""Where an image is resampled to: another image's grid, a spacing, a region."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xdreg.coordinates import grid_of
from xdreg.errors import InputError
from xdreg.fields.field import (
    field_grid,
    fixed_grid,
)
from xdreg.grid import Grid, is_finite, positive_per_axis
from xdreg.stores.pyramid import image_levels

if TYPE_CHECKING:
    import xarray as xr

    from xdreg.grid import Grid

    Spacing = float | Sequence[float] | None
    Region = Mapping[str, slice] | None
    from collections.abc import Sequence


#: A last voxel is made for no less than this share of one.
LEAST_VOXEL = 1e-6


def resampling_grid(
    field: xr.Dataset,
    like: xr.DataArray | xr.DataTree | None = None,
    spacing: Spacing = None,
    region: Region = None,
) -> Grid:
    """Return the grid to resample onto.

    Parameters
    ----------
    field : Dataset
        A displacement field; without ``like`` the grid is its fixed image's.
    like
        Whose grid to take, in the units of the fixed image; of a tree, the finest
        level's.
    spacing
        Distance of voxels, one number or one per dim. The first voxel begins where the
        grid does, and all of it is covered.
    region
        By dim a slice of coordinates, both ends included. The voxels of a region lie
        where they do without it.

    Raises
    ------
    InputError
        If the spacing is no positive number, or the region names no dim or is empty.
    """
    grid = fixed_grid(field)
    if like is not None:
        other = grid_of(image_levels(like, "like")[0], "like")
        grid = other.to_units(grid.units, "like")
    if spacing is not None:
        grid = _respaced(grid, spacing)
    return grid if region is None else _part(grid, region)


def _respaced(grid: Grid, spacing: Any) -> Grid:
    values = positive_per_axis(spacing, grid.ndim, "spacing")
    lower, upper = grid.bounds
    shape = [
        max(math.ceil(extent / step - LEAST_VOXEL), 1)
        for extent, step in zip(upper - lower, values, strict=True)
    ]
    return replace(
        grid,
        shape=tuple(shape),
        spacing=values,
        origin=tuple(float(v) for v in lower + np.asarray(values, float) / 2),
    )


def _part(grid: Grid, region: Any) -> Grid:
    if not isinstance(region, Mapping) or not set(region) <= set(grid.dims):
        msg = (
            f"region must map dims among {grid.dims} to slices of coordinates, for "
            f"example {{'x': slice(10.0, 50.0)}}, got {region!r}"
        )
        raise InputError(msg)
    window = []
    for dim, size in zip(grid.dims, grid.shape, strict=True):
        part = region.get(dim, slice(None))
        ends = [part.start, part.stop] if isinstance(part, slice) else [part]
        if not isinstance(part, slice) or part.step is not None:
            ends = ["no plain slice"]
        if not all(end is None or is_finite(end) for end in ends):
            msg = f"region of {dim} must be a slice of two numbers, got {part!r}"
            raise InputError(msg)
        centres = grid.axis(dim)
        first = 0 if ends[0] is None else int(np.searchsorted(centres, ends[0]))
        last = size
        if ends[1] is not None:
            last = int(np.searchsorted(centres, ends[1], side="right"))
        if last <= first:
            msg = (
                f"region of {dim} from {ends[0]} to {ends[1]} holds no voxel; the grid "
                f"goes from {centres[0]:g} to {centres[-1]:g} {grid.units or ''}"
            )
            raise InputError(msg)
        window.append(slice(first, last))
    return grid.window(window)


def grid_like(like: Any) -> Grid | None:
    """Return where a transform is wanted: a grid, or that of an image or a field."""
    if like is None or isinstance(like, Grid):
        return like
    if isinstance(like, xr.Dataset):
        return field_grid(like)
    return grid_of(image_levels(like, "like")[0], "like")
