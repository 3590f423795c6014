"""Reading of OME-Zarr metadata, which is used or refused, never trusted.

Axis names are read in any case, and in any order. Spacing and origin are composed from
the numbers in the store.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from xdreg.coordinates import DIRECTION, OTHER_DIMS
from xdreg.errors import StoreError
from xdreg.grid import SPATIAL_DIMS, is_finite, normalise_units, unit_ratio
from xdreg.stores.nodes import open_array
from xdreg.stores.ome_checks import MOST_LEVELS, check_levels, check_unit
from xdreg.stores.systems import PIXELS_FROM_CORNERS, steps_to_system

if TYPE_CHECKING:
    from collections.abc import Sequence

    import zarr


#: Versions that are read; those of drafts have a suffix.
_KNOWN = re.compile(r"0\.[1-6](?:[.-].*)?|unknown")


@dataclass(frozen=True)
class LevelMetadata:
    """Dims of a level as stored, by their lower-case names, and its scale."""

    dims: tuple[str, ...]
    scale: dict[str, float]
    translation: dict[str, float]


@dataclass(frozen=True)
class ImageMetadata:
    """What a store says of an image. ``channels`` are entries of its ``omero``.

    ``units`` is that of all space axes, ``orientations`` are the directions of axes
    (RFC-4). ``direction`` is that of an oblique volume, as xdreg writes it.
    """

    name: str
    version: str
    levels: list[tuple[zarr.Array[Any], LevelMetadata]]
    units: str | None
    time_units: str | None
    channels: list[dict[str, Any]]
    orientations: dict[str, str]
    direction: Any


def read_metadata(
    address: str, group: zarr.Group, coordinate_system: str | None = None
) -> ImageMetadata:
    """Return the metadata of an image.

    ``coordinate_system`` chooses one of several that a store of spatialdata names.
    """
    attrs: dict[str, Any] = dict(group.attrs)
    ome = attrs.get("ome", attrs)
    declared = multiscale_of(address, ome)
    arrays = [level_array(address, group, d) for d in declared["datasets"]]
    axes = _checked_axes(address, declared, arrays)
    dims = tuple(axis["name"] for axis in axes)
    version = str(ome.get("version", declared.get("version", "unknown")))
    if not _KNOWN.fullmatch(version):
        msg = f"{address} is OME-Zarr {version}; expected 0.4, 0.5 or 0.6"
        raise StoreError(msg)
    units, ratios = _units_and_ratios(address, axes, arrays[0].shape)
    levels = []
    for dataset, array in zip(declared["datasets"], arrays, strict=True):
        scale, translation = _level_steps(
            address, declared, dataset, dims, coordinate_system, version
        )
        level = LevelMetadata(
            dims,
            dict(zip(dims, np.multiply(scale, ratios).tolist(), strict=True)),
            dict(zip(dims, np.multiply(translation, ratios).tolist(), strict=True)),
        )
        levels.append((array, level))
    check_levels(address, levels)
    omero = attrs.get("omero", ome.get("omero"))
    extra = attrs.get("xdreg")
    time = next((axis for axis in axes if axis["name"] == "t"), {})
    return ImageMetadata(
        name=_text(declared.get("name") or "image"),
        version=version,
        levels=levels,
        units=units,
        time_units=_text(time["unit"]) if time.get("unit") else None,
        channels=_dicts(omero, "channels"),
        orientations=_orientations(axes),
        direction=extra.get(DIRECTION) if isinstance(extra, dict) else None,
    )


def _level_steps(
    address: str,
    declared: dict[str, Any],
    dataset: dict[str, Any],
    dims: tuple[str, ...],
    coordinate_system: str | None,
    version: str,
) -> tuple[list[float], list[float]]:
    """Return scale and translation of a level."""
    steps = steps_of(address, dataset)
    further = steps_of(address, declared)
    if version.endswith(PIXELS_FROM_CORNERS):
        half = [0.0 if dim in OTHER_DIMS else 0.5 for dim in dims]
        further = steps_to_system(address, further, coordinate_system)
        # The centre of a voxel of spatialdata is half a voxel from its first corner.
        steps = [{"type": "translation", "translation": half}, *steps, *further]
    elif coordinate_system is not None:
        msg = (
            f"{address} has no alternative coordinate systems, as stores of "
            f"spatialdata have; leave out coordinate_system={coordinate_system!r}"
        )
        raise StoreError(msg)
    elif "coordinateSystems" not in declared and steps:
        # From 0.6 on, those of the multiscale lead to other coordinate systems.
        steps += further
    return composed_scale(address, dataset["path"], steps, len(dims))


def _units_and_ratios(
    address: str, axes: Sequence[Mapping[str, Any]], shape: Sequence[int]
) -> tuple[str | None, list[float]]:
    """Return the unit of the space axes, and the factor of each axis to it.

    An axis of one voxel needs no unit.
    """
    units = [normalise_units(axis.get("unit")) for axis in axes]
    space = [i for i, axis in enumerate(axes) if axis["name"] in SPATIAL_DIMS]
    wide = [units[i] for i in space if shape[i] > 1] or [units[i] for i in space]
    target = wide[-1]
    if len({unit is None for unit in wide}) > 1:
        found = {axes[i]["name"]: units[i] for i in space}
        msg = (
            f"{address} has space axes in different units {found}; give all a unit in "
            "the metadata of the store"
        )
        raise StoreError(msg)
    ratios = [1.0] * len(axes)
    for i in space:
        if units[i] is not None and target is not None:
            ratios[i] = unit_ratio(units[i], target, f"{address}: {axes[i]['name']}")
    return target, ratios


def _orientations(axes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the anatomical directions of space axes that have one (RFC-4)."""
    found = {}
    for axis in axes:
        stated = axis.get("orientation")
        value = stated.get("value") if isinstance(stated, dict) else stated
        if axis["name"] in SPATIAL_DIMS and isinstance(value, str):
            found[axis["name"]] = value
    return found


