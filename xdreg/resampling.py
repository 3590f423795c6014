"""Out-of-core resampling of the moving image through a displacement field."""

from __future__ import annotations

import math
import sys
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import dask.array
import numpy as np
import xarray as xr

from xdreg import kernels
from xdreg.coordinates import coordinates, grid_of, spatial_dims
from xdreg.errors import InputError
from xdreg.field import field_grid, fixed_grid, open_displacement
from xdreg.grid import Grid, unit_ratio
from xdreg.multiscale import image_levels
from xdreg.readers import image_reader

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xdreg.readers import FieldReader, ImageReader

#: Voxels per axis of a warped image's chunks, where the target has none of its own.
#: Smaller ones are joined up to it: a chunk of the result seldom lies on chunks of the
#: moving image, and reads all of those that it touches.
CHUNK = {2: 1024, 3: 128}


def warp(
    field: xr.Dataset,
    moving: Any,
    *,
    order: Literal[0, 1] = 1,
    like: xr.DataArray | xr.DataTree | None = None,
    fill_value: float = 0,
) -> xr.DataArray:
    """Resample the moving image onto the fixed grid, lazily.

    Each chunk reads only the part of the moving image that the field maps it onto.
    Channels and time points are resampled one by one.

    Parameters
    ----------
    field : Dataset
        A displacement field, fixed → moving.
    moving : DataArray, DataTree or itk.Image ([t], [c], [z], y, x)
        The image to resample; of a tree, the finest level.
    order
        1 interpolates linearly; 0 takes the nearest voxel, for labels and masks.
    like : DataArray or DataTree, optional
        Whose grid to resample onto; by default the fixed image's. Small chunks of it
        are joined.
    fill_value
        Value where the moving image has none.

    Returns
    -------
    DataArray ([t], [c], [z], y, x)
        With the dtype of the moving image; chunked.

    Raises
    ------
    InputError
        If the images have different dimensions, units that do not convert, ``order`` is
        another number, or ``fill_value`` does not fit the dtype.
    """
    whole = isinstance(order, int | np.integer) and not isinstance(order, bool)
    if not whole or order not in (0, 1):
        msg = f"order must be 1, linear, or 0, nearest, for labels; got {order!r}"
        raise InputError(msg)
    image = image_levels(moving, "moving")[0]
    target = fixed_grid(field)
    chunks: tuple[tuple[int, ...], ...] | None = None
    if like is not None:
        template = image_levels(like, "like")[0]
        target = grid_of(template, "like").to_units(target.units, "like")
        sizes = template.chunksizes
        if sizes:
            chunks = tuple(_joined(sizes[d], CHUNK[target.ndim]) for d in target.dims)
    if chunks is None:
        chunks = dask.array.core.normalize_chunks(CHUNK[target.ndim], target.shape)
    dims = spatial_dims(image, "moving")
    if dims != target.dims:
        msg = f"moving has dimensions {dims} and the field {target.dims}"
        raise InputError(msg)
    dtype = np.dtype(np.float32) if image.dtype == bool and order == 1 else image.dtype
    _check_fill(fill_value, dtype)
    grid = grid_of(image, "moving")
    own = grid.to_units(target.units, "moving")
    others = [str(d) for d in image.dims if d not in dims]
    readers = {}
    for position in np.ndindex(*(image.sizes[d] for d in others)):
        select = dict(zip(others, position, strict=True))
        readers[position] = image_reader(image, "moving", grid=own, select=select)
    displacement = open_displacement(field)
    field_units = field_grid(field).units
    ratio = unit_ratio(field_units, target.units)
    if ratio != 1.0:
        msg = f"the field is in {field_units}, the fixed image in {target.units}"
        raise InputError(msg)
    data = dask.array.map_blocks(
        _warp_chunk,
        chunks=(*((1,) * image.sizes[d] for d in others), *chunks),
        dtype=dtype,
        meta=np.empty((0,) * image.ndim, dtype),
        readers=_Readers(readers),
        displacement=displacement,
        target=_Target(target),
        order=order,
        fill=fill_value,
    )
    spatial: Any = coordinates(target)
    if like is not None:
        spatial = {d: template.coords[d] for d in dims}
    result = xr.DataArray(
        data,
        dims=(*others, *dims),
        name=image.name,
        attrs={k: v for k, v in image.attrs.items() if k != "source"},
    ).assign_coords(spatial)
    return result.assign_coords({d: image[d] for d in others if d in image.coords})


def _joined(chunks: tuple[int, ...], most: int) -> tuple[int, ...]:
    """Join chunks along an axis while they have at most so many voxels together."""
    joined = [chunks[0]]
    for size in chunks[1:]:
        if joined[-1] + size <= most:
            joined[-1] += size
        else:
            joined.append(size)
    return tuple(joined)


class _Readers:
    """The readers of every channel and time point, as one value for Dask."""

    def __init__(self, readers: dict[tuple[int, ...], ImageReader]) -> None:
        self.readers = readers

    def __dask_tokenize__(self) -> object:
        return [(k, r.__dask_tokenize__()) for k, r in self.readers.items()]


class _Target:
    """The target's geometry; Dask would take a dataclass apart."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid

    def __dask_tokenize__(self) -> object:
        return str(self.grid)


def _warp_chunk(
    readers: _Readers,
    displacement: FieldReader,
    target: _Target,
    order: Literal[0, 1],
    fill: float,
    block_info: Any = None,
) -> NDArray[Any]:
    """Make one chunk of the warped image."""
    location = block_info[None]["array-location"]
    dtype = block_info[None]["dtype"]
    ndim = target.grid.ndim
    position = tuple(int(start) for start, _ in location[:-ndim])
    window = tuple(slice(int(a), int(b)) for a, b in location[-ndim:])
    grid = target.grid.window(window)
    values = pull(readers.readers[position], displacement, grid, order, fill)
    return cast(values, dtype).reshape((1,) * len(position) + grid.shape)


def pull(
    reader: ImageReader,
    displacement: FieldReader,
    grid: Grid,
    order: Literal[0, 1],
    fill: float,
) -> NDArray[Any]:
    """Read the part of the moving image that a window maps onto, and resample it.

    Parameters
    ----------
    reader
        The moving image.
    displacement
        The field.
    grid
        The window of the target.
    order, fill
        As in `warp`.

    Returns
    -------
    (*grid.shape)
        float32 for ``order=1``, else the image's dtype.
    """
    field, around = displacement.read_around(grid)
    lower, upper = kernels.moved_bounds(field, around, grid)
    part = reader.grid.covering(lower, upper, margin=1)
    if part is None:
        return np.full(grid.shape, fill, np.float32 if order == 1 else reader.dtype)
    return kernels.warp(
        reader.read(part),
        reader.grid.window(part),
        field,
        around,
        grid,
        order=order,
        fill=fill,
    )


def cast(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Bring interpolated values to a dtype: round and clip for integers."""
    if values.dtype == dtype:
        return values
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        rounded = np.nan_to_num(np.rint(values.astype(np.float64)))
        return np.clip(rounded, limits.min, limits.max).astype(dtype)  # type: ignore[no-any-return]
    return np.asarray(values, dtype)


def _check_fill(fill: float, dtype: np.dtype[Any]) -> None:
    # NaN and infinity are values that floats may have.
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
