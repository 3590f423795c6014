"""OME-Zarr images as chunked xarray objects with exact physical coordinates.

Metadata comes through ngff-zarr, arrays through zarr-python, whose arrays pickle to a
kilobyte. Versions 0.4, 0.5 and 0.6; paths and URLs.
"""

from __future__ import annotations

import os
import posixpath
from typing import TYPE_CHECKING, Any, overload

import dask.array
import numpy as np
import xarray as xr
import zarr

from xdreg.coordinates import coordinates
from xdreg.errors import InputError, StoreError
from xdreg.grid import SPATIAL_DIMS, Grid, normalise_units

if TYPE_CHECKING:
    from collections.abc import Mapping

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
        If nothing is there, or it is no OME-Zarr image.
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
    address = os.fspath(store)
    group = _open_group(address, storage_options)
    name, images, version = _read_metadata(address, group, storage_options)
    if level is not None and not 0 <= level < len(images):
        msg = (
            f"{address} has levels 0 to {len(images) - 1}; level {level} does not exist"
        )
        raise InputError(msg)
    levels = images if level is None else [images[level]]
    arrays = [_open_level(group, image, path, address) for path, image in levels]
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

    Dask keeps the array that it was made from under a key of its own; a slice or any
    arithmetic has another name, and is not found.
    """
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
    return dask.array.from_array(source, chunks=chunks, inline_array=False)


def _open_group(address: str, storage_options: Mapping[str, Any] | None) -> zarr.Group:
    remote = "://" in address
    options = dict(storage_options) if remote and storage_options else None
    if not remote and not os.path.exists(address):  # noqa: PTH110 - may be any PathLike
        msg = f"{address} does not exist; check the path"
        raise StoreError(msg)
    try:
        # v3 first: a v2 fallback inside zarr reads both documents over the network.
        node = zarr.open(address, mode="r", storage_options=options)
    except (FileNotFoundError, zarr.errors.NodeNotFoundError) as error:
        msg = (
            f"{address} is not a Zarr store, or it cannot be reached; OME-Zarr images "
            f"are "
            "directories with zarr.json or .zgroup inside. Open other files with "
            "xdreg.open_image"
        )
        raise StoreError(msg) from error
    except ImportError as error:
        msg = (
            f"{address} needs a package that is missing: {error}; pip install "
            f"xdreg[remote]"
        )
        raise StoreError(msg) from error
    except OSError as error:
        msg = f"{address} cannot be read: {error}"
        raise StoreError(msg) from error
    if isinstance(node, zarr.Array):
        msg = (
            f"{address} is a bare Zarr array without OME-Zarr metadata; open the image "
            "group above it, or make a DataArray with coordinates of your own"
        )
        raise StoreError(msg)
    return node


def _read_metadata(
    address: str, group: zarr.Group, storage_options: Mapping[str, Any] | None
) -> tuple[str, list[tuple[str, Any]], str]:
    """Return the image's name, its levels as (path, NgffImage), and its version."""
    import ngff_zarr

    attrs = dict(group.attrs)
    ome = attrs.get("ome", attrs)
    for key, remedy in (
        (
            "scene",
            "open one of the images below it, or the field with xdreg.open_field",
        ),
        ("plate", "open one field of a well, for example PATH/A/1/0"),
    ):
        if isinstance(ome, dict) and key in ome:
            msg = f"{address} is an OME-Zarr {key}, not an image; {remedy}"
            raise StoreError(msg)
    if not isinstance(ome, dict) or not ome.get("multiscales"):
        msg = (
            f"{address} is a Zarr group without OME-Zarr 'multiscales' metadata; check "
            "the path, an image may lie in a group below it"
        )
        raise StoreError(msg)
    declared = ome["multiscales"]
    version = str(ome.get("version", declared[0].get("version", "unknown")))
    try:
        multiscales = ngff_zarr.from_ome_zarr(
            _metadata_mapping(group) if "://" in address else address,
            storage_options=None,
        )
    except Exception as error:
        msg = f"the OME-Zarr metadata of {address} cannot be read: {error}"
        raise StoreError(msg) from error
    paths = [dataset.path for dataset in multiscales.metadata.datasets]
    for path in paths:
        if posixpath.isabs(path) or ".." in path.split("/"):
            msg = f"{address}: dataset path {path!r} leaves the store; it is not opened"
            raise StoreError(msg)
    levels = list(zip(paths, multiscales.images, strict=True))
    omero = getattr(multiscales.metadata, "omero", None)
    if omero is not None:
        for image in multiscales.images:
            image.channel_names = [str(c.label) for c in omero.channels]
    return str(multiscales.metadata.name or "image"), levels, version


def _metadata_mapping(group: zarr.Group) -> dict[str, bytes]:
    """Copy a remote group's metadata documents into a mapping for ngff-zarr."""
    documents: dict[str, bytes] = {}

    def add(path: str, node: zarr.Group | zarr.Array[Any]) -> None:
        prefix = f"{path}/" if path else ""
        for key, buffer in node.metadata.to_buffer_dict(_prototype()).items():
            documents[prefix + key] = buffer.to_bytes()

    add("", group)
    attrs: dict[str, Any] = dict(group.attrs)
    multiscales = attrs.get("ome", attrs)["multiscales"]
    for dataset in multiscales[0]["datasets"]:
        path = dataset["path"]
        parts = path.split("/")
        for i in range(1, len(parts)):
            parent = "/".join(parts[:i])
            if parent + "/zarr.json" not in documents:
                try:
                    add(parent, group[parent])
                except KeyError:
                    continue
        add(path, group[path])
    return documents


def _prototype() -> Any:
    from zarr.core.buffer import default_buffer_prototype

    return default_buffer_prototype()


def _open_level(group: zarr.Group, image: Any, path: str, address: str) -> xr.DataArray:
    try:
        source = group[path]
    except KeyError as error:
        msg = f"{address} names a level {path!r} that is not in the store"
        raise StoreError(msg) from error
    if not isinstance(source, zarr.Array):
        msg = f"{address}: {path!r} is no array"
        raise StoreError(msg)
    dims = tuple(str(dim) for dim in image.dims)
    spatial = tuple(dim for dim in SPATIAL_DIMS if dim in dims)
    if tuple(dim for dim in dims if dim in SPATIAL_DIMS) != spatial or len(spatial) < 2:
        msg = (
            f"{address} has axes {dims}; expected space axes z, y, x or y, x in "
            f"this order"
        )
        raise StoreError(msg)
    units = {normalise_units((image.axes_units or {}).get(dim)) for dim in spatial}
    if len(units) > 1:
        msg = f"{address} has space axes in different units {units}; use one unit"
        raise StoreError(msg)
    grid = Grid(
        spatial,
        tuple(source.shape[dims.index(dim)] for dim in spatial),
        tuple(float(image.scale[dim]) for dim in spatial),
        tuple(float(image.translation[dim]) for dim in spatial),
        units.pop(),
    )
    array = xr.DataArray(lazy_zarr(source), dims=dims, coords=coordinates(grid))
    if (
        "c" in dims
        and image.channel_names
        and len(image.channel_names) == array.sizes["c"]
    ):
        array = array.assign_coords(c=np.asarray(image.channel_names, dtype=object))
    return array
