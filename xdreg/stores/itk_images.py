"""ITK images, in memory and in files, as DataArrays.

Only this module and `xdreg.numerics.itk_transforms` convert between the axis order
``z, y, x`` and ITK's ``x, y, z``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xdreg.coordinates import coordinates, grid_of
from xdreg.errors import InputError, StoreError
from xdreg.grid import SPATIAL_DIMS, Grid, normalise_units, rows_of
from xdreg.stores.named_files import why_not_a_file
from xdreg.stores.paths import as_address, local_path
from xdreg.stores.voxel_files import check_voxels, kept_locale

if TYPE_CHECKING:
    from numpy.typing import NDArray


def from_itk_image(image: Any, *, units: str | None = "millimeter") -> xr.DataArray:
    """Return an ITK image as a DataArray, with every voxel at its physical position.

    Parameters
    ----------
    image : itk.Image
        Two- or three-dimensional, with scalar or vector pixels. Flipped and permuted
        axes are put in order. What remains of an oblique direction matrix is the
        coordinate ``direction``.
    units
        Unit of its coordinates. ITK's convention is millimetres.

    Returns
    -------
    DataArray ([c], [z], y, x)

    Raises
    ------
    InputError
        If it is not two- or three-dimensional, or no image.
    """
    import itk

    _check_image(image)
    # Copied, because a view does not keep the image alive.
    values = np.array(itk.array_view_from_image(image))
    ndim = int(image.GetImageDimension())
    components = values.ndim - ndim
    direction = itk.array_from_matrix(image.GetDirection())[::-1, ::-1]
    spacing = np.array(list(image.GetSpacing()))[::-1]
    index = np.array(list(image.GetLargestPossibleRegion().GetIndex()))[::-1]
    first = np.array(list(image.GetOrigin()))[::-1] + direction @ (spacing * index)
    turn, order, signs = turned(direction)
    # Array axis k runs nearly along an axis, backwards if its sign is negative.
    sizes = np.array(values.shape[:ndim])
    for k in range(ndim):
        if signs[k] < 0:
            first += direction[:, k] * spacing[k] * (sizes[k] - 1)
            values = np.flip(values, axis=k)
    values = values.transpose([*order, *range(ndim, ndim + components)])
    low = first if turn is None else np.linalg.solve(np.asarray(turn), first)
    grid = Grid(
        SPATIAL_DIMS[-ndim:],
        tuple(int(n) for n in sizes[order]),
        tuple(float(s) for s in spacing[order]),
        tuple(float(o) for o in low),
        normalise_units(units),
        turn,
    )
    dims: tuple[str, ...] = grid.dims
    if components:
        values, dims = np.moveaxis(values, -1, 0), ("c", *dims)
    return xr.DataArray(
        np.ascontiguousarray(values), dims=dims, coords=coordinates(grid)
    )


def _check_image(image: Any) -> None:
    """Raise if an object is no ITK image that a DataArray can represent."""
    if not hasattr(image, "GetImageDimension"):
        msg = (
            f"expected an itk.Image, got {type(image).__name__}; read files with "
            "xdreg.open_image"
        )
        raise InputError(msg)
    # A reader that has not looked at its file has an image of no size.
    whole = image.GetLargestPossibleRegion()
    if image.GetBufferedRegion() != whole or not all(whole.GetSize()):
        msg = (
            "the voxels of the itk.Image are not in memory; read them, for example by "
            "reader.Update(), or open the file with xdreg.open_image"
        )
        raise InputError(msg)
    ndim = int(image.GetImageDimension())
    if ndim not in (2, 3):
        msg = (
            f"the image has {ndim} dimensions; expected 2 or 3. Extract one volume "
            "first"
        )
        raise InputError(msg)


def turned(
    direction: NDArray[np.float64],
) -> tuple[tuple[tuple[float, ...], ...] | None, NDArray[np.intp], NDArray[np.float64]]:
    """Return what remains of a direction after its axes were put in order.

    Also the axes in that order, and the sign of each axis as it was.
    """
    from scipy.optimize import linear_sum_assignment  # loads slowly

    axes, order = linear_sum_assignment(-np.abs(direction))
    signs = np.empty(len(direction))
    signs[order] = np.sign(direction[axes, order])
    nearest = direction[:, order] * signs[order]
    if not np.allclose(nearest @ nearest.T, np.eye(len(nearest)), atol=1e-3):
        msg = f"the axes of the image are not at right angles: {direction.tolist()}"
        raise InputError(msg)
    return rows_of(nearest), order, signs


def to_itk_image(array: xr.DataArray) -> Any:
    """Return a DataArray as an ITK image in memory.

    Parameters
    ----------
    array : DataArray ([c], [z], y, x)
        Channels become components of vector pixels.

    Returns
    -------
    itk.Image
        With the direction of the array.

    Raises
    ------
    InputError
        If the image has a time axis of several points, or unusable coordinates.
    """
    import itk

    grid = grid_of(array)
    if "t" in array.dims:
        if array.sizes["t"] > 1:
            msg = f"the image has {array.sizes['t']} time points; take one: .isel(t=0)"
            raise InputError(msg)
        array = array.isel(t=0)
    vector = "c" in array.dims
    values = array.transpose(*grid.dims, *(["c"] if vector else [])).to_numpy()
    values = values.astype(_itk_dtype(values))
    values = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    image = itk.image_from_array(values, is_vector=vector)
    from xdreg.numerics.itk_transforms import set_geometry  # loads numba

    set_geometry(image, grid)
    return image


def _itk_dtype(values: NDArray[Any]) -> np.dtype[Any]:
    """Return a dtype that ITK supports and that represents every value."""
    dtype = values.dtype
    wider = {"bool": np.uint8, "int8": np.int16, "float16": np.float32}
    if dtype.name in wider:
        return np.dtype(wider[dtype.name])
    if dtype.name == "int64":
        for candidate in (np.int32, np.uint32):
            limits = np.iinfo(candidate)
            if not values.size or (
                limits.min <= values.min() and values.max() <= limits.max
            ):
                return np.dtype(candidate)
        msg = (
            f"ITK has no images of {dtype}, and 32 bits do not hold the values; "
            "convert it with image.astype('float64')"
        )
        raise InputError(msg)
    return dtype


def read_image(path: str | os.PathLike[str]) -> Any:
    """Read an image file as an ``itk.Image``."""
    import itk

    address = as_address(path)
    place = local_path(address)
    if not place.exists():
        msg = f"{address} does not exist; check the path"
        raise StoreError(msg)
    if place.is_dir():
        msg = f"{address} is a directory; expected a file, or open it as OME-Zarr"
        raise StoreError(msg)
    why = why_not_a_file(str(place))
    if why is not None:
        msg = f"{address} is {why}; expected a file"
        raise StoreError(msg)
    check_voxels(place)
    try:
        with kept_locale():
            return itk.imread(str(place))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        msg = f"ITK cannot read {address}, is it an image? It says: {reason}"
        raise StoreError(msg) from error
