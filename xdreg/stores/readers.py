"""Readers: what a block task holds in place of an image.

A reader reads windows of an image. If the image is in a Zarr store, it pickles to about
a kilobyte, so that tens of thousands of tasks can share it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask
import dask.array
import numpy as np
import xarray as xr
from dask.base import normalize_token

from xdreg.coordinates import grid_of, spatial_dims
from xdreg.errors import InputError, UnavailableError, UnreadableError, warn
from xdreg.grid import Grid
from xdreg.numerics import kernels
from xdreg.stores.channels import ChannelMix
from xdreg.stores.checked_arrays import counting_chunks
from xdreg.stores.identity import identity_of, key_of, zarr_arrays_in
from xdreg.stores.ome_zarr import source_behind, with_checked_sources
from xdreg.stores.retrying import retry_read

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from xdreg.stores.channels import Selection


#: Voxels per axis of the smallest window that is tried to find unreadable parts, in a
#: source without chunks.
UNKNOWN_CHUNK = 32


#: An image of which a larger share cannot be read is not available rather than damaged.
MOST_LOST = 0.25


@dataclass(frozen=True)
class Lost:
    """A part of an image that cannot be read: its voxels, why, and the chunk."""

    voxels: int
    reason: str
    chunk: str | None = None


def check_lost(lost: Sequence[Lost], size: int) -> None:
    """Raise `UnreadableError` if more than `MOST_LOST` of ``size`` voxels are lost."""
    share = sum(part.voxels for part in lost) / size
    if share > MOST_LOST:
        msg = (
            f"{share:.0%} of an image cannot be read, more than {MOST_LOST:.0%}, so "
            "the run stops; what is done is kept. Call again once the store answers. "
            f"The first: {lost[0].reason}"
        )
        raise UnreadableError(msg)


class LazyArray:
    """A Dask array that a task computes window by window.

    Dask would compute all of a plain Dask array before the task.
    """

    def __init__(self, array: dask.array.Array) -> None:
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, index: tuple[int | slice, ...]) -> NDArray[Any]:
        return np.asarray(self._array[index].compute(scheduler="synchronous"))

    def identity(self) -> dict[str, Any]:
        """Return the name of the array, and the identities of what it is made of."""
        arrays = zarr_arrays_in(self._array.dask)
        return {"graph": self._array.name, "of": [identity_of(a) for a in arrays]}


class ImageReader:
    """A reader of one channel, or a mix of channels, at one time point.

    ``source`` is anything with numpy-style slicing: a Zarr or numpy array, a
    `LazyArray` or a `ChannelMix`. ``axes`` are, for each of its axes, the spatial dim
    or the index to take.
    """

    def __init__(self, source: Any, grid: Grid, axes: tuple[str | int, ...]) -> None:
        self.source, self.grid, self.axes = source, grid, axes
        self._key: object = None

    def __dask_tokenize__(self) -> object:
        if self._key is None:
            self._key = key_of(self.source)
        return ("xdreg.ImageReader", normalize_token((self._key, self.grid, self.axes)))

    @property
    def dtype(self) -> np.dtype[Any]:
        """The stored dtype."""
        dtype: np.dtype[Any] = self.source.dtype
        return dtype

    def read(self, window: Sequence[slice] | None = None) -> NDArray[Any]:
        """Return a window, by default all, in dims order and the stored dtype."""
        if window is None:
            window = tuple(slice(0, n) for n in self.grid.shape)
        parts = dict(zip(self.grid.dims, window, strict=True))
        index = tuple(parts[a] if isinstance(a, str) else a for a in self.axes)
        values = retry_read(
            lambda: np.asarray(self.source[index]),
            f"{_place_of(self.source)} at {_extent(window, self.grid.dims)}",
            remote=_is_remote(self.source),
        )
        stored = [a for a in self.axes if isinstance(a, str)]
        return values.transpose([stored.index(dim) for dim in self.grid.dims])

    def read_finite(self, window: Sequence[slice] | None = None) -> NDArray[np.float32]:
        """Return a window as float32, with NaN for every value that is not finite."""
        with np.errstate(over="ignore", invalid="ignore"):
            values = self.read(window).astype(np.float32)
        values[~np.isfinite(values)] = np.nan
        return values

    def read_known(
        self,
        window: Sequence[slice] | None = None,
        lost: list[Lost] | None = None,
    ) -> NDArray[np.float32]:
        """Return a window as float32, with NaN also for unreadable chunks.

        For a look at a whole level, which should not fail for a part of it. Blocks to
        register are read by `read_finite`. Unreadable parts are added to ``lost``.

        Raises
        ------
        UnavailableError
            If the storage is gone, or does not answer.
        """
        if window is None:
            window = tuple(slice(0, n) for n in self.grid.shape)
        # A chunk is waited for once, however often a part of it is looked at.
        with counting_chunks():
            return self._read_known(window, lost)

    def _read_known(
        self, window: Sequence[slice], lost: list[Lost] | None
    ) -> NDArray[np.float32]:
        try:
            return self.read_finite(window)
        except UnavailableError:
            raise
        except UnreadableError as error:
            cut = self._middle_border(window)
            if cut is None:
                warn(f"{error}; it is masked out")
                shape = [part.stop - part.start for part in window]
                if lost is not None:
                    lost.append(Lost(math.prod(shape), str(error), error.chunk))
                return np.full(shape, np.nan, np.float32)
        axis, border = cut
        halves = slice(window[axis].start, border), slice(border, window[axis].stop)
        values = [
            self._read_known((*window[:axis], half, *window[axis + 1 :]), lost)
            for half in halves
        ]
        return np.concatenate(values, axis)

    def read_most(self) -> NDArray[np.float32]:
        """Return the whole image as `read_known` does; raise if much is unreadable.

        Raises
        ------
        UnreadableError
            If it is more than `MOST_LOST`: what was found in the rest would be kept.
        """
        lost: list[Lost] = []
        values = self.read_known(lost=lost)
        check_lost(lost, self.grid.size)
        return values

    def _middle_border(self, window: Sequence[slice]) -> tuple[int, int] | None:
        """Return axis and index of a border of chunks in a window, None without any."""
        source = self.source
        chunks = getattr(source, "shards", None) or getattr(source, "chunks", None)
        sizes = [UNKNOWN_CHUNK] * self.grid.ndim
        if chunks is not None and len(chunks) == len(self.axes):
            by_dim = dict(zip(self.axes, chunks, strict=True))
            sizes = [by_dim[dim] for dim in self.grid.dims]
        borders = [
            range(-(-(part.start + 1) // size) * size, part.stop, size)
            for part, size in zip(window, sizes, strict=True)
        ]
        axis = int(np.argmax([len(places) for places in borders]))
        if not borders[axis]:
            return None
        return axis, borders[axis][len(borders[axis]) // 2]

    def read_mask(
        self,
        target: Grid,
        displacement: NDArray[np.float32] | None = None,
        displacement_grid: Grid | None = None,
    ) -> NDArray[np.bool_]:
        """Return the image as a mask on another grid, by the nearest voxel.

        The displacement, around the target, maps it into the mask. A mask finer than
        the target is read with a stride, so memory is bounded by the target. The result
        is false outside the mask's own region.
        """
        if displacement is None or displacement_grid is None:
            identity = np.eye(target.ndim + 1)
            displacement, displacement_grid = kernels.affine_displacement(
                identity, target
            )
        lower, upper = kernels.moved_bounds(displacement, displacement_grid, target)
        window = self.grid.covering(lower, upper, margin=1)
        if window is None:
            return np.zeros(target.shape, bool)
        strides = self.grid.strides_to(target)
        every = [
            slice(w.start, w.stop, k) for w, k in zip(window, strides, strict=True)
        ]
        # Writers leave out the chunks of a mask that are all 0.
        with counting_chunks(apart=True):
            values = self.read(every)
        # NaN is not foreground, though it differs from 0.
        return kernels.warp_array(
            ((values != 0) & (values == values)).astype(np.uint8),
            self.grid.window(every),
            displacement,
            displacement_grid,
            target,
            order=0,
            fill=0,
        ).astype(bool)


def _place_of(source: Any) -> str:
    """Return an image's location, for an error."""
    if hasattr(source, "store"):
        return f"{source.store}/{source.path}"
    return "the image"


