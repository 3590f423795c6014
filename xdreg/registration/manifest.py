"""The description of a run by which a work directory recognises it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import dask
import dask.array
import numpy as np
import xarray as xr

from xdreg.errors import InputError
from xdreg.fields.displacement import open_displacement
from xdreg.registration.method_identity import what_is_known
from xdreg.registration.workdir import LIMITS, VOXELS
from xdreg.stores.identity import identity_of
from xdreg.stores.pyramid import Pyramid
from xdreg.stores.readers import source_of

if TYPE_CHECKING:
    from xdreg.grid import Grid
    from xdreg.registration.plan import Plan
    from xdreg.registration.planned_stage import PlannedStage
    from xdreg.registration.source import Mask, PairImage

#: Options that decide when and how a block is stopped, and nothing else.
LIMIT_OPTIONS = ("timeout", "memory_limit", "isolated")

#: Key of what a stage's method uses and of which the content cannot be known.
UNKNOWN = "unknown"

#: Types that a manifest holds as they are.
_PLAIN = (str, int, float, bool, type(None))


def describe_source(pyramid: Pyramid) -> dict[str, Any]:
    """Return the description of an image; a change of its voxels changes it."""
    stored = zip(pyramid.arrays, pyramid.grids, strict=True)
    levels = [(source_of(a), grid) for a, grid in stored if a is not None]
    return _described(str(pyramid.finest.attrs.get("source", "")), levels)


def _described(address: str, levels: Sequence[tuple[Any, Grid]]) -> dict[str, Any]:
    """Return the description of sources on grids, finest first."""
    return {
        "source": address,
        "dtype": str(levels[0][0].dtype),
        "grids": [grid.to_dict() for _, grid in levels],
        VOXELS: [identity_of(source) for source, _ in levels],
    }


def describe_limits(stage: PlannedStage) -> dict[str, Any]:
    """Return the limits of a stage, which may change when a run is resumed."""
    given = {name: getattr(stage.options, name, None) for name in LIMIT_OPTIONS}
    return {name: value for name, value in given.items() if value is not None}


def describe_stage(stage: PlannedStage) -> dict[str, Any]:
    """Return the description of a stage; a change of an option changes it.

    ``UNKNOWN`` lists what is used and cannot be known.
    """
    unknown: list[str] = []
    options = {
        entry.name: _describe_option(getattr(stage.options, entry.name), unknown)
        for entry in fields(stage.options)
        if entry.name not in LIMIT_OPTIONS
    }
    return {
        **({UNKNOWN: unknown} if unknown else {}),
        "name": stage.options.name,
        **options,
        "moving_level": stage.moving_level,
        "block_shape": list(stage.partition.block_shape),
        "overlap": list(stage.partition.overlap),
        "field_step": list(stage.partition.field_step),
    }


def _describe_option(value: Any, unknown: list[str]) -> Any:
    if callable(value):
        return _describe_value(value, _name_of(value), unknown)
    if isinstance(value, Mapping):
        return {
            key: entry
            if isinstance(entry, _PLAIN)
            else _describe_value(entry, f"the option {key!r}", unknown)
            for key, entry in value.items()
        }
    return value


def _describe_value(value: Any, name: str, unknown: list[str]) -> str:
    """Return a name and a token; add what cannot be known to ``unknown``."""
    known = what_is_known(value, name)
    unknown += known.unknown
    return f"{name} {known.token}"


def _name_of(function: Any) -> str:
    if isinstance(function, functools.partial):
        return f"partial of {_name_of(function.func)}"
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def check_known(manifest: Mapping[str, Any]) -> None:
    """Raise if a stage uses what cannot be known and has no version.

    A later call could not find out whether that changed.
    """
    for stage in manifest["stages"]:
        if UNKNOWN in stage and stage["version"] is None:
            msg = (
                f"the method of stage {stage['name']} uses "
                f"{' and '.join(stage[UNKNOWN])}, of which the content cannot be known,"
                " so that workdir could not tell when it changes. Give the stage, "
                "xdreg.Custom, a text to be changed together with it"
            )
            raise InputError(msg, version=...)


def run_manifest(
    plan: Plan, start: Any, fixed: PairImage, moving: PairImage, *, allow_mirror: bool
) -> dict[str, Any]:
    """Return the description of a run by which its work directory recognises it."""
    return {
        **describe_inputs(plan, start, fixed, moving),
        "allow_mirror": allow_mirror,
        "channels": [list(image.channels) for image in (fixed, moving)],
        "stages": [describe_stage(stage) for stage in plan.stages],
        "versions": versions(),
        LIMITS: [describe_limits(stage) for stage in plan.stages],
    }


def describe_fixed(fixed: PairImage) -> dict[str, Any]:
    """Return the description of a fixed image that several runs share."""
    return {
        "fixed": describe_source(fixed.pyramid),
        "fixed_mask": _describe_mask(fixed.mask),
        "channels": list(fixed.channels),
        "versions": versions(),
    }


def describe_inputs(
    plan: Plan, start: Any, fixed: PairImage, moving: PairImage
) -> dict[str, Any]:
    """Return the description of what a run reads, as it is now."""
    return {
        "fixed": describe_source(plan.fixed),
        "moving": describe_source(plan.moving),
        "fixed_mask": _describe_mask(fixed.mask),
        "moving_mask": _describe_mask(moving.mask),
        "initial": _describe_start(start, plan),
    }


def _describe_mask(mask: Mask) -> Any:
    return describe_source(mask) if isinstance(mask, Pyramid) else mask


def _describe_start(start: Any, plan: Plan) -> Any:
    if start is None:
        return None
    if isinstance(start, np.ndarray):
        return start.tolist()
    if isinstance(start, xr.Dataset):
        reader = open_displacement(start)
        return _described("", [(reader.source, reader.grid)])
    # As the run samples it.
    return _token(start, plan.stages[0].partition.field_grid)


def _token(transform: Any, grid: Grid) -> str:
    """Return a token of an ITK transform: of its displacement on a grid."""
    from xdreg.numerics.itk_transforms import displacement_from_itk

    return str(dask.base.tokenize(displacement_from_itk(transform, grid)))


def versions() -> dict[str, str]:
    """Return the versions of the packages that a result depends on."""
    names = "xdreg", "itk-elastix", "numba", "numpy", "xarray", "zarr"
    return {name: version(name) for name in names}
