"""Grids on which results are computed: from ``like``, a spacing, a region."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from xdreg.coordinates import grid_of
from xdreg.errors import InputError
from xdreg.fields.field import field_grid, fixed_grid
from xdreg.grid import Grid, is_finite, positive_per_axis
from xdreg.stores.pyramid import image_levels

Spacing = float | Sequence[float] | None
Region = Mapping[str, slice] | None

#: Smallest share of a voxel at the end of an axis that is given a voxel of its own.
LEAST_VOXEL = 1e-6


def resampling_grid(
    field: xr.Dataset,
    like: xr.DataArray | xr.DataTree | None = None,
    spacing: Spacing = None,
    region: Region = None,
) -> Grid:
    """Return the grid to resample an image onto; parameters as in `warp`.

    Without ``like`` the grid is that of the field's fixed image; the units always are
    the fixed image's. With a spacing, the first voxel starts at the edge of the grid,
    and the whole grid is covered. A region selects voxels and does not move them.
    """
    grid = fixed_grid(field)
    if like is not None:
        other = grid_of(image_levels(like, "like")[0], "like")
        # The field is brought to its axes before.
        field_grid(field).check_direction(other, "like", "the field")
        grid = other.to_units(grid.units, "like")
    if spacing is not None:
        grid = _respaced(grid, spacing)
    return grid if region is None else _part(grid, region)


def _respaced(grid: Grid, spacing: Any) -> Grid:
    """Return a grid over the same extent with another spacing."""
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
    """Return the part of a grid within a region."""
    if not isinstance(region, Mapping) or not set(region) <= set(grid.dims):
        msg = (
            f"region must map dims among {grid.dims} to slices of coordinates, for "
            f"example {{'x': slice(10.0, 50.0)}}, got {region!r}"
        )
        raise InputError(msg)
    window = []
    for dim, size in zip(grid.dims, grid.shape, strict=True):
        part = region.get(dim, slice(None))
        plain = isinstance(part, slice) and part.step is None
        start, stop = (part.start, part.stop) if plain else ("", "")
        if not all(end is None or is_finite(end) for end in (start, stop)):
            msg = f"region of {dim} must be a slice of two numbers, got {part!r}"
            raise InputError(msg)
        centres = grid.axis(dim)
        first = 0 if start is None else int(np.searchsorted(centres, start))
        last = size if stop is None else int(np.searchsorted(centres, stop, "right"))
        if last <= first:
            msg = (
                f"region of {dim} from {start} to {stop} holds no voxel; the grid "
                f"extends from {centres[0]:g} to {centres[-1]:g} {grid.units or ''}"
            )
            raise InputError(msg)
        window.append(slice(first, last))
    return grid.window(window)


def grid_like(like: Any) -> Grid | None:
    """Return the grid of an image or a field; a grid or None is returned as it is."""
    if like is None or isinstance(like, Grid):
        return like
    if isinstance(like, xr.Dataset):
        return field_grid(like)
    return grid_of(image_levels(like, "like")[0], "like")
