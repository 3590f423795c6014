"""Conversion of transforms between arrays in dims order and ITK.

ITK transforms map fixed points to moving points in physical units, as xdreg's do. Only
the order of axes and components differs: ``x, y, z`` in place of ``z, y, x``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xdreg.errors import InputError
from xdreg.grid import SPATIAL_DIMS, Grid
from xdreg.numerics import kernels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def displacement_image(
    displacement: NDArray[Any], grid: Grid, *, double: bool = False
) -> Any:
    """Return a displacement ``(ndim, *grid.shape)`` as an ITK image of vectors.

    In double precision on request, as ITK's transforms need.
    """
    import itk

    kind = itk.Image[itk.Vector[itk.D if double else itk.F, grid.ndim], grid.ndim]
    image = kind.New()
    image.SetRegions([int(n) for n in grid.shape[::-1]])
    image.Allocate()
    itk.array_view_from_image(image)[...] = np.moveaxis(displacement[::-1], 0, -1)
    set_geometry(image, grid)
    return image


def set_geometry(image: Any, grid: Grid) -> None:
    """Give an ITK image, or SimpleITK's, the geometry of a grid."""
    spacing, origin, direction = geometry(grid)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    if hasattr(image, "GetLargestPossibleRegion"):
        import itk

        image.SetDirection(itk.matrix_from_array(direction))
    else:
        image.SetDirection(direction.ravel().tolist())


def geometry(grid: Grid) -> tuple[list[float], list[float], NDArray[np.float64]]:
    """Return spacing, origin and direction of a grid as ITK has them."""
    turn = grid.to_world[:-1, :-1]
    origin = turn @ np.asarray(grid.origin)
    direction = np.ascontiguousarray(turn[::-1, ::-1])
    return list(map(float, grid.spacing[::-1])), origin[::-1].tolist(), direction


def displacement_to_itk(displacement: NDArray[Any], grid: Grid) -> Any:
    """Return a displacement as an ``itk.DisplacementFieldTransform``."""
    import itk

    transform = itk.DisplacementFieldTransform[itk.D, grid.ndim].New()
    transform.SetDisplacementField(displacement_image(displacement, grid, double=True))
    return transform


def displacement_from_itk(transform: Any, grid: Grid) -> NDArray[np.float32]:
    """Sample any ITK transform on a grid: displacement ``(ndim, *grid.shape)`` float32.

    Raises
    ------
    InputError
        If it is no ITK transform, or one of another dimension.
    """
    import itk

    check_transform(transform, grid.ndim)
    matrix = matrix_from_itk(transform)
    if matrix is not None:
        matrix = grid.from_world @ matrix @ grid.to_world
        return kernels.resample_displacement(
            *kernels.affine_displacement(matrix, grid), grid
        )
    if hasattr(transform, "GetDisplacementField"):
        stored = transform.GetDisplacementField()
        spacing, origin, direction = geometry(grid)
        same = (
            list(stored.GetSpacing()) == spacing
            and list(stored.GetOrigin()) == origin
            and tuple(stored.GetLargestPossibleRegion().GetSize())[::-1] == grid.shape
            and np.array_equal(itk.array_from_matrix(stored.GetDirection()), direction)
        )
        if same:
            return _vectors(stored, grid)
    transform = _in_double(transform)
    kind = itk.Image[itk.Vector[itk.F, grid.ndim], grid.ndim]
    sampler = itk.TransformToDisplacementFieldFilter[kind, itk.D].New()
    sampler.SetTransform(transform)
    sampler.SetSize([int(n) for n in grid.shape[::-1]])
    spacing, origin, direction = geometry(grid)
    sampler.SetOutputSpacing(spacing)
    sampler.SetOutputOrigin(origin)
    sampler.SetOutputDirection(itk.matrix_from_array(direction))
    sampler.Update()
    return _vectors(sampler.GetOutput(), grid)


def _vectors(image: Any, grid: Grid) -> NDArray[np.float32]:
    """Return the vectors of an ITK image as ``(ndim, *shape)``, along a grid's axes."""
    import itk

    vectors = np.moveaxis(np.array(itk.array_view_from_image(image)), -1, 0)[::-1]
    if grid.direction is not None:
        vectors = np.tensordot(grid.from_world[:-1, :-1], vectors, 1)
    return vectors.astype(np.float32)


def move_by_itk(transform: Any, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Map physical points ``(n, ndim)`` by an ITK transform, all at once.

    Errors are those of single precision, relative to the extent of the points.

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
    # ITK samples transforms on grids fast, but single points slowly from Python. So the
    # points become displacements of a grid: a line near the origin. Its step is a power
    # of two, so that multiples are exact.
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
    # Centred, as the sampler returns single precision.
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
    """Return a transform in double precision: ITK does not mix it with single."""
    import itk

    if "_float_" not in transform.GetTransformTypeAsString():
        return transform
    found = itk.dict_from_transform(transform)
    entries = found if isinstance(found, list) else [found]
    for entry in entries:
        entry["transformType"]["parametersValueType"] = "float64"
    return itk.transform_from_dict(entries)


def matrix_from_itk(transform: Any) -> NDArray[np.float64] | None:
    """Return a linear ITK transform as a homogeneous matrix in dims order, or None."""
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
    """Raise if a value is not an ITK transform of ``ndim`` dimensions."""
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
