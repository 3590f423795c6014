"""One image with the channels of several, all on the grid of the fixed one."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xdreg.coordinates import coordinates, grid_of
from xdreg.errors import InputError
from xdreg.fields.composition import compose
from xdreg.fields.targets import resampling_grid
from xdreg.fields.warp import Interpolation, Warper, along_axes, as_dtype, make_warper
from xdreg.fields.warp_to import Job, label_jobs, write_jobs
from xdreg.grid import Grid
from xdreg.numerics.interpolation import Labels, Order
from xdreg.stores.apart import check_apart
from xdreg.stores.channels import channel_entries, with_channels
from xdreg.stores.ome_writer import Version, make_layout
from xdreg.stores.pyramid import image_levels

#: Name of the fixed image in those of its channels.
FIXED = "fixed"


def write_aligned(
    fixed: Any,
    moving: Mapping[str, tuple[xr.Dataset, Any]],
    path: str | os.PathLike[str],
    *,
    order: Order = 1,
    fill_value: float = 0,
    label_groups: Labels | None = "nearest",
    levels: int | None = None,
    chunks: int | Sequence[int] | None = None,
    shards: int | Sequence[int] | None = None,
    version: Version = "0.5",
    name: str | None = None,
    overwrite: bool = False,
    fresh: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> None:
    """Write the fixed image and moving ones through their fields, as one OME-Zarr.

    Parameters
    ----------
    fixed : DataTree, DataArray or itk.Image ([c], [z], y, x)
        The fixed image, of which the channels come first.
    moving
        By name a field, fixed → moving, and the moving image.
    path, order, fill_value, levels, chunks, shards, version, name, overwrite, fresh
        As in `xdreg.warp_to`. The dtype is one that holds the values of all images.
    label_groups
        As in `xdreg.warp_to`, for the labels of all images. They are named after the
        image: ``r2_cells``.
    storage_options, progress
        As in `xdreg.warp_to`.

    Raises
    ------
    InputError, StoreError
        As in `xdreg.warp_to`, or if an image has several time points.
    """
    image = _one_time(image_levels(fixed, FIXED)[0], FIXED)
    same = compose(np.eye(grid_of(image, FIXED).ndim + 1), like=image)
    target = resampling_grid(same)
    # The fixed image keeps its values: its voxels are those of the result.
    exact = Interpolation(0, None, fill_value)
    parts = [_part(FIXED, image, make_warper(same, image, target, exact))]
    options = version, levels, chunks, shards
    jobs, looks = list[Job](), dict[str, Any]()

    def add_labels(field: xr.Dataset, image: xr.DataArray, one: str) -> None:
        prefix = _folder_prefix(one, looks)
        made = label_jobs(
            field, image, target, label_groups, "finest", options, one, prefix
        )
        jobs.extend(made[0])
        looks.update(made[1])

    add_labels(same, image, FIXED)
    for one, (field, given) in moving.items():
        source = _one_time(image_levels(given, one)[0], one)
        own = along_axes(field, source, None)
        how = Interpolation(order, None, fill_value)
        parts.append(_part(one, source, make_warper(own, source, target, how)))
        add_labels(own, source, one)
    dtype = np.result_type(*(part.warper.dtype for part in parts))
    layout = make_layout(_template(image, parts, target, dtype), *options, name)
    joined = _Joined(
        tuple((part.warper, place) for part in parts for place in part.places),
        target,
        dtype,
    )
    check_apart(path, fixed, *moving.values())
    write_jobs(
        [Job(layout, [joined, *(None for _ in layout.grids[1:])], exact), *jobs],
        path,
        looks=looks,
        overwrite=overwrite,
        fresh=fresh,
        storage_options=storage_options,
        progress=progress,
    )


@dataclass(frozen=True)
class _Part:
    """An image of several: its warper, and an entry of OME-Zarr for each channel."""

    warper: Warper
    entries: list[dict[str, Any]]

    @property
    def places(self) -> list[tuple[int, ...]]:
        """Position of each channel among the warper's axes other than spatial."""
        return list(self.warper.readers)


@dataclass(frozen=True)
class _Joined:
    """A warper of the channels of several images, each a warper and a position."""

    channels: tuple[tuple[Warper, tuple[int, ...]], ...]
    target: Grid
    dtype: np.dtype[Any]
    others: tuple[str, ...] = ("c",)

    def part(self, position: tuple[int, ...], window: Sequence[slice]) -> NDArray[Any]:
        """Return a window of one channel."""
        warper, place = self.channels[position[0]]
        return as_dtype(warper.part(place, window), self.dtype)


def _one_time(image: xr.DataArray, name: str) -> xr.DataArray:
    """Return an image without an axis of time, or raise if it has several points."""
    if image.sizes.get("t", 1) > 1:
        msg = (
            f"{name} has {image.sizes['t']} time points; choose one, for example "
            "image.isel(t=0)"
        )
        raise InputError(msg)
    return image.isel(t=0, drop=True) if "t" in image.dims else image


def _part(name: str, image: xr.DataArray, warper: Warper) -> _Part:
    """Return an image whose channels are named after it."""
    if "c" not in image.dims:
        return _Part(warper, [_windowed({"label": name}, warper.dtype)])
    return _Part(
        warper,
        [
            _windowed(entry | {"label": f"{name}:{entry.get('label', i)}"}, image.dtype)
            for i, entry in enumerate(channel_entries(image))
        ],
    )


def _folder_prefix(name: str, taken: Mapping[str, Any]) -> str:
    """Return what a round's labels start with, and no others: a name of folders."""
    prefix = re.sub(r"[^\w.-]", "_", name) + "_"
    while any(other.startswith(prefix) for other in taken):
        prefix += "_"
    return prefix


def _windowed(entry: dict[str, Any], dtype: np.dtype[Any]) -> dict[str, Any]:
    """Return an entry with display limits; by default those of the image's own type.

    In a wider type an image of 8 bits would be black.
    """
    if "window" in entry or dtype.kind not in "iu":
        return entry
    low, high = float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)
    return entry | {"window": {"min": low, "max": high, "start": low, "end": high}}


def _template(
    image: xr.DataArray, parts: Sequence[_Part], target: Grid, dtype: np.dtype[Any]
) -> xr.DataArray:
    """Return an image as the result will be, without values."""
    entries = [entry for part in parts for entry in part.entries]
    data = dask.array.zeros((len(entries), *target.shape), dtype=dtype, chunks=-1)
    result = xr.DataArray(data, dims=("c", *target.dims), name=image.name)
    result = result.assign_coords(coordinates(target))
    return with_channels(result, entries)
