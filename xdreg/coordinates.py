"""Conversion between grids and xarray coordinates, with checks of every input image.

Coordinates made here are `xarray.indexes.RangeIndex`, which stores spacing and origin
as exact numbers. Other coordinates are accepted if they are uniform. The ``units``
attribute of a coordinate is its unit of length. The scalar coordinate ``direction`` of
an oblique volume is the rotation from its axes to the world's, as JSON.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from xarray.indexes import RangeIndex
from xarray.indexes.range_index import RangeCoordinateTransform

from xdreg.errors import InputError
from xdreg.grid import SPATIAL_DIMS, Grid, normalise_units, rows_of

if TYPE_CHECKING:
    from collections.abc import Hashable

    from numpy.typing import NDArray

#: Dimensions that an image may have in addition to the spatial ones.
OTHER_DIMS = ("t", "c")

#: Scalar coordinate with the direction of an oblique volume.
DIRECTION = "direction"

#: Largest deviation from uniform coordinates, as a share of the spacing, on top of the
#: rounding of their type. Rounding may take up a quarter of it, or they say too little.
UNIFORM_TOLERANCE = 1e-3
MOST_ROUNDING = 0.25


def coordinates(grid: Grid, **voxels: NDArray[Any]) -> xr.Coordinates:
    """Return the xarray coordinates of a grid, with exact spacing and units.

    ``voxels`` are further coordinates ``(*grid.shape)``, a value for every voxel.
    """
    variables, indexes = {}, {}
    axes = zip(grid.dims, grid.shape, grid.origin, grid.spacing, strict=True)
    for dim, size, start, step in axes:
        transform = RangeCoordinateTransform(
            start, start + size * step, size, dim, dim, step=step
        )
        indexes[dim] = RangeIndex(transform)
        variables.update(indexes[dim].create_variables())
        if grid.units is not None:
            variables[dim].attrs["units"] = grid.units
    if grid.direction is not None:
        # As text it survives arithmetic, which compares scalar coordinates.
        text = json.dumps([list(row) for row in grid.direction])
        variables[DIRECTION] = xr.Variable((), text)
    for name, values in voxels.items():
        variables[name] = xr.Variable(grid.dims, values)
    return xr.Coordinates(variables, indexes)


def spatial_dims(array: xr.DataArray, name: str = "image") -> tuple[str, ...]:
    """Return the spatial dims of an image, slowest first; raise if it has others."""
    if not isinstance(array, xr.DataArray):
        msg = (
            f"{name} must be a DataArray, got {type(array).__name__}; select one level "
            "of a DataTree, for example tree['scale0/image']"
        )
        raise InputError(msg)
    unknown = [d for d in array.dims if d not in SPATIAL_DIMS + OTHER_DIMS]
    dims = tuple(d for d in SPATIAL_DIMS if d in array.dims)
    if unknown or dims not in (SPATIAL_DIMS, SPATIAL_DIMS[1:]):
        msg = (
            f"{name} has dimensions {tuple(array.dims)}; expected ('z', 'y', 'x') or "
            "('y', 'x'), and optionally 't' and 'c'. Rename them, for example "
            f"{name}.rename({{'plane': 'z'}})"
        )
        raise InputError(msg)
    return dims


def grid_of(array: xr.DataArray, name: str = "image") -> Grid:
    """Return the geometry of an image ``([t], [c], [z], y, x)``, ``name`` in errors.

    Coordinates of its spatial dims must be uniform and ascending, all in one unit.

    Examples
    --------
    >>> image = xr.DataArray(
    ...     np.zeros((2, 3)), dims=("y", "x"), coords={"y": [0.0, 2.0], "x": [5, 6, 7]}
    ... )
    >>> grid_of(image).spacing
    (2.0, 1.0)
    """
    dims = spatial_dims(array, name)
    axes = [_origin_and_spacing(array, dim, name) for dim in dims]
    given = {dim: array[dim].attrs.get("units") for dim in dims}
    units = {normalise_units(unit) for unit in given.values()}
    if len(units) > 1:
        msg = (
            f"the spatial coordinates of {name} have different units {given}; express "
            "them all in one unit"
        )
        raise InputError(msg)
    return Grid(
        dims=dims,
        shape=tuple(array.sizes[dim] for dim in dims),
        spacing=tuple(spacing for _, spacing in axes),
        origin=tuple(origin for origin, _ in axes),
        units=units.pop(),
        direction=_direction_of(array, len(dims), name),
    )


def _direction_of(
    array: xr.DataArray, ndim: int, name: str
) -> tuple[tuple[float, ...], ...] | None:
    """Return the direction of an image; a plane of a volume has none."""
    if DIRECTION not in array.coords or array[DIRECTION].ndim:
        return None
    text = array[DIRECTION].item()
    try:
        rows = rows_of(json.loads(text))
    except (TypeError, ValueError) as error:
        msg = f"{name}.direction is {text!r}; expected the rows of a rotation as JSON"
        raise InputError(msg) from error
    return rows if rows is None or len(rows) == ndim else None


def _origin_and_spacing(
    array: xr.DataArray, dim: Hashable, name: str
) -> tuple[float, float]:
    index = array.xindexes.get(dim)
    if isinstance(index, RangeIndex):
        if index.step <= 0:
            raise _descending(dim, name)
        return float(index.start), float(index.step)
    if dim not in array.coords:
        msg = (
            f"{name} has no coordinate {dim!r}; assign physical voxel centres, for "
            f"example {name}.assign_coords({dim}=spacing * "
            f"np.arange({array.sizes[dim]}))"
        )
        raise InputError(msg)
    values = np.asarray(array[dim].values)
    if values.ndim != 1 or values.dtype.kind not in "iuf":
        msg = (
            f"coordinate {dim!r} of {name} must be one-dimensional numbers, got dtype "
            f"{values.dtype} of shape {values.shape}"
        )
        raise InputError(msg)
    rounding = np.finfo(values.dtype).eps if values.dtype.kind == "f" else 0.0
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        msg = f"coordinate {dim!r} of {name} holds NaN or infinity"
        raise InputError(msg)
    if values.size == 1:
        thickness = array[dim].attrs.get("spacing")
        if thickness is None:
            msg = (
                f"{name} has a single voxel along {dim!r}, so its thickness is not "
                f"known; set {name}.{dim}.attrs['spacing']"
            )
            raise InputError(msg)
        return float(values[0]), float(thickness)
    spacing = float((values[-1] - values[0]) / (values.size - 1))
    if spacing < 0:
        raise _descending(dim, name)
    steps = np.arange(values.size)
    origin = float(values[0])
    deviation = np.abs(values - (origin + spacing * steps)).max()
    if deviation > UNIFORM_TOLERANCE * spacing:
        # Each value is rounded, so the ends alone say too little.
        spacing, origin = map(float, np.polyfit(steps, values, 1))
        deviation = np.abs(values - (origin + spacing * steps)).max()
        deviation -= min(rounding * np.abs(values).max(), MOST_ROUNDING * spacing)
    if spacing == 0 or deviation > UNIFORM_TOLERANCE * spacing:
        msg = (
            f"coordinate {dim!r} of {name} is not uniform; resample the image to a "
            f"regular grid first, for example with {name}.interp()"
        )
        raise InputError(msg)
    return origin, spacing


def _descending(dim: Hashable, name: str) -> InputError:
    msg = (
        f"coordinate {dim!r} of {name} descends; flip the image with "
        f"{name}.isel({dim}=slice(None, None, -1)), which keeps every voxel's position"
    )
    return InputError(msg)
