"""Out-of-core resampling of the moving image through a displacement field."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, get_args

import dask.array
import numpy as np
import xarray as xr
from dask.base import normalize_token
from numpy.typing import NDArray

from xdreg.coordinates import coordinates, grid_of, spatial_dims
from xdreg.errors import InputError
from xdreg.fields.composition import between
from xdreg.fields.displacement import open_displacement
from xdreg.fields.field import field_grid
from xdreg.fields.reader import FieldReader
from xdreg.fields.targets import Region, Spacing, resampling_grid
from xdreg.grid import Grid, unit_ratio
from xdreg.numerics import interpolation, kernels
from xdreg.numerics.interpolation import Labels, Order
from xdreg.stores.channels import OMERO
from xdreg.stores.graphs import shared
from xdreg.stores.pyramid import image_levels
from xdreg.stores.readers import ImageReader, image_reader

#: Voxels per axis of a warped image's chunks, if the target has none. Smaller chunks
#: are joined, since each chunk of the result reads all source chunks it touches.
CHUNK = {2: 1024, 3: 128}

#: A window that needs more voxels of the image or more points of the field is halved. A
#: point takes about ten times the memory of a voxel.
MOST_VOXELS = 2**24
MOST_POINTS = 2**21


def warp(
    field: xr.Dataset,
    moving: Any,
    *,
    order: Order = 1,
    labels: Labels | None = None,
    like: xr.DataArray | xr.DataTree | None = None,
    spacing: Spacing = None,
    region: Region = None,
    fill_value: float = 0,
) -> xr.DataArray:
    """Resample the moving image onto the fixed grid, or another grid, lazily.

    Each chunk reads only the part of the moving image that the field maps it onto.
    Channels and time points are resampled one by one. `warp_to` writes the result to a
    store, with its pyramid.

    Parameters
    ----------
    field : Dataset
        A displacement field, fixed → moving; that of a time series has one for each of
        the moving image's time points.
    moving : DataArray, DataTree or itk.Image ([t], [c], [z], y, x)
        The image to resample; for a tree, its finest level.
    order
        1 for linear interpolation; 3 for interpolating cubic B-splines, as in ITK and
        scipy; 0 for the nearest voxel, for labels and masks.
    labels
        For labels, in place of ``order``: ``"nearest"``; ``"majority"``, the label with
        the largest weight in linear interpolation; or ``"gaussian"``, the label with
        the largest weight under a Gaussian of one voxel, for smoother outlines. No new
        labels are created.
    like : DataArray or DataTree, optional
        Image whose grid to resample onto; by default the fixed image's grid. Its small
        chunks are joined.
    spacing
        Distance of the result's voxels, one number or one per dim, in the units of the
        fixed image; by default the grid's own.
    region
        A slice of coordinates by dim, both ends included: the part of the grid to
        compute, for example ``{"z": slice(100.0, 200.0)}``.
    fill_value
        Value outside the moving image.

    Returns
    -------
    DataArray ([t], [c], [z], y, x)
        Chunked, with the dtype of the moving image. Cubic interpolation overshoots at
        edges; values beyond the range of an integer dtype are clipped.

    Raises
    ------
    InputError
        If the images have different dimensions, units cannot be converted, ``order``,
        ``labels``, ``spacing`` or ``region`` is not valid, or ``fill_value`` does not
        fit the dtype.
    """
    how = Interpolation(order, labels, fill_value)
    image = image_levels(moving, "moving")[0]
    field = along_axes(field, image, like)
    target = resampling_grid(field, like, spacing, region)
    template = None
    if like is not None and spacing is None and region is None:
        template = image_levels(like, "like")[0]
    most = CHUNK[target.ndim]
    if template is not None and template.chunks:
        sizes = template.chunksizes
        chunks = tuple(_merged_chunks(sizes[d], most) for d in target.dims)
    else:
        chunks = dask.array.core.normalize_chunks(most, target.shape)
    warper = make_warper(field, image, target, how)
    data = dask.array.map_blocks(
        _warp_chunk,
        chunks=(*((1,) * image.sizes[d] for d in warper.others), *chunks),
        dtype=warper.dtype,
        meta=np.empty((0,) * image.ndim, warper.dtype),
        warper=shared(warper, "warp"),
    )
    result = warped_like(image, target, data)
    if template is not None:
        result = result.assign_coords({d: template.coords[d] for d in target.dims})
    return result


def along_axes(field: xr.Dataset, moving: xr.DataArray, like: Any) -> xr.Dataset:
    """Return a field along the axes of a moving image, and of ``like`` if given."""
    levels = [] if like is None else image_levels(like, "like")
    fixed = grid_of(levels[0], "like") if levels else None
    return between(field, fixed, grid_of(moving, "moving"))


def warped_like(image: xr.DataArray, target: Grid, data: Any) -> xr.DataArray:
    """Return ``data`` as a warped image, with the name and labels of ``image``."""
    others = [str(d) for d in image.dims if d not in target.dims]
    result = xr.DataArray(
        data,
        dims=(*others, *target.dims),
        attrs={k: v for k, v in image.attrs.items() if k != "source"},
    ).assign_coords(coordinates(target))
    # The constructor would use the name of the data if the image has none.
    result.name = image.name
    kept = [d for d in (*others, OMERO) if d in image.coords]
    return result.assign_coords({d: image[d].variable for d in kept})


@dataclass(frozen=True)
class Interpolation:
    """How values between and outside voxels are computed; parameters as in `warp`."""

    order: Order
    labels: Labels | None
    fill: float

    def __post_init__(self) -> None:
        """Raise if order or labels are not valid."""
        whole = isinstance(self.order, int | np.integer)
        if not whole or isinstance(self.order, bool) or self.order not in (0, 1, 3):
            msg = (
                "order must be 1, linear, 3, cubic, or 0, nearest, for labels; got "
                f"{self.order!r}"
            )
            raise InputError(msg)
        if self.labels is None:
            return
        if not isinstance(self.labels, str) or self.labels not in get_args(Labels):
            msg = f"labels must be one of {get_args(Labels)}, got {self.labels!r}"
            raise InputError(msg)
        if self.order == 3:
            msg = f"labels, {self.labels!r}, are not interpolated; leave order 3 out"
            raise InputError(msg)

    @property
    def keeps_values(self) -> bool:
        """Whether every value of the result is a value of the image."""
        return self.labels is not None or self.order == 0

    def dtype_of(self, image: np.dtype[Any]) -> np.dtype[Any]:
        """Return the dtype of the result; interpolated masks are float32."""
        if image.kind == "b" and not self.keeps_values:
            return np.dtype(np.float32)
        return image


@dataclass(frozen=True)
class Warper:
    """Computes any part of a warped image.

    Readers of the moving image are by time point and channel, the dims ``others``.
    There is one displacement for all, or one for each time point. ``target`` is the
    grid of the whole result.
    """

    readers: dict[tuple[int, ...], ImageReader]
    others: tuple[str, ...]
    displacements: tuple[FieldReader, ...]
    target: Grid
    how: Interpolation
    dtype: np.dtype[Any]

    def __dask_tokenize__(self) -> object:
        """Return a token in which the image, which all readers share, counts once."""
        one, *_ = self.readers.values()
        rest = self.displacements, self.target, self.how, self.dtype
        return ("xdreg.Warper", normalize_token((one, list(self.readers), *rest)))

    def part(self, position: tuple[int, ...], window: Sequence[slice]) -> NDArray[Any]:
        """Return a window of the result for one time point and channel."""
        grid = self.target.window(window)
        several = len(self.displacements) > 1
        field = self.displacements[position[self.others.index("t")] if several else 0]
        values = warp_window(self.readers[position], field, grid, self.how)
        return as_dtype(values, self.dtype)


def make_warper(
    field: xr.Dataset, image: xr.DataArray, target: Grid, how: Interpolation
) -> Warper:
    """Return the warper of an image onto a grid; raise if the image does not fit."""
    dims = spatial_dims(image, "moving")
    if dims != target.dims:
        msg = f"moving has dimensions {dims} and the field {target.dims}"
        raise InputError(msg)
    dtype = how.dtype_of(image.dtype)
    _check_fill(how.fill, dtype)
    own = grid_of(image, "moving").to_units(target.units, "moving")
    field_units = field_grid(field).units
    if unit_ratio(field_units, target.units) != 1.0:
        msg = f"the field is in {field_units}, the fixed image in {target.units}"
        raise InputError(msg)
    others = tuple(str(d) for d in image.dims if d not in dims)
    readers = {}
    for position in np.ndindex(*(image.sizes[d] for d in others)):
        select = dict(zip(others, position, strict=True))
        readers[position] = image_reader(image, "moving", grid=own, select=select)
    return Warper(readers, others, _by_time(field, image), target, how, dtype)


def _by_time(field: xr.Dataset, image: xr.DataArray) -> tuple[FieldReader, ...]:
    """Return a reader of a field, or of each time point of a field of a series."""
    if "t" not in field["displacement"].dims:
        return (open_displacement(field),)
    count = field.sizes["t"]
    if image.sizes.get("t") != count:
        msg = (
            f"the field has {count} time points and moving "
            f"{image.sizes.get('t', 'no axis t')}; choose one, for example "
            "field.isel(t=0), or those of the field"
        )
        raise InputError(msg)
    known = "t" in image.coords and "t" in field.coords
    if known and not bool((image["t"].values == field["t"].values).all()):
        msg = (
            "the field and moving have other times; choose those of the field by "
            "moving.sel(t=field.t), or number both with drop_vars('t')"
        )
        raise InputError(msg)
    return tuple(open_displacement(field.isel(t=n)) for n in range(count))


def _merged_chunks(chunks: tuple[int, ...], most: int) -> tuple[int, ...]:
    """Join chunks along an axis up to ``most`` voxels."""
    joined = [chunks[0]]
    for size in chunks[1:]:
        if joined[-1] + size <= most:
            joined[-1] += size
        else:
            joined.append(size)
    return tuple(joined)


def _warp_chunk(warper: Warper, block_info: Any = None) -> NDArray[Any]:
    """Return one chunk of the warped image."""
    location = block_info[None]["array-location"]
    ndim = warper.target.ndim
    position = tuple(int(start) for start, _ in location[:-ndim])
    window = tuple(slice(int(a), int(b)) for a, b in location[-ndim:])
    values = warper.part(position, window)
    return values.reshape((1,) * len(position) + values.shape)


def warp_window(
    reader: ImageReader, displacement: FieldReader, grid: Grid, how: Interpolation
) -> NDArray[Any]:
    """Resample the part of the moving image that a window of the target maps onto.

    A window that needs too much of the image or of the field, because it is coarser or
    the field compresses, is computed in halves. The result is float32 if values are
    interpolated, else of the image's dtype.
    """
    ends = grid.index_to_physical([[0] * grid.ndim, [n - 1 for n in grid.shape]])
    around = displacement.window(*ends)
    if _size(around) > MOST_POINTS and grid.size > 1:
        return _in_halves(reader, displacement, grid, how)
    field, field_part = displacement.read(around)
    lower, upper = kernels.moved_bounds(field, field_part, grid)
    margin = interpolation.margin_of(how.order, how.labels)
    part = reader.grid.covering(lower, upper, margin=margin)
    if part is None:
        dtype = reader.dtype if how.keeps_values else np.float32
        return np.full(grid.shape, how.fill, dtype)
    if _size(part) > MOST_VOXELS and grid.size > 1:
        return _in_halves(reader, displacement, grid, how)
    return interpolation.resample(
        reader.read(part),
        reader.grid.window(part),
        field,
        field_part,
        grid,
        order=how.order,
        labels=how.labels,
        fill=how.fill,
    )


def _size(window: Sequence[slice]) -> int:
    return math.prod([part.stop - part.start for part in window])


def _in_halves(
    reader: ImageReader, displacement: FieldReader, grid: Grid, how: Interpolation
) -> NDArray[Any]:
    axis = int(np.argmax(grid.shape))
    middle = grid.shape[axis] // 2
    halves = []
    for part in (slice(0, middle), slice(middle, grid.shape[axis])):
        window = [slice(0, n) for n in grid.shape]
        window[axis] = part
        halves.append(warp_window(reader, displacement, grid.window(window), how))
    return np.concatenate(halves, axis)


def as_dtype(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Convert interpolated values to a dtype; integers are rounded and clipped."""
    if values.dtype == dtype:
        return values
    if dtype.kind not in "iu":
        return np.asarray(values, dtype)
    limits = np.iinfo(dtype)
    low, high = float(limits.min), float(limits.max)
    if dtype.itemsize == 8:
        # The largest 64-bit integer is rounded up to a float that would wrap.
        high = float(np.nextafter(high, 0))
    # float32 holds 16-bit integers exactly.
    wide = values.astype(np.float32 if dtype.itemsize <= 2 else np.float64)
    np.nan_to_num(np.rint(wide, out=wide), copy=False)
    return np.clip(wide, low, high, out=wide).astype(dtype)  # type: ignore[no-any-return]


def _check_fill(fill: float, dtype: np.dtype[Any]) -> None:
    """Raise if a dtype cannot hold the fill value; floats hold NaN and infinity."""
    if not isinstance(fill, Real) or sys.float_info.max < abs(fill) < math.inf:
        msg = f"fill_value must be a number, got {fill!r}"
        raise InputError(msg)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if not (limits.min <= fill <= limits.max and float(fill).is_integer()):
            msg = (
                f"fill_value {fill!r} does not fit {dtype}; choose a whole number from "
                f"{limits.min} to {limits.max}, or warp moving.astype('float32')"
            )
            raise InputError(msg)
