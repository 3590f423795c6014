"""OME-Zarr images as chunked xarray objects with exact physical coordinates.

Metadata comes through ngff-zarr, arrays through zarr-python, whose arrays pickle to a
kilobyte. Versions 0.4, 0.5 and 0.6; paths and URLs.

Spacing and origin are composed here, from the numbers in the store: ngff-zarr leaves
out the transformations of the multiscale as a whole, and takes those that it does not
know for the identity.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import dask.array
import numpy as np
import xarray as xr
from dask.base import tokenize

from xdreg.coordinates import OTHER_DIMS, coordinates
from xdreg.errors import InputError, StoreError
from xdreg.grid import SPATIAL_DIMS, Grid, normalise_units
from xdreg.paths import as_address, is_remote

if TYPE_CHECKING:
    from collections.abc import Sequence

    import zarr

_ORIGINAL = "original-"


@overload
def open_ome_zarr(
    store: str | os.PathLike[str],
    *,
    level: None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> xr.DataTree: ...


@overload
def open_ome_zarr(
    store: str | os.PathLike[str],
    *,
    level: int,
    storage_options: Mapping[str, Any] | None = None,
) -> xr.DataArray: ...


def open_ome_zarr(
    store: str | os.PathLike[str],
    *,
    level: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> xr.DataTree | xr.DataArray:
    """Open an OME-Zarr image lazily.

    Parameters
    ----------
    store
        Path or URL (``https://…``, ``s3://…``) of a multiscale image.
    level
        Return this level only, 0 the finest.
    storage_options
        For remote stores, passed to fsspec, for example ``{"anon": True}``.

    Returns
    -------
    DataTree or DataArray
        The tree has a node per level, ``tree["scale0/image"]`` the finest, each a
        DataArray ``([t], [c], [z], y, x)`` chunked as stored, whose coordinates are
        voxel centres with ``units``.

    Raises
    ------
    StoreError
        If nothing is there, it is no OME-Zarr image, or its metadata cannot be used.
    InputError
        If the level does not exist.

    Examples
    --------
    >>> import tempfile
    >>> from xdreg.datasets import write_phantom_pair
    >>> folder = tempfile.TemporaryDirectory()
    >>> fixed, moving = write_phantom_pair(folder.name, (80, 96))
    >>> open_ome_zarr(fixed)["scale0/image"].dims
    ('y', 'x')
    """
    address = as_address(store, "store")
    group = _open_group(address, storage_options)
    name, levels, version = _read_metadata(address, group)
    if level is not None:
        whole = isinstance(level, int | np.integer) and not isinstance(level, bool)
        if not whole or not 0 <= level < len(levels):
            msg = (
                f"{address} has levels 0 to {len(levels) - 1}; level {level!r} does "
                "not exist"
            )
            raise InputError(msg)
        levels = [levels[level]]
    arrays = [_open_level(source, image, address) for source, image in levels]
    for array in arrays:
        array.attrs |= {"name": name, "source": address, "ome_zarr_version": version}
    if level is not None:
        return arrays[0]
    tree = xr.DataTree.from_dict(
        {f"scale{i}": xr.Dataset({"image": array}) for i, array in enumerate(arrays)},
        name=name,
    )
    tree.attrs |= {"source": address, "ome_zarr_version": version}
    return tree


def zarr_array_of(array: xr.DataArray) -> zarr.Array[Any] | None:
    """Return the Zarr array behind a DataArray, where nothing was done to it since.

    Dask keeps what an array was made from under a key that any change leaves behind.
    """
    import zarr

    if array.chunks is None:
        return None
    data = array.data
    key = _ORIGINAL + data.name
    layer = data.dask.layers.get(key)
    source = layer.get(key) if layer is not None else None
    source = getattr(source, "value", source)
    return source if isinstance(source, zarr.Array) else None


def lazy_zarr(source: zarr.Array[Any]) -> dask.array.Array:
    """Return a Zarr array as a Dask array, one chunk per stored chunk or shard."""
    chunks = source.shards or source.chunks
    name = f"zarr-{tokenize(source, modified(source))}"
    return dask.array.from_array(source, chunks=chunks, inline_array=False, name=name)


def modified(source: zarr.Array[Any]) -> int | None:
    """Tell a local array from the one that it overwrote; a cluster may hold both."""
    from zarr.storage import LocalStore

    if not isinstance(source.store, LocalStore):
        return None
    folder = Path(source.store.root) / source.path
    document = folder / ("zarr.json" if source.metadata.zarr_format == 3 else ".zarray")
    return document.stat().st_mtime_ns if document.exists() else None


def _open_group(address: str, storage_options: Mapping[str, Any] | None) -> zarr.Group:
    import zarr

    remote = is_remote(address)
    if not isinstance(storage_options, Mapping | None):
        msg = (
            f"storage_options must be a dict for fsspec, such as {{'anon': True}}, got "
            f"{storage_options!r}"
        )
        raise InputError(msg)
    options = dict(storage_options) if remote and storage_options else None
    path = Path(address).absolute()
    if not remote and not (address and path.exists()):
        msg = f"{address or 'an empty path'} does not exist; check the path"
        raise StoreError(msg)
    try:
        # A relative path would be another one in a worker, and its chunks all zero.
        node = zarr.open(address if remote else path, mode="r", storage_options=options)
    except (FileNotFoundError, NotADirectoryError) as error:
        msg = (
            f"{address} is not a Zarr store, or it cannot be reached; OME-Zarr images "
            "are directories with zarr.json or .zgroup inside. Open other files with "
            "xdreg.open_image"
        )
        raise StoreError(msg) from error
    except ImportError as error:
        msg = f"{address} needs a package: {error}; pip install 'xdreg[remote]'"
        raise StoreError(msg) from error
    # Every remote client raises exceptions of its own.
    except Exception as error:
        msg = (
            f"{address} cannot be read: {type(error).__name__}: {error}; check the "
            "address, the storage_options and that its metadata is whole"
        )
        raise StoreError(msg) from error
    if isinstance(node, zarr.Array):
        msg = (
            f"{address} is a bare Zarr array without OME-Zarr metadata; open the image "
            "group above it, or make a DataArray with coordinates of your own"
        )
        raise StoreError(msg)
    return node


def _read_metadata(
    address: str, group: zarr.Group
) -> tuple[str, list[tuple[zarr.Array[Any], Any]], str]:
    """Return the image's name, its levels as (array, NgffImage), and its version."""
    import ngff_zarr

    attrs: dict[str, Any] = dict(group.attrs)
    ome = attrs.get("ome", attrs)
    declared = _multiscale(address, ome)
    arrays = [_level_array(address, group, d) for d in declared["datasets"]]
    _check_axes(address, declared, arrays)
    version = str(ome.get("version", declared.get("version", "unknown")))
    try:
        multiscales = ngff_zarr.from_ome_zarr(_metadata_documents(group, arrays))
    # ngff-zarr does not say what it raises on metadata of the wrong form.
    except Exception as error:
        msg = f"the OME-Zarr metadata of {address} cannot be read: {error}; correct it"
        raise StoreError(msg) from error
    omero = getattr(multiscales.metadata, "omero", None)
    for dataset, image in zip(declared["datasets"], multiscales.images, strict=True):
        steps = [*(dataset.get("coordinateTransformations") or ())]
        # From 0.6 on they lead from the intrinsic system to others.
        if steps and "coordinateSystems" not in declared:
            steps += declared.get("coordinateTransformations") or ()
        scale, translation = _compose(address, dataset["path"], steps, len(image.dims))
        image.scale = dict(zip(image.dims, scale, strict=True))
        image.translation = dict(zip(image.dims, translation, strict=True))
        if omero is not None:
            image.channel_names = [str(c.label) for c in omero.channels]
    levels = list(zip(arrays, multiscales.images, strict=True))
    return str(multiscales.metadata.name or "image"), levels, version


def _multiscale(address: str, ome: Any) -> dict[str, Any]:
    """Return the one multiscale's metadata as stored, or say what else is there."""
    found = ome.get("multiscales") if isinstance(ome, dict) else None
    if not found:
        kind, child = _another_kind(ome) if isinstance(ome, dict) else (None, None)
        msg = (
            f"{address} is an OME-Zarr {kind}, not an image; open {child}"
            if kind
            else f"{address} is a Zarr group without OME-Zarr 'multiscales' metadata; "
            "check the path, an image may lie in a group below it"
        )
        raise StoreError(msg)
    first = found[0] if isinstance(found, list) else None
    datasets = first.get("datasets") if isinstance(first, dict) else None
    if not isinstance(first, dict) or not isinstance(datasets, list) or not datasets:
        msg = f"{address} has 'multiscales' metadata without datasets; correct it"
        raise StoreError(msg)
    return first


def _another_kind(ome: dict[str, Any]) -> tuple[str | None, str]:
    """Return what a group is that is no image, and what of it to open instead."""
    if "scene" in ome:
        steps = ome["scene"].get("coordinateTransformations") or ()
        ends = [step.get(end) for step in steps for end in ("input", "output")]
        paths = {e["path"] for e in ends if isinstance(e, dict) and e.get("path")}
        images = f"one of {sorted(paths)}" if paths else "an image"
        return "scene", f"{images} below it, or a field with xdreg.open_field"
    if "plate" in ome:
        wells = ome["plate"].get("wells") or [{"path": "A/1"}]
        return "plate", f"an image of a well, for example '{wells[0]['path']}/0'"
    if "well" in ome:
        fields = [image["path"] for image in ome["well"].get("images") or ()]
        return "well", f"one of {fields} below it"
    if "labels" in ome:
        return "labels group", f"one of {ome['labels']} below it"
    if "bioformats2raw.layout" in ome:
        return "collection", "a series below it, for example '0'"
    return None, ""


def _level_array(address: str, group: zarr.Group, dataset: Any) -> zarr.Array[Any]:
    import zarr

    path: Any = dataset.get("path") if isinstance(dataset, dict) else None
    # Backslashes and drives lead out of a store on Windows.
    parts = path.replace("\\", "/").split("/") if isinstance(path, str) else [""]
    if not parts[0] or ".." in parts or ":" in parts[0]:
        msg = f"{address}: dataset path {path!r} leaves the store; it is not opened"
        raise StoreError(msg)
    try:
        source = group[path]
    except (KeyError, ValueError) as error:
        msg = f"{address} names a level {path!r} that is missing or damaged"
        raise StoreError(msg) from error
    if not isinstance(source, zarr.Array):
        msg = f"{address}: the level {path!r} is a group; expected an array"
        raise StoreError(msg)
    return source


def _check_axes(
    address: str, declared: dict[str, Any], arrays: Sequence[zarr.Array[Any]]
) -> None:
    axes = declared.get("axes")
    systems = declared.get("coordinateSystems")
    if systems:
        # The datasets lead to the intrinsic system, wherever it is listed.
        steps = declared["datasets"][0].get("coordinateTransformations") or [{}]
        end = steps[0].get("output")
        name = end.get("name") if isinstance(end, dict) else end
        axes = next((s for s in systems if s.get("name") == name), systems[0])["axes"]
    if not axes or not all(isinstance(axis, dict) for axis in axes):
        msg = f"{address} has no axes with names and types; expected OME-Zarr from 0.4"
        raise StoreError(msg)
    names = [axis.get("name") for axis in axes]
    space = [axis.get("name") for axis in axes if axis.get("type") == "space"]
    others = set(names) - set(space)
    if space not in (["z", "y", "x"], ["y", "x"]) or not others <= set(OTHER_DIMS):
        found = [(axis.get("name"), axis.get("type")) for axis in axes]
        msg = (
            f"{address} has the axes {found}; expected z, y, x or y, x of type "
            "'space', in this order, with t and c beside them; correct the metadata"
        )
        raise StoreError(msg)
    ranks = {array.path: array.ndim for array in arrays}
    if set(ranks.values()) != {len(names)}:
        msg = f"{address} has the axes {names}, but levels of other ranks: {ranks}"
        raise StoreError(msg)


def _compose(
    address: str, path: str, steps: Sequence[Any], ndim: int
) -> tuple[list[float], list[float]]:
    """Return scale and translation of transformations, applied in their order."""
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
        if kind == "sequence":
            pending = [*step.get("transformations", ()), *pending]
        elif _are_numbers(values, ndim):
            if kind == "scale":
                scale *= values
                translation *= values
            else:
                translation += values
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
        and all(isinstance(value, int | float) for value in values)
    )


