"""Reading of OME-Zarr metadata, which is used or refused, never trusted.

ngff-zarr parses it. Spacing and origin are composed here from the numbers in the store,
because ngff-zarr ignores the transformations of the multiscale as a whole, and takes
unknown transformations for the identity.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from xdreg.coordinates import OTHER_DIMS
from xdreg.errors import StoreError
from xdreg.grid import is_finite
from xdreg.stores.nodes import open_array
from xdreg.stores.ome_checks import MOST_LEVELS, check_levels, check_unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    import zarr


def read_metadata(
    address: str, group: zarr.Group
) -> tuple[str, list[tuple[zarr.Array[Any], Any]], str]:
    """Return the image's name, its levels as (array, NgffImage), and its version."""
    import ngff_zarr

    attrs: dict[str, Any] = dict(group.attrs)
    ome = attrs.get("ome", attrs)
    declared = multiscale_of(address, ome)
    arrays = [level_array(address, group, d) for d in declared["datasets"]]
    _check_axes(address, declared, arrays)
    version = str(ome.get("version", declared.get("version", "unknown")))
    try:
        multiscales = ngff_zarr.from_ome_zarr(_metadata_documents(group, arrays))
    # ngff-zarr does not document what it raises.
    except Exception as error:
        msg = f"the OME-Zarr metadata of {address} cannot be read: {error}; correct it"
        raise StoreError(msg) from error
    omero = getattr(multiscales.metadata, "omero", None)
    for dataset, image in zip(declared["datasets"], multiscales.images, strict=True):
        steps = steps_of(address, dataset)
        # From 0.6 on, those of the multiscale lead to other coordinate systems.
        if steps and "coordinateSystems" not in declared:
            steps += steps_of(address, declared)
        scale, translation = composed_scale(
            address, dataset["path"], steps, len(image.dims)
        )
        image.scale = dict(zip(image.dims, scale, strict=True))
        image.translation = dict(zip(image.dims, translation, strict=True))
        if omero is not None:
            image.channel_names = [_text(c.label) for c in omero.channels]
    levels = list(zip(arrays, multiscales.images, strict=True))
    check_levels(address, levels)
    return _text(multiscales.metadata.name or "image"), levels, version


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


def _check_axes(
    address: str, declared: dict[str, Any], arrays: Sequence[zarr.Array[Any]]
) -> None:
    axes = axes_of(declared)
    if not axes or not all(isinstance(axis, dict) for axis in axes):
        msg = f"{address} has no axes with names and types; expected OME-Zarr from 0.4"
        raise StoreError(msg)
    if not all(isinstance(axis.get(k), str) for axis in axes for k in ("name", "type")):
        msg = (
            f"{address} has the axes {axes}; expected each to have a 'name' and a "
            "'type', z, y and x of type 'space'; correct the metadata"
        )
        raise StoreError(msg)
    found = [(axis["name"], axis["type"]) for axis in axes]
    names = [name for name, _ in found]
    space = [name for name, kind in found if kind == "space"]
    others = set(names) - set(space)
    twice = len(set(names)) < len(names)
    known = space in (["z", "y", "x"], ["y", "x"]) and others <= set(OTHER_DIMS)
    if twice or not known:
        msg = (
            f"{address} has the axes {found}; expected z, y, x or y, x of type "
            "'space', in this order, and optionally t and c; correct the metadata"
        )
        raise StoreError(msg)
    for axis in axes:
        check_unit(address, axis)
    ranks = {array.path: array.ndim for array in arrays}
    if set(ranks.values()) != {len(names)}:
        msg = f"{address} has the axes {names}, but levels of other ranks: {ranks}"
        raise StoreError(msg)


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


def _metadata_documents(
    group: zarr.Group, arrays: Sequence[zarr.Array[Any]]
) -> dict[str, bytes]:
    """Return an image's metadata documents as a mapping, which ngff-zarr can read."""
    from zarr.core.buffer import default_buffer_prototype

    documents: dict[str, bytes] = {}
    below = len(group.path) + 1 if group.path else 0
    nodes: dict[str, zarr.Group | zarr.Array[Any]] = {"": group}
    nodes |= {array.path[below:]: array for array in arrays}
    prototype = default_buffer_prototype()
    for path, node in nodes.items():
        for key, buffer in node.metadata.to_buffer_dict(prototype).items():
            document = json.loads(buffer.to_bytes())
            if "codecs" in document:
                # No chunk is read from here, and ngff-zarr refuses shards.
                document["codecs"] = [
                    {"name": "bytes", "configuration": {"endian": "little"}}
                ]
            documents[f"{path}/{key}".lstrip("/")] = json.dumps(document).encode()
    return documents
