"""OME-Zarr images as chunked xarray objects with exact physical coordinates.

Versions 0.4, 0.5 and 0.6, at paths and URLs. `ome_metadata` reads the metadata, and
zarr-python the arrays, because its arrays pickle to a kilobyte.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, overload

import dask.array
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from xdreg.coordinates import coordinates
from xdreg.errors import InputError
from xdreg.stores.channels import with_channels
from xdreg.stores.identity import key_of
from xdreg.stores.nodes import open_given
from xdreg.stores.ome_metadata import ImageMetadata, LevelMetadata, read_metadata
from xdreg.stores.orientation import CONVENTION, level_layout
from xdreg.stores.reordered import Reordered

if TYPE_CHECKING:
    import zarr


@overload
def open_ome_zarr(
    store: Any,
    *,
    level: None = None,
    coordinate_system: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> xr.DataTree: ...


@overload
def open_ome_zarr(
    store: Any,
    *,
    level: int,
    coordinate_system: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> xr.DataArray: ...


def open_ome_zarr(
    store: Any,
    *,
    level: int | None = None,
    coordinate_system: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> xr.DataTree | xr.DataArray:
    """Open an OME-Zarr image lazily.

    Parameters
    ----------
    store
        Path or URL (``https://…``, ``s3://…``) of a multiscale image, also zipped
        (``.ozx``, ``.zip``). Or a `zarr.Group`, a store of Zarr, or a mapping of
        fsspec.
    level
        Return only this level, 0 being the finest.
    coordinate_system
        Name of one of the systems that a store of spatialdata has transformations to.
    storage_options
        For remote stores, passed to fsspec, for example ``{"anon": True}``.

    Returns
    -------
    DataTree or DataArray
        The tree has a node per level, ``tree["scale0/image"]`` being the finest. Each
        is a DataArray ``([t], [c], [z], y, x)`` chunked as stored, whose coordinates
        are voxel centres with ``units``. Axes with an anatomical orientation (RFC-4)
        are brought to ITK's: they run to the left, posterior, superior.

    Raises
    ------
    StoreError
        If it does not exist, is no OME-Zarr image, or has unusable metadata.
    InputError
        If the level or the coordinate system does not exist, or must be chosen.

    Examples
    --------
    >>> import tempfile
    >>> from xdreg.datasets import write_phantom_pair
    >>> folder = tempfile.TemporaryDirectory()
    >>> fixed, moving = write_phantom_pair(folder.name, (80, 96))
    >>> open_ome_zarr(fixed)["scale0/image"].dims
    ('y', 'x')
    """
    address, group = open_given(store, storage_options)
    found = read_metadata(address, group, coordinate_system)
    name, version, levels = found.name, found.version, found.levels
    if level is not None:
        whole = isinstance(level, int | np.integer) and not isinstance(level, bool)
        if not whole or not 0 <= level < len(levels):
            msg = (
                f"{address} has levels 0 to {len(levels) - 1}; level {level!r} does "
                "not exist"
            )
            raise InputError(msg)
        levels = [levels[level]]
    arrays = [_open_level(*one, found, address) for one in levels]
    for array in arrays:
        array.attrs |= {"name": name, "ome_zarr_version": version}
        array.attrs |= _source_attribute(store, address, coordinate_system)
    if level is not None:
        return arrays[0]
    tree = xr.DataTree.from_dict(
        {f"scale{i}": xr.Dataset({"image": array}) for i, array in enumerate(arrays)},
        # A slash in a name would mean a child node.
        name=name.replace("/", "-"),
    )
    tree.attrs |= {"ome_zarr_version": version}
    tree.attrs |= _source_attribute(store, address, coordinate_system)
    return tree


def _source_attribute(
    store: Any, address: str, system: str | None
) -> dict[Hashable, str]:
    """Return the address as an attribute, if opening it again gives the same."""
    again = isinstance(store, str | os.PathLike) and system is None
    return {"source": address} if again else {}


def zarr_array_of(array: xr.DataArray) -> zarr.Array[Any] | None:
    """Return the Zarr array behind a DataArray, None if there is none any more."""
    import zarr

    source = source_behind(array)
    return source if isinstance(source, zarr.Array) else None


def source_behind(array: xr.DataArray) -> Any:
    """Return what a DataArray reads its voxels from, None if it was changed.

    That is a Zarr array, or an object that states its ``identity()``. Dask keeps the
    source of an array under a key that every operation drops.
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
    if isinstance(source, zarr.Array):
        return checked(source)
    return source if hasattr(source, "identity") else None


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


def lazy(source: Any) -> dask.array.Array:
    """Return an array that states its ``identity()`` as a Dask array."""
    name = f"lazy-{tokenize(key_of(source))}"
    chunks = source.chunks
    return dask.array.from_array(source, chunks=chunks, inline_array=False, name=name)


def _open_level(
    source: zarr.Array[Any], level: LevelMetadata, image: ImageMetadata, address: str
) -> xr.DataArray:
    dims, order, backwards, grid = level_layout(source, level, image, address)
    as_stored = order == sorted(order) and not any(backwards)
    data = lazy_zarr(source) if as_stored else lazy(Reordered(source, order, backwards))
    array = xr.DataArray(data, dims=dims, coords=coordinates(grid), name="image")
    if image.orientations:
        array.attrs["orientation"] = CONVENTION
    if "t" in dims:
        steps = np.arange(array.sizes["t"])
        array = array.assign_coords(t=level.translation["t"] + level.scale["t"] * steps)
        array["t"].attrs |= {"units": image.time_units} if image.time_units else {}
    return with_channels(array, image.channels)
