"""Out-of-core writing of OME-Zarr images with their pyramids.

ngff-zarr writes the metadata. zarr-python writes the voxels chunk by chunk, on the
active Dask scheduler.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import dask.array
import numpy as np
import xarray as xr
import zarr

from xdreg.coordinates import DIRECTION, grid_of
from xdreg.errors import InputError
from xdreg.grid import UNIT_METRES, Grid, pyramid_factors, whole_per_axis
from xdreg.stores.apart import check_apart
from xdreg.stores.channels import channel_entries
from xdreg.stores.ome_zarr import lazy_zarr
from xdreg.stores.outputs import new_store
from xdreg.stores.progress import working
from xdreg.stores.pyramid import downsample

Version = Literal["0.4", "0.5", "0.6"]

#: Most files of a store without shards, and chunks along each axis of a default one.
MOST_FILES = 100_000
TOGETHER = 4

#: Attribute of a store with what OME-Zarr has no place for.
_EXTRA = "xdreg"

#: Default size of a chunk along each spatial axis, in voxels.
CHUNK = {2: 512, 3: 64}


def write_ome_zarr(
    image: xr.DataArray,
    path: str | os.PathLike[str],
    *,
    version: Version = "0.5",
    levels: int | None = None,
    chunks: int | Sequence[int] | None = None,
    shards: int | Sequence[int] | None = None,
    labels: bool = False,
    overwrite: bool = False,
    name: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> None:
    """Write an image with its pyramid as OME-Zarr, chunk by chunk.

    Parameters
    ----------
    image : DataArray ([t], [c], [z], y, x)
        The image, of a tree its finest level.
    path
        Directory or URL to write; it appears whole or not at all.
    version
        Version of OME-Zarr.
    levels
        Number of levels; fewer if one has a single voxel. By default they are added
        until the longest axis has at most 64 voxels.
    chunks
        Voxels of a chunk along the spatial axes.
    shards
        Voxels of a file of several chunks along the spatial axes, from version 0.5 on.
        By default there are some where a store would have more than 100,000 files.
    labels
        Coarsen by picking voxels, not by means.
    overwrite
        Replace an image or field.
    name
        Name in the metadata.
    storage_options
        For a URL, passed to fsspec.
    progress
        Show progress, on a terminal and in a notebook.

    Raises
    ------
    InputError, StoreError
        As in `xdreg.save`.
    """
    layout = make_layout(image, version, levels, chunks, shards, name)
    check_apart(path, image)
    with (
        working("writing", enabled=progress),
        new_store(path, overwrite=overwrite, storage_options=storage_options) as output,
    ):
        lay_out(output.folder, layout)
        source = dask.array.asarray(layout.image.data)
        for number in range(len(layout.grids)):
            store: Any = output.array(level_path(number))
            if number > 0:
                source = downsample(source, layout.factors[number - 1], labels=labels)
            parts = store.shards or store.chunks
            dask.array.store(source.rechunk(parts), store, lock=False)
            source = lazy_zarr(store)


@dataclass(frozen=True)
class Layout:
    """Layout of the store of an image ``([t], [c], [z], y, x)``.

    ``factors`` coarsen each spatial axis from each level to the next. ``chunks`` are
    voxels along the spatial axes, ``together`` are chunks of a shard, None without.
    """

    image: xr.DataArray
    grids: tuple[Grid, ...]
    factors: tuple[tuple[int, ...], ...]
    chunks: tuple[int, ...]
    together: tuple[int, ...] | None
    version: str
    name: str


def make_layout(
    image: xr.DataArray,
    version: str,
    levels: int | None,
    chunks: int | Sequence[int] | None,
    shards: int | Sequence[int] | None,
    name: str | None,
) -> Layout:
    """Check the arguments of `write_ome_zarr` and fill in defaults."""
    _check_values(image)
    grid = grid_of(image)
    others = [str(d) for d in image.dims if d not in grid.dims]
    image = image.transpose(*[d for d in ("t", "c") if d in others], *grid.dims)
    if name is not None and not isinstance(name, str):
        msg = f"name must be text, got {name!r}"
        raise InputError(msg)
    if not isinstance(version, str) or version not in ("0.4", "0.5", "0.6"):
        msg = f"version must be '0.4', '0.5' or '0.6', got {version!r}"
        raise InputError(msg)
    factors = pyramid_factors(grid)
    if levels is not None:
        if isinstance(levels, bool) or not isinstance(levels, int) or levels < 1:
            msg = f"levels must be a whole number from 1, got {levels!r}"
            raise InputError(msg)
        factors = pyramid_factors(grid, smallest=1)[: levels - 1]
    grids = [grid]
    for step in factors:
        grids.append(grids[-1].coarsen(step))
    label = name or str(image.attrs.get("name") or image.name or "image")
    spatial = _chunk_shape(chunks, grid)
    sizes = [image.sizes[d] for d in others]
    together = _chunks_of_shard(shards, spatial, grids, math.prod(sizes), version)
    return Layout(
        image, tuple(grids), tuple(factors), spatial, together, version, label
    )


def _chunks_of_shard(
    shards: int | Sequence[int] | None,
    chunks: tuple[int, ...],
    grids: Sequence[Grid],
    others: int,
    version: str,
) -> tuple[int, ...] | None:
    """Return the chunks of a shard along each spatial axis, None for no shards."""
    if shards is None:
        counts = [np.ceil(np.divide(grid.shape, chunks)).prod() for grid in grids]
        many = others * sum(counts) > MOST_FILES
        return (TOGETHER,) * len(chunks) if many and version != "0.4" else None
    if version == "0.4":
        msg = "OME-Zarr 0.4 has no shards; write 0.5, or leave shards out"
        raise InputError(msg, version="0.5")
    sizes = whole_per_axis(shards, len(chunks), "shards", minimum=1)
    if any(size % n for size, n in zip(sizes, chunks, strict=True)):
        msg = (
            f"shards must be multiples of the chunks {chunks}, got {shards!r}; give "
            "both, for example chunks=64, shards=256"
        )
        raise InputError(msg)
    return tuple(size // n for size, n in zip(sizes, chunks, strict=True))


def level_path(number: int) -> str:
    """Return the path of a level's array in its store, as most readers expect it."""
    return str(number)


