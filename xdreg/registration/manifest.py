"""The description of a run by which a work directory recognises it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import dask
import dask.array
import numpy as np
import xarray as xr

from xdreg.fields.field import open_displacement
from xdreg.registration.workdir import LIMITS
from xdreg.stores.pyramid import Pyramid
from xdreg.stores.readers import ImageReader, source_of

if TYPE_CHECKING:
    from xdreg.grid import Grid
    from xdreg.registration.planned_stage import PlannedStage
    from xdreg.registration.planning import Plan
    from xdreg.registration.source import Mask, PairImage

#: Options that decide when and how a block is stopped, and nothing else.
LIMIT_OPTIONS = ("timeout", "memory_limit", "isolated")

#: Types that a manifest holds as they are.
_PLAIN = (str, int, float, bool, type(None))


def describe_source(pyramid: Pyramid) -> dict[str, Any]:
    """Return the description of an image; a change of the image changes it."""
    array, grid = pyramid.finest, pyramid.grids[0]
    return {
        "source": str(array.attrs.get("source", "")),
        "token": dask.base.tokenize(ImageReader(source_of(array), grid, grid.dims)),
        "dtype": str(array.dtype),
        "grid": grid.to_dict(),
    }


def _describe_function(function: Any) -> str:
    """Return the name of a function, with a token of its source if that is known."""
    if isinstance(function, functools.partial):
        given = dask.base.tokenize(function.args, function.keywords)
        return f"{_describe_function(function.func)} with {given}"
    named = function if hasattr(function, "__qualname__") else type(function)
    name = f"{named.__module__}.{named.__qualname__}"
    if hasattr(function, "__dask_tokenize__"):
        return f"{name} {dask.base.tokenize(function)}"
    try:
        return f"{name} {dask.base.tokenize(inspect.getsource(named))}"
    except (OSError, TypeError):  # typed into a prompt, or compiled
        return name


def describe_limits(stage: PlannedStage) -> dict[str, Any]:
    """Return the limits of a stage, which may change when a run is resumed."""
    given = {name: getattr(stage.options, name, None) for name in LIMIT_OPTIONS}
    return {name: value for name, value in given.items() if value is not None}


def describe_stage(stage: PlannedStage) -> dict[str, Any]:
    """Return the description of a stage; a change of an option changes it."""
    options = {
        entry.name: _describe_option(getattr(stage.options, entry.name))
        for entry in fields(stage.options)
        if entry.name not in LIMIT_OPTIONS
    }
    return {
        "name": stage.options.name,
        **options,
        "moving_level": stage.moving_level,
        "block_shape": list(stage.partition.block_shape),
        "overlap": list(stage.partition.overlap),
        "field_step": list(stage.partition.field_step),
    }


def _describe_option(value: Any) -> Any:
    if callable(value):
        return _describe_function(value)
    if isinstance(value, Mapping):
        return {
            key: entry if isinstance(entry, _PLAIN) else dask.base.tokenize(entry)
            for key, entry in value.items()
        }
    return value


def run_manifest(
    plan: Plan, start: Any, fixed: PairImage, moving: PairImage
) -> dict[str, Any]:
    """Return the description of a run by which its work directory recognises it."""
    if isinstance(start, np.ndarray):
        begin: Any = start.tolist()
    elif isinstance(start, xr.Dataset):
        begin = dask.base.tokenize(open_displacement(start))
    else:
        begin = None if start is None else _token(start, plan.fixed.grids[-1])
    return {
        "fixed": describe_source(plan.fixed),
        "moving": describe_source(plan.moving),
        "fixed_mask": _describe_mask(fixed.mask),
        "moving_mask": _describe_mask(moving.mask),
        "channels": [list(image.channels) for image in (fixed, moving)],
        "initial": begin,
        "stages": [describe_stage(stage) for stage in plan.stages],
        "versions": versions(),
        LIMITS: [describe_limits(stage) for stage in plan.stages],
    }


def _describe_mask(mask: Mask) -> Any:
    return describe_source(mask) if isinstance(mask, Pyramid) else mask


def _token(transform: Any, grid: Grid) -> str:
    """Return a token of an ITK transform: of its displacement on a coarse grid."""
    from xdreg.numerics.itk_transforms import displacement_from_itk

    return str(dask.base.tokenize(displacement_from_itk(transform, grid)))


def versions() -> dict[str, str]:
    """Return the versions of the packages that a result depends on."""
    names = "xdreg", "itk-elastix", "numba", "numpy", "xarray", "zarr"
    return {name: version(name) for name in names}
