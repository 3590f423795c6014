"""Arrays ↔ ITK: the one place where axes turn from ``z, y, x`` to ITK's ``x, y, z``.

ITK transforms map fixed points to moving points, in physical units, as xdreg's do; only
the order of axes and components differs. (`xdreg.elastix` speaks to ITK inside an
engine process and turns its own arrays.)
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xdreg import kernels
from xdreg.coordinates import coordinates, grid_of
from xdreg.errors import InputError, StoreError
from xdreg.grid import SPATIAL_DIMS, Grid, normalise_units
from xdreg.paths import as_address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: A direction cosine may be off a permutation by so much and still be one.
_AXIS_TOLERANCE = 1e-6


def from_itk_image(image: Any, *, units: str | None = "millimeter") -> xr.DataArray:
    """Return an ITK image as a DataArray; every voxel keeps its physical place.

    Parameters
    ----------
    image : itk.Image
        Two- or three-dimensional, of scalar or vector pixels. A direction matrix that
        flips or permutes axes is honoured.
    units
        Unit of its coordinates; ITK's convention is millimetres.

    Returns
    -------
    DataArray ([c], [z], y, x)

    Raises
    ------
    InputError
        If the image is oblique, or not two- or three-dimensional.
    """
    import itk

    if not hasattr(image, "GetImageDimension"):
        msg = (
            f"expected an itk.Image, got {type(image).__name__}; read files with "
            "xdreg.open_image"
        )
        raise InputError(msg)
    ndim = int(image.GetImageDimension())
    if ndim not in (2, 3):
        msg = (
            f"the image has {ndim} dimensions; expected 2 or 3. Extract one "
            f"volume first"
        )
        raise InputError(msg)
    # The array of a view would be lost with the image.
    values = np.array(itk.array_view_from_image(image))
    components = values.ndim - ndim
    direction = itk.array_from_matrix(image.GetDirection())[::-1, ::-1]
    spacing = np.array(list(image.GetSpacing()))[::-1]
    index = np.array(list(image.GetLargestPossibleRegion().GetIndex()))[::-1]
    origin = np.array(list(image.GetOrigin()))[::-1] + direction @ (spacing * index)
    axes, signs = _axes_and_signs(direction)
    if not is_aligned(image):
        msg = (
            f"the image is oblique, its direction matrix is {direction[::-1, ::-1]}; "
            "xdreg works on axis-aligned grids. Resample it first: itk.resample_image_"
            "filter(image, size=..., output_spacing=..., output_origin=..., "
            "output_direction=identity)"
        )
        raise InputError(msg)
    # Array axis k runs along physical axis axes[k], backwards where its sign is
    # negative.
    sizes = np.array(values.shape[:ndim])
    low = origin.copy()
    for k in range(ndim):
        if signs[k] < 0:
            low[axes[k]] -= spacing[k] * (sizes[k] - 1)
            values = np.flip(values, axis=k)
    order = np.argsort(axes)
    values = values.transpose([*order, *range(ndim, ndim + components)])
    grid = Grid(
        SPATIAL_DIMS[-ndim:],
        tuple(int(n) for n in sizes[order]),
        tuple(float(s) for s in spacing[order]),
        tuple(float(o) for o in low),
        normalise_units(units),
    )
    dims: tuple[str, ...] = grid.dims
    if components:
        values, dims = np.moveaxis(values, -1, 0), ("c", *dims)
    return xr.DataArray(
        np.ascontiguousarray(values), dims=dims, coords=coordinates(grid)
    )


def _axes_and_signs(
    direction: NDArray[np.float64],
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the physical axis that each array axis runs along, and which way."""
    axes = np.abs(direction).argmax(axis=0)
    return axes, np.sign(direction[axes, range(len(axes))])


def is_aligned(image: Any) -> bool:
    """Tell whether the grid of an ITK image runs along the axes of space."""
    import itk

    direction = itk.array_from_matrix(image.GetDirection())
    axes, signs = _axes_and_signs(direction)
    exact = np.zeros_like(direction)
    exact[axes, range(len(axes))] = signs
    return len(set(axes.tolist())) == len(axes) and bool(
        np.abs(direction - exact).max() <= _AXIS_TOLERANCE
    )