def _text(value: Any) -> str:
    """Return a name as text. JSON may hold halves of characters, which UTF-8 lacks."""
    return str(value).encode(errors="backslashreplace").decode()


def steps_of(address: str, owner: Mapping[str, Any]) -> list[Any]:
    """Return the coordinate transformations of a level, a multiscale or an array."""
    steps = owner.get("coordinateTransformations")
    if not isinstance(steps, list | None):
        msg = f"{address}: 'coordinateTransformations' is {steps!r}; expected a list"
        raise StoreError(msg)
    return [*(steps or ())]


def multiscale_of(address: str, ome: Any) -> dict[str, Any]:
    """Return the first multiscale's metadata as stored."""
    found = ome.get("multiscales") if isinstance(ome, dict) else None
    if not found:
        kind, child = _another_kind(ome) if isinstance(ome, dict) else ("", "")
        if kind:
            msg = f"{address} is an OME-Zarr {kind}, not an image; open {child}"
            raise StoreError(msg)
        msg = (
            f"{address} is a Zarr group without OME-Zarr 'multiscales' metadata; "
            "check the path, an image may lie in a group below it"
        )
        raise StoreError(msg)
    first = found[0] if isinstance(found, list) else None
    datasets = first.get("datasets") if isinstance(first, dict) else None
    if not isinstance(first, dict) or not isinstance(datasets, list) or not datasets:
        msg = f"{address} has 'multiscales' metadata without datasets; correct it"
        raise StoreError(msg)
    if len(datasets) > MOST_LEVELS:
        msg = (
            f"{address}: 'datasets' lists {len(datasets)} levels; expected at most "
            f"{MOST_LEVELS}"
        )
        raise StoreError(msg)
    return first


def _another_kind(ome: dict[str, Any]) -> tuple[str, str]:
    """Return the kind of a group that is no image, and what to open instead."""
    if "scene" in ome:
        steps = _dicts(ome["scene"], "coordinateTransformations")
        ends = [step.get(end) for step in steps for end in ("input", "output")]
        paths = {str(e["path"]) for e in ends if isinstance(e, dict) and e.get("path")}
        images = f"one of {sorted(paths)}" if paths else "an image"
        return "scene", f"{images} below it, or a field with xdreg.open_field"
    if "plate" in ome:
        wells = _dicts(ome["plate"], "wells") or [{}]
        path = wells[0].get("path", "A/1")
        return "plate", f"an image of a well, for example '{path}/0'"
    if "well" in ome:
        fields = [image.get("path") for image in _dicts(ome["well"], "images")]
        return "well", f"one of {fields} below it"
    if "labels" in ome:
        return "labels group", f"one of {ome['labels']} below it"
    if "bioformats2raw.layout" in ome:
        return "collection", "a series below it, for example '0'"
    return "", ""


def _dicts(owner: Any, key: str) -> list[dict[str, Any]]:
    """Return the objects in a list of metadata, without values of other types."""
    values = owner.get(key) if isinstance(owner, dict) else None
    if not isinstance(values, list):
        return []
    return [value for value in values if isinstance(value, dict)]