def _extent(window: Sequence[slice], dims: Sequence[str]) -> str:
    parts = zip(dims, window, strict=True)
    return ", ".join(f"{dim} {part.start}…{part.stop - 1}" for dim, part in parts)


def _is_remote(source: Any) -> bool:
    from zarr.storage import FsspecStore

    return isinstance(getattr(source, "store", None), FsspecStore)


def source_of(array: xr.DataArray) -> Any:
    """Return an image's voxels as they are stored, a numpy array or a `LazyArray`."""
    stored = source_behind(array)
    if stored is not None:
        return stored
    if array.chunks is not None:
        return LazyArray(with_checked_sources(array.data))
    if array.variable._in_memory:  # the only way to find out without loading
        return array.to_numpy()
    return LazyArray(with_checked_sources(array.chunk().data))


def image_reader(
    array: xr.DataArray,
    name: str = "image",
    *,
    grid: Grid | None = None,
    select: Mapping[str, Selection] | None = None,
) -> ImageReader:
    """Return the reader of an image ``([t], [c], [z], y, x)``.

    ``grid`` may be in other units than the coordinates. ``select`` holds the time point
    ``t`` and the channel ``c`` to read, or a weight per channel. It is needed for axes
    of several points or channels.
    """
    dims = spatial_dims(array, name)
    grid = grid_of(array, name) if grid is None else grid
    if array.dtype.kind not in "biuf":
        msg = (
            f"{name} has dtype {array.dtype}; expected integers, floating point or "
            f"bool. Take, for example, abs({name}) of a complex image"
        )
        raise InputError(msg)
    source = source_of(array)
    axes: list[str | int] = []
    for axis, dim in enumerate(array.dims):
        if dim in dims:
            axes.append(str(dim))
            continue
        index = (select or {}).get(str(dim), 0 if array.sizes[dim] == 1 else None)
        if index is None:
            what = {"c": "channels", "t": "time points"}[str(dim)]
            msg = (
                f"{name} has {array.sizes[dim]} {what}; choose one, for example "
                f"{name}.isel({dim}=0)"
            )
            if dim != "c":
                raise InputError(msg)
            if array.sizes["c"] in (3, 4):
                msg += ", or 'luminance' of an RGB image"
            raise InputError(msg, channel=0)
        if isinstance(index, tuple):
            source = ChannelMix(source, axis, index)
        else:
            axes.append(index)
    return ImageReader(source, grid, tuple(axes))
