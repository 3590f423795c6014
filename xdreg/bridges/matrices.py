"""Affine transforms for tools without fields: spatialdata, multiview-stitcher.

Both map points of an image into world space, where a field maps fixed points to moving
ones. They take the inverse of an affine field: moving → fixed, with the space of the
fixed image as the world.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array
import numpy as np
import xarray as xr

from xdreg.bridges.prepare import needed
from xdreg.errors import InputError
from xdreg.fields.composition import compose
from xdreg.fields.displacement import open_displacement, ordered_displacement
from xdreg.fields.field import field_grid, moving_grid
from xdreg.fields.preimage import affine_part
from xdreg.fields.targets import grid_like
from xdreg.grid import Grid, checked_matrix, real_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]

#: Largest deviation of an affine field from its matrix, in cells of the field.
TOLERANCE = 1e-2


def to_matrix(field: xr.Dataset, *, tolerance: float = TOLERANCE) -> Matrix:
    """Return an affine field as a homogeneous matrix.

    Parameters
    ----------
    field : Dataset
        A displacement field. It is read chunk by chunk.
    tolerance : float, cells of the field
        Largest deviation from an affine transform; ``inf`` for any.

    Returns
    -------
    (ndim + 1, ndim + 1)
        Fixed → moving, in dims order and the unit of the field.

    Raises
    ------
    InputError
        If the field deviates more than that.

    Examples
    --------
    >>> from xdreg.grid import Grid
    >>> grid = Grid(("y", "x"), (6, 8), (1.0, 2.0), (0.0, 0.0))
    >>> turn = np.array([[0.9, 0.1, 3.0], [-0.1, 0.9, 0.5], [0.0, 0.0, 1.0]])
    >>> bool(np.allclose(to_matrix(compose(turn, like=grid)), turn, atol=1e-5))
    True
    """
    grid = field_grid(field)
    matrix = affine_part(open_displacement(field))
    if tolerance == np.inf:
        return matrix
    affine = compose(matrix, like=grid)["displacement"].data
    rest = abs(dask.array.asarray(ordered_displacement(field, grid).data) - affine)
    cells = np.reshape(grid.spacing, (-1,) + (1,) * grid.ndim)
    bend = float((rest / cells).max().compute())
    if not bend <= tolerance:
        msg = (
            f"the field bends: it deviates by {bend:.3g} of its cells from the nearest "
            f"affine transform, more than {tolerance:g}; this tool takes affine "
            "transforms. tolerance=float('inf') returns the nearest"
        )
        raise InputError(msg)
    return matrix


def to_multiview_stitcher(field: Any, *, tolerance: float = TOLERANCE) -> xr.DataArray:
    """Return a field as parameters of the moving view, for multiview-stitcher.

    Pass them to ``msi_utils.set_affine_transform`` or ``si_utils.set_sim_affine``. The
    fixed view gets the identity.

    Parameters
    ----------
    field : Dataset or (ndim + 1, ndim + 1) matrix
        Fixed → moving.
    tolerance
        As for `to_matrix`.

    Returns
    -------
    DataArray (x_in, x_out)
        The homogeneous matrix moving → fixed.
    """
    matrix = np.linalg.inv(_matrix(field, tolerance))
    names = [*"zyx"[-(len(matrix) - 1) :], "1"]
    return xr.DataArray(matrix, {"x_in": names, "x_out": names}, ("x_in", "x_out"))


def from_multiview_stitcher(params: xr.DataArray, like: Any) -> xr.Dataset:
    """Return the parameters of a moving view as a field, lazily.

    Parameters
    ----------
    params : DataArray (x_in, x_out)
        Moving → world of one time point, where the fixed view has the identity.
    like : Dataset, DataArray, DataTree or Grid
        The fixed image, or the grid of the field.
    """
    grid = _target(like)
    if not isinstance(params, xr.DataArray) or set(params.dims) != {"x_in", "x_out"}:
        found = getattr(params, "dims", type(params).__name__)
        msg = (
            "expected a DataArray with the dimensions x_in and x_out, got "
            f"{found}; select one of several time points: params.sel(t=0)"
        )
        raise InputError(msg)
    values = params.transpose("x_in", "x_out").to_numpy()
    matrix = checked_matrix(values, grid.ndim, "params")
    return compose(np.linalg.inv(matrix), like=grid)


def to_spatialdata(
    field: Any, moving: Any = None, *, tolerance: float = TOLERANCE
) -> Any:
    """Return a field as the transformation of the moving element, for spatialdata.

    It maps pixels of the moving element, with centres at ½, 1½, …, into the physical
    space of the fixed image, for ``set_transformation(element, result, "fixed")``.

    Parameters
    ----------
    field : Dataset or (ndim + 1, ndim + 1) matrix
        Fixed → moving, in physical units.
    moving : DataArray, DataTree or Grid, optional
        The moving image; by default the one recorded in the field.
    tolerance
        As for `to_matrix`.

    Returns
    -------
    spatialdata.transformations.Affine
        In dims order.

    Raises
    ------
    InputError
        If the moving image is not known, or the field bends.
    """
    transformations = needed("spatialdata.transformations", "spatialdata")
    grid = _moving(field, moving)
    matrix = np.linalg.inv(_matrix(field, tolerance)) @ from_pixels(grid)
    return transformations.Affine(matrix, input_axes=grid.dims, output_axes=grid.dims)


def from_spatialdata(transformation: Any, like: Any, moving: Any) -> xr.Dataset:
    """Return the transformation of a moving element as a field, lazily.

    Parameters
    ----------
    transformation : spatialdata.transformations.BaseTransformation
        An affine transformation of any kind, from pixels of the moving element into the
        physical space of the fixed image.
    like : Dataset, DataArray, DataTree or Grid
        The fixed image, or the grid of the field.
    moving : DataArray, DataTree or Grid
        The moving image, whose pixels the transformation maps.
    """
    grid, source = _target(like), _target(moving)
    source = source.to_units(grid.units, "moving")
    matrix = transformation.to_affine_matrix(
        input_axes=grid.dims, output_axes=grid.dims
    )
    forward = checked_matrix(matrix, grid.ndim, "the transformation")
    return compose(from_pixels(source) @ np.linalg.inv(forward), like=grid)


def from_pixels(grid: Grid) -> Matrix:
    """Return the matrix from spatialdata's pixel coordinates to physical points."""
    matrix = np.diag([*grid.spacing, 1.0])
    matrix[:-1, -1] = grid.bounds[0]
    return matrix


def _moving(field: Any, moving: Any) -> Grid:
    grid = grid_like(moving)
    if isinstance(field, xr.Dataset):
        if grid is None:
            grid = moving_grid(field)
        if grid is not None:
            grid = grid.to_units(field_grid(field).units, "moving")
    if grid is None:
        msg = "the field does not record its moving image; name it"
        raise InputError(msg, moving=...)
    return grid


def _target(like: Any) -> Grid:
    grid = grid_like(like)
    if grid is None:
        msg = "expected an image, a field or a Grid to make the field on; got None"
        raise InputError(msg)
    return grid


def _matrix(field: Any, tolerance: float) -> Matrix:
    if isinstance(field, xr.Dataset):
        return to_matrix(field, tolerance=tolerance)
    values = real_array(field, "the matrix")
    return checked_matrix(values, len(values) - 1, "the matrix")
