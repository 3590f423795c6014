"""OME-Zarr images as chunked xarray objects with exact physical coordinates.

Versions 0.4, 0.5 and 0.6, at paths and URLs. `ome_metadata` reads the metadata, and
zarr-python the arrays, because its arrays pickle to a kilobyte.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, overload

import dask.array
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from xdreg.coordinates import coordinates
from xdreg.errors import InputError, StoreError
from xdreg.grid import SPATIAL_DIMS, Grid, normalise_units
from xdreg.stores.identity import key_of
from xdreg.stores.nodes import open_group
from xdreg.stores.ome_metadata import read_metadata
from xdreg.stores.paths import as_address

if TYPE_CHECKING:
    import zarr


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
        Return only this level, 0 being the finest.
    storage_options
        For remote stores, passed to fsspec, for example ``{"anon": True}``.

    Returns
    -------
    DataTree or DataArray
        The tree has a node per level, ``tree["scale0/image"]`` being the finest. Each
        is a DataArray ``([t], [c], [z], y, x)`` chunked as stored, whose coordinates
        are voxel centres with ``units``.

    Raises
    ------
    StoreError
        If it does not exist, is no OME-Zarr image, or has unusable metadata.
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
    group = open_group(address, storage_options)
    name, levels, version = read_metadata(address, group)
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
        # A slash in a name would mean a child node.
        name=name.replace("/", "-"),
    )
    tree.attrs |= {"source": address, "ome_zarr_version": version}
    return tree


def zarr_array_of(array: xr.DataArray) -> zarr.Array[Any] | None:
    """Return the Zarr array behind a DataArray, None if it was changed since opening.

    Dask keeps the source of an array under a key that every operation drops.
    """
    import zarr

    from xdreg.stores.checked_arrays import checked

    if array.chunks is None:
        return None
    data = array.data
    key = f"original-{data.name}"
    layer = data.dask.layers.get(key)
    source = layer.get(key) if layer is not None else None
    source = getattr(source, "value", source)
    # Of xarray.open_zarr, unless it decodes the values.
    for name in _WRAPPERS:
        index = getattr(getattr(source, "key", None), "tuple", ())
        if type(source).__name__ == name and set(map(str, index)) <= {_ALL}:
            source = getattr(source, "array", getattr(source, "_array", None))
    return checked(source) if isinstance(source, zarr.Array) else None


#: What xarray wraps a Zarr array in, from the outside.
_WRAPPERS = (
    "ImplicitToExplicitIndexingAdapter",
    "CopyOnWriteArray",
    "LazilyIndexedArray",
    "ZarrArrayWrapper",
)

_ALL = str(slice(None))


def with_checked_sources(array: dask.array.Array) -> dask.array.Array:
    """Return a Dask array whose Zarr arrays are checked as they are read."""
    layers = {}
    for name, layer in array.dask.layers.items():
        values = dict(layer) if name.startswith("original-") else {}
        twins = {key: _checked_source(value) for key, value in values.items()}
        layers[name] = MaterializedLayer(twins) if values else layer
    graph = HighLevelGraph(layers, array.dask.dependencies)
    return dask.array.Array(graph, array.name, array.chunks, meta=array)


def _checked_source(source: Any) -> Any:
    """Return a Zarr array, or what xarray wraps one in, with the array checked."""
    import zarr

    from xdreg.stores.checked_arrays import checked

    if isinstance(source, zarr.Array):
        return checked(source)
    name = "_array" if type(source).__name__ == _WRAPPERS[-1] else "array"
    inner = getattr(source, name, None)
    if inner is None or not type(source).__module__.startswith("xarray."):
        return source
    twin = copy.copy(source)
    setattr(twin, name, _checked_source(inner))
    return twin


def lazy_zarr(source: zarr.Array[Any]) -> dask.array.Array:
    """Return a Zarr array as a Dask array, one chunk per stored chunk or shard.

    Its name changes with the voxels: a scheduler may keep results by name.
    """
    from xdreg.stores.checked_arrays import checked

    source = checked(source)
    chunks = source.shards or source.chunks
    name = f"zarr-{tokenize(key_of(source))}"
    return dask.array.from_array(source, chunks=chunks, inline_array=False, name=name)


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
