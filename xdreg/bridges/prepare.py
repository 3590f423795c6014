"""Preparation of a field for another tool: unit, coarsening, loading into memory.

Everything is lazy except `whole`, for tools that hold a field in memory. Packages that
are optional, and errors of ITK, are handled here, too.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import importlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import xarray as xr

from xdreg.errors import InputError, StoreError
from xdreg.fields.composition import compose
from xdreg.fields.displacement import in_units, open_displacement
from xdreg.fields.field import facing, field_grid, fixed_grid
from xdreg.grid import UNIT_METRES, Grid, whole_per_axis
from xdreg.numerics import kernels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

#: Unit of length in ITK, NIfTI, ANTs and elastix.
MILLIMETRES = "millimeter"

#: Memory per value of a field during conversion: read as float32, reordered, and held
#: by the tool in double precision.
BYTES_PER_VALUE = 20


def for_tool(
    field: xr.Dataset, units: str | None, convention: str | None, step: int = 1
) -> xr.Dataset:
    """Return a field in the given unit, or else in the unit of a tool.

    The tool's ``convention`` applies if ``units`` is None and the field has a unit of
    length. Without either, the field keeps its own unit.
    """
    own = field_grid(field).units
    if units is None:
        units = convention if own in UNIT_METRES and convention is not None else own
    return in_units(coarsened(field, step), units)


def coarsened(field: xr.Dataset, step: int) -> xr.Dataset:
    """Return a field on every ``step``-th point of its grid, lazily."""
    grid = field_grid(field)
    steps = whole_per_axis(step, grid.ndim, "step", minimum=1)
    if max(steps) == 1:
        return field
    result = compose(field, like=grid.every(steps))
    geometry = {"fixed_grid": json.dumps(fixed_grid(field).to_dict())}
    return result.assign_attrs({**field.attrs, **geometry})


def whole(field: xr.Dataset, step: int = 1) -> tuple[NDArray[np.float32], Grid]:
    """Read a field, coarsened by ``step``, into memory ``(ndim, *grid.shape)``.

    If it does not fit, the error names a larger step that does.
    """
    grid = field_grid(field)
    free = psutil.virtual_memory().available
    if _needed(grid) > free:
        msg = (
            f"this tool holds the whole field, {_needed(grid) / 1e9:.3g} GB at its "
            f"shape of {grid.shape}, and {free / 1e9:.3g} GB are free; write OME-Zarr "
            "or N5, which are written in chunks, or coarsen it"
        )
        raise InputError(msg, step=_fitting_step(grid, step, free))
    return open_displacement(field).read([slice(0, n) for n in grid.shape])


def in_world(field: xr.Dataset, step: int = 1) -> tuple[NDArray[Any], Grid]:
    """Read a field into memory, with vectors along the axes of the world."""
    values, grid = whole(field, step)
    own, moving = grid.to_world[:-1, :-1], facing(field).to_world[:-1, :-1]
    if grid.direction is None and (own == moving).all():
        return values, grid
    points = kernels.grid_points(grid).T.reshape(values.shape)
    moved = np.tensordot(moving, points + values, 1)
    return moved - np.tensordot(own, points, 1), grid


def turned_matrix(
    matrix: NDArray[np.float64], fixed: Grid, moving: Grid
) -> NDArray[np.float64]:
    """Return a matrix between the axes of two images as one in the world."""
    if fixed.direction is None and moving.direction is None:
        return matrix
    return moving.to_world @ matrix @ fixed.from_world


def _needed(grid: Grid) -> int:
    return grid.ndim * grid.size * BYTES_PER_VALUE


def _fitting_step(grid: Grid, step: int, free: float) -> int:
    """Return the smallest step that fits, for a grid coarsened by ``step``."""
    shape = tuple((n - 1) * step + 1 for n in grid.shape)
    finest = dataclasses.replace(grid, shape=shape)
    larger = range(step + 1, max(step + 2, *shape))

    def fits(step: int) -> bool:
        return _needed(finest.every((step,) * grid.ndim)) <= free

    return larger[min(bisect.bisect_left(larger, True, key=fits), len(larger) - 1)]


def needed(module: str, install: str, what: str = "this") -> Any:
    """Import a module of an optional package, or raise and name what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        pip = f"pip install '{install}'" if "[" in install else f"pip install {install}"
        msg = f"{what} needs {module.partition('.')[0]}; {pip}"
        raise InputError(msg) from error


@contextlib.contextmanager
def itk_errors(task: str) -> Iterator[None]:
    """Raise an error of ITK as a `StoreError` that names what ITK cannot do."""
    try:
        yield
    except RuntimeError as error:
        msg = f"ITK cannot {task}: {str(error).strip().splitlines()[-1]}"
        raise StoreError(msg) from error