def to_itk_image(array: xr.DataArray) -> Any:
    """Return a DataArray as an ITK image, in memory.

    Parameters
    ----------
    array : DataArray ([c], [z], y, x)
        Channels become vector pixels.

    Returns
    -------
    itk.Image
        With identity direction.

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
    image.SetSpacing([float(s) for s in grid.spacing[::-1]])
    image.SetOrigin([float(o) for o in grid.origin[::-1]])
    return image


def _itk_dtype(values: NDArray[Any]) -> np.dtype[Any]:
    """Return a dtype that ITK knows and that holds every value."""
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


def open_image(
    path: str | os.PathLike[str], *, units: str | None = "millimeter"
) -> xr.DataArray:
    """Read any image file that ITK reads (NRRD, MetaImage, NIfTI, TIFF, PNG, …), whole.

    Parameters
    ----------
    path
        The file.
    units
        Unit of its coordinates; medical formats are in millimetres.

    Returns
    -------
    DataArray ([c], [z], y, x)

    Raises
    ------
    StoreError
        If the file does not exist or ITK cannot read it.
    InputError
        If the image is oblique.
    """
    result = from_itk_image(read_image(path), units=units)
    result.attrs["source"] = as_address(path)
    return result


def read_image(path: str | os.PathLike[str]) -> Any:
    """Read an image file as an ``itk.Image``, or say why that is not possible."""
    import itk

    address = as_address(path)
    if not os.path.exists(address):  # noqa: PTH110 - may be any PathLike
        msg = f"{address} does not exist; check the path"
        raise StoreError(msg)
    if os.path.isdir(address):  # noqa: PTH112
        msg = f"{address} is a directory; open OME-Zarr with xdreg.open_ome_zarr"
        raise StoreError(msg)
    try:
        return itk.imread(address)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        msg = f"ITK cannot read {address}, is it an image? It says: {reason}"
        raise StoreError(msg) from error


def read_transforms(path: str | os.PathLike[str]) -> list[Any]:
    """Return the ITK transforms of a file, in the order in which they stand there.

    Raises
    ------
    StoreError
        If ITK cannot read it.
    """
    import itk

    try:
        return list(itk.transformread(str(path)))
    except RuntimeError as error:
        msg = f"ITK cannot read {path}: {str(error).strip().splitlines()[-1]}"
        raise StoreError(msg) from error


def displacement_image(
    displacement: NDArray[Any], grid: Grid, *, double: bool = False
) -> Any:
    """Return a displacement as an ITK image of vectors.

    Parameters
    ----------
    displacement : (ndim, *grid.shape)
        Fixed → moving, component order as the dims.
    grid
        Its geometry.
    double
        In double precision, which ITK's transforms need.
    """
    import itk

    kind = itk.Image[itk.Vector[itk.D if double else itk.F, grid.ndim], grid.ndim]
    image = kind.New()
    image.SetRegions([int(n) for n in grid.shape[::-1]])
    image.Allocate()
    itk.array_view_from_image(image)[...] = np.moveaxis(displacement[::-1], 0, -1)
    image.SetSpacing([float(s) for s in grid.spacing[::-1]])
    image.SetOrigin([float(o) for o in grid.origin[::-1]])
    return image


def displacement_to_itk(displacement: NDArray[Any], grid: Grid) -> Any:
    """Return a displacement as an ``itk.DisplacementFieldTransform``.

    Parameters
    ----------
    displacement : (ndim, *grid.shape)
        Fixed → moving, component order as the dims.
    grid
        Its geometry.
    """
    import itk

    transform = itk.DisplacementFieldTransform[itk.D, grid.ndim].New()
    transform.SetDisplacementField(displacement_image(displacement, grid, double=True))
    return transform


def displacement_from_itk(transform: Any, grid: Grid) -> NDArray[np.float32]:
    """Sample any ITK transform on a grid.

    Parameters
    ----------
    transform : itk.Transform
        Fixed → moving, in the unit of the grid.
    grid
        Where to sample it.

    Returns
    -------
    (ndim, *grid.shape) float32

    Raises
    ------
    InputError
        If the transform is of another dimension, or is none.
    """
    import itk

    check_transform(transform, grid.ndim)
    matrix = matrix_from_itk(transform)
    if matrix is not None:
        return kernels.resample_displacement(
            *kernels.affine_displacement(matrix, grid), grid
        )
    if hasattr(transform, "GetDisplacementField"):
        stored = transform.GetDisplacementField()
        same = (
            tuple(stored.GetSpacing())[::-1] == grid.spacing
            and tuple(stored.GetOrigin())[::-1] == grid.origin
            and tuple(stored.GetLargestPossibleRegion().GetSize())[::-1] == grid.shape
            and np.array_equal(
                itk.array_from_matrix(stored.GetDirection()), np.eye(grid.ndim)
            )
        )
        if same:
            vectors = np.array(itk.array_view_from_image(stored))
            return np.moveaxis(vectors, -1, 0)[::-1].astype(np.float32)
    transform = _in_double(transform)
    kind = itk.Image[itk.Vector[itk.F, grid.ndim], grid.ndim]
    sampler = itk.TransformToDisplacementFieldFilter[kind, itk.D].New()
    sampler.SetTransform(transform)
    sampler.SetSize([int(n) for n in grid.shape[::-1]])
    sampler.SetOutputSpacing([float(s) for s in grid.spacing[::-1]])
    sampler.SetOutputOrigin([float(o) for o in grid.origin[::-1]])
    sampler.Update()
    vectors = np.array(itk.array_view_from_image(sampler.GetOutput()))
    return np.moveaxis(vectors, -1, 0)[::-1].astype(np.float32)


def move_by_itk(transform: Any, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where an ITK transform maps points that lie anywhere, all at once.

    Parameters
    ----------
    transform : itk.Transform
        Fixed → moving, in the unit of the points.
    points : (n, ndim)
        Physical, in dims order.

    Returns
    -------
    (n, ndim)
        To within single precision of their distance from each other.

    Raises
    ------
    InputError
        If a point is NaN or infinite.
    """
    import itk

    if not np.isfinite(points).all():
        msg = (
            "points to be mapped by an ITK transform hold NaN or infinity; mend the "
            "field before it first, for example with "
            "field.assign(displacement=field.displacement.fillna(0))"
        )
        raise InputError(msg)
    # ITK samples transforms on grids, fast, and single points slowly from Python. So
    # the points become displacements of a grid's: of a line next to the origin. The
    # step is a power of two, so that its multiples are exact.
    count, ndim = points.shape
    step = 2.0**-40
    line = Grid(
        SPATIAL_DIMS[-ndim:],
        (*(1,) * (ndim - 1), count),
        (*(1.0,) * (ndim - 1), step),
        (0.0,) * ndim,
    )
    values = points.T.reshape(ndim, *line.shape).copy()
    values[-1] -= step * np.arange(count)
    # What is left of the result is small, for the sampler gives single precision.
    middle = points[count // 2, ::-1].tolist()
    centre = np.array(list(transform.TransformPoint(middle)))
    near = itk.TranslationTransform[itk.D, ndim].New()
    near.SetOffset((-centre).tolist())
    whole = itk.CompositeTransform[itk.D, ndim].New()
    for part in (near, _in_double(transform), displacement_to_itk(values, line)):
        whole.AddTransform(part)
    moved = displacement_from_itk(whole, line).reshape(ndim, count).T
    return np.asarray(moved + centre[::-1], np.float64)


def _in_double(transform: Any) -> Any:
    """Return a transform in double precision, which ITK does not mix with single."""
    import itk

    if "_float_" not in transform.GetTransformTypeAsString():
        return transform
    found = itk.dict_from_transform(transform)
    entries = found if isinstance(found, list) else [found]
    for entry in entries:
        entry["transformType"]["parametersValueType"] = "float64"
    return itk.transform_from_dict(entries)


def matrix_from_itk(transform: Any) -> NDArray[np.float64] | None:
    """Return a linear ITK transform as a homogeneous matrix in dims order.

    Returns
    -------
    (ndim + 1, ndim + 1) or None
        None where the transform is not linear.
    """
    ndim = int(transform.GetInputSpaceDimension())
    if not transform.IsLinear():
        return None
    zero = np.array(list(transform.TransformPoint([0.0] * ndim)))
    unit = [list(transform.TransformPoint(list(row))) for row in np.eye(ndim)]
    matrix = np.eye(ndim + 1)
    matrix[:-1, :-1] = (np.array(unit) - zero).T[::-1, ::-1]
    matrix[:-1, -1] = zero[::-1]
    return matrix


def matrix_to_itk(matrix: NDArray[np.float64]) -> Any:
    """Return a homogeneous matrix in dims order as an ``itk.AffineTransform``."""
    import itk

    ndim = matrix.shape[0] - 1
    transform = itk.AffineTransform[itk.D, ndim].New()
    linear = np.ascontiguousarray(matrix[:-1, :-1][::-1, ::-1])
    transform.SetMatrix(itk.matrix_from_array(linear))
    transform.SetOffset([float(v) for v in matrix[:-1, -1][::-1]])
    return transform


def itk_parameters(numbers: Sequence[float]) -> Any:
    """Return numbers as the parameters of an ITK transform."""
    import itk

    return itk.OptimizerParameters[itk.D]([float(value) for value in numbers])


def check_transform(transform: Any, ndim: int, name: str = "the transform") -> None:
    """Refuse what is no ITK transform of so many dimensions."""
    if not hasattr(transform, "TransformPoint"):
        msg = (
            f"expected an itk.Transform, got {type(transform).__name__}; read files "
            "with itk.transformread"
        )
        raise InputError(msg)
    if int(transform.GetInputSpaceDimension()) != ndim:
        msg = (
            f"{name} has {transform.GetInputSpaceDimension()} dimensions, the grid has "
            f"{ndim}"
        )
        raise InputError(msg)
