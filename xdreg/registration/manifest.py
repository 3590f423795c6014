"""The description of a run by which a work directory recognises it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from dataclasses import fields
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import dask
import dask.array
import numpy as np
import xarray as xr

from xdreg.fields.field import open_displacement
from xdreg.registration.inputs import Mask
from xdreg.registration.planned_stage import PlannedStage
from xdreg.registration.planning import Plan
from xdreg.registration.workdir import LIMITS
from xdreg.stages import Custom
from xdreg.stores.pyramid import Pyramid
from xdreg.stores.readers import ImageReader, source_of

if TYPE_CHECKING:
    from xdreg.grid import Grid
    from xdreg.stores.channels import Selection


#: Options that decide when and how a block is given up, and nothing else.
LIMIT_OPTIONS = ("timeout", "memory_limit", "isolated")

#: What a manifest tells as it is.
_PLAIN = (str, int, float, bool, type(None))


def describe_source(pyramid: Pyramid) -> dict[str, Any]:
    """Describe an image so that a change of it is noticed."""
    array, grid = pyramid.finest, pyramid.grids[0]
    return {
        "source": str(array.attrs.get("source", "")),
        "token": dask.base.tokenize(ImageReader(source_of(array), grid, grid.dims)),
        "dtype": str(array.dtype),
        "grid": grid.to_dict(),
    }


def _describe_function(function: Any) -> str:
    """Name a function, with a token of its source where there is any."""
    if isinstance(function, functools.partial):
        given = dask.base.tokenize(function.args, function.keywords)
        return f"{_describe_function(function.func)} with {given}"
    named = function if hasattr(function, "__qualname__") else type(function)
    name = f"{named.__module__}.{named.__qualname__}"
    if hasattr(function, "__dask_tokenize__"):
        return f"{name} {dask.base.tokenize(function)}"
    try:
        return f"{name} {dask.base.tokenize(inspect.getsource(named))}"
    except (OSError, TypeError):  # typed in, or compiled
        return name


def describe_limits(stage: PlannedStage) -> dict[str, Any]:
    """Describe what a stage may take: it may change when a run goes on."""
    given = {name: getattr(stage.options, name, None) for name in LIMIT_OPTIONS}
    return {name: value for name, value in given.items() if value is not None}


def describe_stage(stage: PlannedStage) -> dict[str, Any]:
    """Describe a stage so that a change of its options is noticed."""
    options = {f.name: getattr(stage.options, f.name) for f in fields(stage.options)}
    if isinstance(stage.options, Custom):
        options["method"] = _describe_function(stage.options.method)
        if callable(stage.options.reduction):
            options["reduction"] = _describe_function(stage.options.reduction)
        options["options"] = {
            key: value if isinstance(value, _PLAIN) else dask.base.tokenize(value)
            for key, value in stage.options.options.items()
        }
    for name in LIMIT_OPTIONS:
        options.pop(name, None)
    return {
        "name": stage.options.name,
        **options,
        "moving_level": stage.moving_level,
        "block_shape": list(stage.partition.block_shape),
        "overlap": list(stage.partition.overlap),
        "field_step": list(stage.partition.field_step),
    }


def run_manifest(
    plan: Plan,
    start: Any,
    masks: Sequence[Mask],
    select: list[list[dict[str, Selection]]],
) -> dict[str, Any]:
    """Describe a run so that a work directory knows it again."""
    if isinstance(start, np.ndarray):
        begin: Any = start.tolist()
    elif isinstance(start, xr.Dataset):
        begin = dask.base.tokenize(open_displacement(start))
    else:
        begin = None if start is None else _token(start, plan.fixed.grids[-1])
    return {
        "fixed": describe_source(plan.fixed),
        "moving": describe_source(plan.moving),
        "fixed_mask": _describe_mask(masks[0]),
        "moving_mask": _describe_mask(masks[1]),
        "channels": select,
        "initial": begin,
        "stages": [describe_stage(stage) for stage in plan.stages],
        "versions": versions(),
        LIMITS: [describe_limits(stage) for stage in plan.stages],
    }


def _describe_mask(mask: Mask) -> Any:
    return describe_source(mask) if isinstance(mask, Pyramid) else mask


def _token(transform: Any, grid: Grid) -> str:
    """Identify an ITK transform by where it maps a coarse grid."""
    from xdreg.numerics.itk_transforms import displacement_from_itk

    return str(dask.base.tokenize(displacement_from_itk(transform, grid)))


def versions() -> dict[str, str]:
    """Return the versions of the packages that a result depends on."""
    names = "xdreg", "itk-elastix", "numba", "numpy", "xarray", "zarr"
    return {name: version(name) for name in names}