def _check_values(image: xr.DataArray) -> None:
    if not isinstance(image, xr.DataArray):
        msg = (
            f"image must be a DataArray, got {type(image).__name__}; of a DataTree "
            "take one level, for example tree['scale0/image']"
        )
        raise InputError(msg)
    if image.dtype.kind not in "biuf" or image.dtype.itemsize > 8:
        msg = (
            f"image must hold integers or floats of up to 64 bits, got {image.dtype}; "
            "convert it with image.astype('float32')"
        )
        raise InputError(msg)


def _chunk_shape(chunks: int | Sequence[int] | None, grid: Grid) -> tuple[int, ...]:
    if chunks is None:
        return tuple(min(CHUNK[grid.ndim], n) for n in grid.shape)
    sizes = whole_per_axis(chunks, grid.ndim, "chunks", minimum=1)
    return tuple(min(size, n) for size, n in zip(sizes, grid.shape, strict=True))


def ome_units(units: str | None) -> str | None:
    """Return a unit if OME-Zarr knows it, else None."""
    return units if units in UNIT_METRES else None


def lay_out(path: Path, layout: Layout) -> None:
    """Create a store with its metadata and empty arrays."""
    import ngff_zarr as nz

    image, grids, chunks = layout.image, layout.grids, layout.chunks
    version, name = layout.version, layout.name
    dims = tuple(str(d) for d in image.dims)
    others = dims[: -grids[0].ndim]
    units = ome_units(grids[0].units)
    kinds = {"t": "time", "c": "channel"}
    axes_units: dict[str, Any] = dict.fromkeys(grids[0].dims, units)
    if "t" in image.coords:
        axes_units["t"] = image["t"].attrs.get("units")
    axes = [
        nz.Axis(name=d, type=kinds.get(d, "space"), unit=axes_units.get(d))
        for d in dims
    ]
    steps = [_step_and_start(image, dim) for dim in others]
    images, datasets = [], []
    for i, grid in enumerate(grids):
        scale = [step for step, _ in steps] + list(grid.spacing)
        translation = [start for _, start in steps] + list(grid.origin)
        shape = tuple(image.sizes[d] for d in others) + grid.shape
        data = dask.array.zeros(
            shape, dtype=_native(image.dtype), chunks=(1,) * len(others) + chunks
        )
        images.append(
            nz.NgffImage(
                data,
                dims,
                dict(zip(dims, scale, strict=True)),
                dict(zip(dims, translation, strict=True)),
                name,
                {d: unit for d, unit in axes_units.items() if unit},
            )
        )
        transforms = [nz.Scale(scale=scale), nz.Translation(translation=translation)]
        datasets.append(
            nz.Dataset(path=level_path(i), coordinateTransformations=transforms)
        )
    metadata = nz.Metadata(
        axes=axes, datasets=datasets, coordinateTransformations=None, name=name
    )
    together = layout.together
    nz.to_ome_zarr(
        str(path),
        nz.NgffMultiscales(images, metadata),
        version=version,
        metadata_only=True,
        consolidate_metadata=False,
        chunks_per_shard=together and (1,) * len(others) + together,
        **compression(version),
    )
    # ngff-zarr would drop what it does not know.
    group = zarr.open_group(path, mode="r+")
    if grids[0].direction is not None:
        group.attrs[_EXTRA] = {DIRECTION: grids[0].direction}
    channels = _omero(image)
    if channels:
        if version == "0.4":
            group.attrs["omero"] = {"channels": channels}
        else:
            ome: Any = group.attrs["ome"]
            group.attrs["ome"] = ome | {"omero": {"channels": channels}}


