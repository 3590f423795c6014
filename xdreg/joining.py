"""Transforms that were read, as one field where it is wanted and in that unit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array
import numpy as np
import xarray as xr

from xdreg.composition import compose
from xdreg.coordinates import grid_of
from xdreg.errors import InputError, StoreError
from xdreg.field import (
    field_grid,
    fixed_grid,
    make_field,
    moving_grid,
    ordered_displacement,
)
from xdreg.grid import Grid, normalise_units, unit_ratio
from xdreg.multiscale import image_levels

if TYPE_CHECKING:
    from collections.abc import Sequence


def in_units(field: xr.Dataset, units: str | None) -> xr.Dataset:
    """Return a field with its lengths in another unit, lazily.

    Raises
    ------
    InputError
        If the units do not convert.
    """
    own = field_grid(field)
    if own.units == normalise_units(units):
        return field
    ratio = unit_ratio(own.units, units, "the field")
    data = dask.array.asarray(ordered_displacement(field, own).data)
    moving = moving_grid(field)
    result = make_field(
        (data * ratio).astype(np.float32),
        own.to_units(units),
        fixed_grid(field).to_units(units),
        None if moving is None else moving.to_units(units),
    )
    return result.assign_attrs({**field.attrs, **result.attrs})


def target_grid(like: Any) -> Grid | None:
    """Return where a transform is wanted: a grid, or that of an image or a field."""
    if like is None or isinstance(like, Grid):
        return like
    if isinstance(like, xr.Dataset):
        return field_grid(like)
    return grid_of(image_levels(like, "like")[0], "like")


def joined(
    transforms: Sequence[Any],
    like: Any,
    units: str | None,
    place: str,
    default: Grid | None = None,
) -> xr.Dataset:
    """Return transforms that were read, in the order of application, as one field.

    Parameters
    ----------
    transforms
        Fields, ITK transforms and matrices, all in ``units``.
    like
        Where the field is wanted; by default ``default``, else the grid of the first
        transform. The result is in the unit of ``like`` if that has one.
    units
        Unit of the transforms.
    place
        What was read, to be named in an error.
    default
        A grid that was read with the transforms, in ``units``.

    Raises
    ------
    InputError
        If there is no grid, or units do not convert.
    StoreError
        If there are no transforms.
    """
    if not transforms:
        msg = f"{place} holds no transform"
        raise StoreError(msg)
    asked = target_grid(like)
    grid = default
    if asked is not None:
        grid = asked.to_units(units, "like")
    elif grid is None and isinstance(transforms[0], xr.Dataset):
        if len(transforms) == 1:
            return transforms[0]  # as it is, to the bit
        grid = field_grid(transforms[0])
    if grid is None:
        msg = (
            f"{place} starts with a transform that has no grid of its own; pass like=, "
            "an image or a field: where it is to be sampled"
        )
        raise InputError(msg)
    field = compose(*transforms, like=grid)
    return field if asked is None else in_units(field, asked.units)