def _metadata_documents(
    group: zarr.Group, arrays: Sequence[zarr.Array[Any]]
) -> dict[str, bytes]:
    """Copy an image's metadata into a mapping, which ngff-zarr reads from anywhere."""
    from zarr.core.buffer import default_buffer_prototype

    documents: dict[str, bytes] = {}
    nodes: dict[str, zarr.Group | zarr.Array[Any]] = {"": group}
    below = len(group.path) + 1 if group.path else 0
    for array in arrays:
        path = array.path[below:]
        nodes[path] = array
        parts = path.split("/")
        for parent in ("/".join(parts[:i]) for i in range(1, len(parts))):
            # A group in between may have no document of its own.
            if parent not in nodes and parent in group:
                nodes[parent] = group[parent]
    prototype = default_buffer_prototype()
    for path, node in nodes.items():
        for key, buffer in node.metadata.to_buffer_dict(prototype).items():
            document = json.loads(buffer.to_bytes())
            if "codecs" in document:
                # No chunk is read from here, and shards would be refused.
                document["codecs"] = [
                    {"name": "bytes", "configuration": {"endian": "little"}}
                ]
            documents[f"{path}/{key}".lstrip("/")] = json.dumps(document).encode()
    return documents


def _open_level(source: zarr.Array[Any], image: Any, address: str) -> xr.DataArray:
    dims = tuple(str(dim) for dim in image.dims)
    spatial = tuple(dim for dim in SPATIAL_DIMS if dim in dims)
    units = {normalise_units((image.axes_units or {}).get(dim)) for dim in spatial}
    if len(units) > 1:
        msg = f"{address} has space axes in different units {units}; use one unit"
        raise StoreError(msg)
    shape = tuple(source.shape[dims.index(dim)] for dim in spatial)
    spacing = tuple(image.scale[dim] for dim in spatial)
    origin = tuple(image.translation[dim] for dim in spatial)
    try:
        grid = Grid(spatial, shape, spacing, origin, units.pop())
    except InputError as error:
        msg = f"{address}: the level {source.path!r} has no usable geometry: {error}"
        raise StoreError(msg) from error
    array = xr.DataArray(
        lazy_zarr(source), dims=dims, coords=coordinates(grid), name="image"
    )
    if "t" in dims:
        steps = np.arange(array.sizes["t"])
        array = array.assign_coords(t=image.translation["t"] + image.scale["t"] * steps)
        unit = (image.axes_units or {}).get("t")
        array["t"].attrs |= {} if unit is None else {"units": unit}
    names = image.channel_names
    if "c" in dims and names and len(names) == array.sizes["c"]:
        array = array.assign_coords(c=np.asarray(names, dtype=object))
    return array
