"""A field made ready for another tool: its unit, its spacing, its affine part.

All of it is lazy but `whole`, for tools that hold a field at once.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import dask.array
import numpy as np
import psutil
import xarray as xr

from xdreg.blocks import per_axis
from xdreg.composition import compose
from xdreg.coordinates import grid_of
from xdreg.errors import InputError
from xdreg.field import (
    field_grid,
    fixed_grid,
    make_field,
    moving_grid,
    open_displacement,
    ordered_displacement,
)
from xdreg.grid import UNIT_METRES, Grid, normalise_units, unit_ratio
from xdreg.multiscale import image_levels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: What ITK, NIfTI, ANTs and elastix take lengths to be in.
MILLIMETRES = "millimeter"

#: Memory that a value of a field takes while it is handed over: read as float32,
#: turned around, and held by the tool in double precision.
BYTES_PER_VALUE = 20


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
    return make_field(
        (data * ratio).astype(np.float32),
        own.to_units(units),
        fixed_grid(field).to_units(units),
        None if moving is None else moving.to_units(units),
    )


def for_tool(
    field: xr.Dataset, units: str | None, convention: str | None, step: int = 1
) -> xr.Dataset:
    """Return a field in the unit that is asked for, or else in that of a tool.

    Parameters
    ----------
    field
        A displacement field.
    units
        Unit that the user asks for.
    convention
        Unit of the tool, to which lengths convert if ``units`` is None; numbers without
        a unit of length stay as they are. None keeps the field's own unit.
    step
        Take every ``step``-th point of the field.
    """
    own = field_grid(field).units
    if units is None:
        units = convention if own in UNIT_METRES and convention is not None else own
    return in_units(coarsened(field, step), units)


def coarsened(field: xr.Dataset, step: int | Sequence[int]) -> xr.Dataset:
    """Return a field on every ``step``-th point of its grid, lazily."""
    grid = field_grid(field)
    steps = per_axis(step, grid.ndim, "step", minimum=1)
    if max(steps) == 1:
        return field
    result = compose(field, like=grid.every(steps))
    moving = moving_grid(field)
    if moving is not None:
        result.attrs["moving_grid"] = json.dumps(moving.to_dict())
    return result.assign_attrs(fixed_grid=json.dumps(fixed_grid(field).to_dict()))


def whole(field: xr.Dataset) -> tuple[NDArray[np.float32], Grid]:
    """Read a field into memory, or say that it does not fit.

    Returns
    -------
    displacement : (ndim, *grid.shape) float32
    grid : Grid

    Raises
    ------
    InputError
        If there is less memory free than handing it over takes.
    """
    grid = field_grid(field)
    needed = grid.ndim * grid.size * BYTES_PER_VALUE
    free = psutil.virtual_memory().available
    if needed > free:
        step = math.ceil((needed / free) ** (1 / grid.ndim))
        msg = (
            f"this tool holds the whole field, {needed / 1e9:.3g} GB at its shape of "
            f"{grid.shape}, and {free / 1e9:.3g} GB are free; coarsen it with "
            f"step={max(step, 2)}, or write OME-Zarr or N5, which are written in chunks"
        )
        raise InputError(msg)
    reader = open_displacement(field)
    return reader.read([slice(0, n) for n in grid.shape])


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
    """
    asked = target_grid(like)
    grid = default
    if asked is not None:
        grid = asked.to_units(units, "like")
    elif grid is None and isinstance(transforms[0], xr.Dataset):
        if len(transforms) == 1:
            return transforms[0]
        grid = field_grid(transforms[0])
    if grid is None:
        msg = (
            f"{place} starts with a transform that has no grid of its own; pass like=, "
            "an image or a field: where it is to be sampled"
        )
        raise InputError(msg)
    field = compose(*transforms, like=grid)
    return field if asked is None else in_units(field, asked.units)