def compression(version: str) -> dict[str, Any]:
    """Return the options of a store for fast compression by Zstandard.

    Level 1 takes a third of the default's time, for 10 % more size. Blosc is faster
    still, but numcodecs decodes a truncated chunk of it without an error, to whatever
    follows it in memory. Chunks have checksums from OME-Zarr 0.5 on.
    """
    if version == "0.4":
        return {"compressor": {"id": "zstd", "level": 1}}
    codec = {"level": 1, "checksum": True}
    return {"compressors": [{"name": "zstd", "configuration": codec}]}


def _step_and_start(image: xr.DataArray, dim: str) -> tuple[float, float]:
    """Return scale and translation of a time axis; 1 and 0 without numeric times."""
    if dim != "t" or "t" not in image.coords or image["t"].dtype.kind not in "iuf":
        return 1.0, 0.0
    times = image["t"].values.astype(np.float64)
    step = float(times[-1] - times[0]) / (times.size - 1) if times.size > 1 else 1.0
    if step <= 0 or not np.allclose(np.diff(times), step, rtol=1e-3):
        msg = (
            f"the time points {times.tolist()} are not evenly spaced and ascending; "
            "drop them with image.drop_vars('t')"
        )
        raise InputError(msg)
    return step, float(times[0])


def _native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    return dtype.newbyteorder("=")


def _omero(image: xr.DataArray) -> list[dict[str, Any]]:
    """Return OME-Zarr's entries of channels that have names, or were read from one.

    Colours and display limits that are not known are chosen here.
    """
    import ngff_zarr as nz

    limits = np.iinfo(image.dtype) if image.dtype.kind in "iu" else None
    low, high = (float(limits.min), float(limits.max)) if limits else (0.0, 1.0)
    window = {"min": low, "max": high, "start": low, "end": high}
    entries = channel_entries(image)
    if not any(entries):
        return []
    colors = nz.GLASBEY_COLORS
    return [
        {"active": True, "color": colors[i % len(colors)], "window": window} | entry
        for i, entry in enumerate(entries)
    ]