def level_array(address: str, group: zarr.Group, dataset: Any) -> zarr.Array[Any]:
    """Return the array of a level."""
    path = dataset.get("path") if isinstance(dataset, dict) else None
    return open_array(address, group, path, "dataset")


#: Dims by the type of their axis, where the name says nothing.
_DIMS = {"time": "t", "channel": "c"}


def _checked_axes(
    address: str, declared: dict[str, Any], arrays: Sequence[zarr.Array[Any]]
) -> list[dict[str, Any]]:
    """Return the axes with lower-case names: t, c, z, y, x."""
    axes = axes_of(declared)
    if not axes or not all(isinstance(axis, dict) for axis in axes):
        msg = f"{address} has no axes with names and types; expected OME-Zarr from 0.4"
        raise StoreError(msg)
    if not all(isinstance(axis.get("name"), str) for axis in axes):
        msg = (
            f"{address} has the axes {axes}; expected each to have a 'name' and a "
            "'type', z, y and x of type 'space'; correct the metadata"
        )
        raise StoreError(msg)
    named = [axis | {"name": _dim_of(axis)} for axis in axes]
    names = [axis["name"] for axis in named]
    space = tuple(d for d in SPATIAL_DIMS if d in names)
    twice = len(set(names)) < len(names)
    unknown = set(names) - {*SPATIAL_DIMS, *OTHER_DIMS}
    if twice or unknown or space not in (SPATIAL_DIMS, SPATIAL_DIMS[1:]):
        found = [(axis["name"], axis.get("type")) for axis in axes]
        msg = (
            f"{address} has the axes {found}; expected z, y, x or y, x of type "
            "'space', and optionally t and c, in any order; correct the metadata"
        )
        raise StoreError(msg)
    for axis in named:
        check_unit(address, axis)
    ranks = {array.path: array.ndim for array in arrays}
    if set(ranks.values()) != {len(names)}:
        msg = f"{address} has the axes {names}, but levels of other ranks: {ranks}"
        raise StoreError(msg)
    return named


def _dim_of(axis: Mapping[str, Any]) -> str:
    """Return the dim of an axis, or its own name if it is none."""
    name, kind = str(axis["name"]).lower(), axis.get("type")
    if name in SPATIAL_DIMS:
        return name if kind in ("space", None) else f"{name} of type {kind}"
    if kind is None:
        return name
    return _DIMS.get(str(kind), str(axis["name"]))


def axes_of(declared: dict[str, Any]) -> list[Any]:
    """Return the axes of the datasets' coordinate system, as stored."""
    systems = declared.get("coordinateSystems")
    if not isinstance(systems, list) or not systems:
        axes = declared.get("axes")
        return axes if isinstance(axes, list) else []
    # That system may be anywhere in the list.
    steps = _dicts(declared["datasets"][0], "coordinateTransformations")
    end = steps[0].get("output") if steps else None
    name = end.get("name") if isinstance(end, dict) else end
    known = _dicts(declared, "coordinateSystems")
    named = [system for system in known if system.get("name") == name]
    axes = next((system.get("axes") for system in named or known), None)
    return axes if isinstance(axes, list) else []


def composed_scale(
    address: str, path: str, steps: Sequence[Any], ndim: int
) -> tuple[list[float], list[float]]:
    """Return scale and translation of transformations applied in order."""
    scale, translation = np.ones(ndim), np.zeros(ndim)
    pending = list(steps)
    if not pending:
        msg = (
            f"{address}: the level {path!r} has no coordinateTransformations, so no "
            "spacing; correct the metadata"
        )
        raise StoreError(msg)
    while pending:
        step = pending.pop(0)
        kind = step.get("type") if isinstance(step, dict) else None
        values: Any = step.get(kind) if kind in ("scale", "translation") else None
        inner = step.get("transformations") if kind == "sequence" else None
        if isinstance(inner, list):
            pending = [*inner, *pending]
        elif _are_numbers(values, ndim) and kind == "translation":
            translation += values
        elif _are_numbers(values, ndim):
            if min(values) <= 0:
                msg = (
                    f"{address}: the level {path!r} has a scale of {values}; "
                    "expected numbers above zero. Correct the metadata"
                )
                raise StoreError(msg)
            scale *= values
            translation *= values
        elif kind != "identity":
            msg = (
                f"{address}: the level {path!r} has a transformation {step}; expected "
                f"scale and translation of {ndim} numbers. Resample the image to axes "
                "of its own first"
            )
            raise StoreError(msg)
    return scale.tolist(), translation.tolist()


def _are_numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(is_finite(value) for value in values)
    )
