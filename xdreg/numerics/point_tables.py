"""Points as users have them: arrays in the order of the dims, and tables by name.

The columns of a table are its ``z``, ``y`` and ``x``, or as napari names them
``axis-0``, ``axis-1`` and so on, where the last axes are the dims; the rest is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from xdreg.errors import InputError
from xdreg.grid import SPATIAL_DIMS, check_real, real_array

#: Columns that may name a point.
NAME_COLUMNS = ("name", "label", "id")


@dataclass(frozen=True)
class PointTable:
    """Points ``(n, ndim)`` in dims order, and a function that puts others in place.

    ``rounding`` is the relative error of the points, ``names`` what a table calls them.
    """

    values: NDArray[np.float64]
    rounding: float
    replaced: Callable[[NDArray[np.float64]], Any]
    names: tuple[str, ...] | None = None


def read_table(
    points: Any, dims: Sequence[str] | None, name: str = "points"
) -> PointTable:
    """Return points given as an array, a DataArray, or a table with named columns.

    Parameters
    ----------
    points
        An array ``(n, ndim)`` in dims order; a DataArray, by the names of its columns
        if it has some; a structured array; a pandas DataFrame; a GeoDataFrame or
        GeoSeries of points.
    dims
        Spatial dims, slowest first; None for those that the points name.
    name
        What to call them in an error.

    Raises
    ------
    InputError
        If they are not points of these dims, or a column is missing or holds no
        numbers.
    """
    if hasattr(points, "geom_type"):
        return _of_geometries(points, dims, name)
    if isinstance(points, pd.DataFrame):
        return _of_frame(points, dims, name)
    if isinstance(points, np.ndarray) and points.dtype.names is not None:
        found = _of_frame(pd.DataFrame.from_records(points), dims, name)

        def records(moved: NDArray[np.float64]) -> Any:
            return found.replaced(moved).to_records(index=False)

        return PointTable(found.values, found.rounding, records, found.names)
    if isinstance(points, xr.DataArray) and _columns(points) is not None:
        return _of_columns(points, dims, name)
    if not isinstance(points, np.ndarray | xr.DataArray) and any(
        hasattr(points, protocol)
        for protocol in ("__dataframe__", "__arrow_c_stream__")
    ):
        msg = (
            f"{name} are a table of {type(points).__module__.partition('.')[0]}; "
            "convert it to pandas first, for example with .to_pandas()"
        )
        raise InputError(msg)
    return _of_array(points, dims, name)


def column_names(
    header: Sequence[Hashable], dims: Sequence[str], name: str
) -> tuple[str, ...]:
    """Return the names of the columns that hold the dims, or raise if some are missing.

    Examples
    --------
    >>> column_names(["id", "x", "y"], ("y", "x"), "points")
    ('y', 'x')
    >>> column_names(["index", "axis-0", "axis-1", "axis-2"], ("y", "x"), "points")
    ('axis-1', 'axis-2')
    """
    columns = list(header)
    axes = [c for c in columns if isinstance(c, str) and c.startswith("axis-")]
    if len(axes) >= len(dims) and not set(dims) & set(columns):
        return tuple(f"axis-{len(axes) - len(dims) + i}" for i in range(len(dims)))
    missing = [dim for dim in dims if columns.count(dim) != 1]
    if missing:
        wanted = " and ".join(f"one named {dim!r}" for dim in missing)
        msg = (
            f"{name} has columns {columns}; expected {wanted}, "
            f"for the field has dimensions {tuple(dims)}"
        )
        raise InputError(msg)
    return tuple(dims)


def paired_names(
    fixed: Sequence[str] | None, moving: Sequence[str] | None
) -> Sequence[str] | None:
    """Return the names of corresponding points, or raise if their order differs."""
    if fixed and moving and sorted(fixed) == sorted(moving) and len(set(fixed)) > 1:
        for row, (one, other) in enumerate(zip(fixed, moving, strict=True), 1):
            if one != other:
                msg = (
                    f"row {row} of the fixed landmarks is named {one!r} and that of "
                    f"the moving ones {other!r}; sort both alike, since rows correspond"
                )
                raise InputError(msg)
    return fixed or moving


def _of_array(points: Any, dims: Sequence[str] | None, name: str) -> PointTable:
    try:
        given = np.asarray(points)
        check_real(given.dtype, name)
        values = given.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        msg = f"{name} must be an array of real numbers, got {points!r:.300}"
        raise InputError(msg) from error
    ndim = values.shape[-1] if values.ndim and dims is None else len(dims or ())
    if values.ndim != 2 or values.shape[1] != ndim:
        order = "" if dims is None else f" in the order {tuple(dims)}"
        shape = "(n, ndim)" if dims is None else f"(n, {ndim})"
        msg = f"{name} must be of shape {shape}{order}, got {values.shape}"
        raise InputError(msg)

    def replaced(moved: NDArray[np.float64]) -> Any:
        return points.copy(data=moved) if isinstance(points, xr.DataArray) else moved

    return PointTable(values, _rounding(given.dtype), replaced)


def _of_frame(
    points: pd.DataFrame, dims: Sequence[str] | None, name: str
) -> PointTable:
    columns = list(points.columns)
    names = list(column_names(columns, dims or _dims_of(columns), name))
    parts = []
    for column in names:
        check_real(points[column].dtype, f"column {column!r} of {name}")
        try:
            parts.append(points[column].to_numpy(np.float64, na_value=np.nan))
        except (TypeError, ValueError) as error:
            msg = f"{name}: column {column!r} does not hold numbers: {error}"
            raise InputError(msg) from error

    def replaced(moved: NDArray[np.float64]) -> Any:
        return points.assign(**dict(zip(names, moved.T, strict=True)))

    kinds = [dtype for dtype in points[names].dtypes if isinstance(dtype, np.dtype)]
    rounding = max(map(_rounding, kinds), default=0)
    return PointTable(np.stack(parts, axis=1), rounding, replaced, table_names(points))


def _of_geometries(points: Any, dims: Sequence[str] | None, name: str) -> PointTable:
    """Return the points of a GeoDataFrame or GeoSeries."""
    import shapely

    geometry = points.geometry
    kinds = sorted(set(map(str, geometry.geom_type)) - {"Point"})
    if kinds:
        msg = f"{name} have geometries of {', '.join(kinds)}; expected points alone"
        raise InputError(msg)
    deep = bool(geometry.has_z.any())
    stored = shapely.get_coordinates(geometry.array, include_z=deep)
    ndim = stored.shape[1] if dims is None else len(dims)
    if ndim > stored.shape[1] or len(stored) != len(points):
        msg = (
            f"{name} have {stored.shape[1]} coordinates, in {len(stored)} of "
            f"{len(points)} geometries; expected {ndim} in each"
        )
        raise InputError(msg)

    def replaced(moved: NDArray[np.float64]) -> Any:
        stored[:, :ndim] = moved[:, ::-1]
        new = type(geometry)(
            shapely.points(stored), geometry.index, crs=geometry.crs, name=geometry.name
        )
        return points.set_geometry(new) if points.ndim == 2 else new

    names = table_names(points) if points.ndim == 2 else None
    values = np.array(stored[:, :ndim][:, ::-1])
    return PointTable(values, _rounding(values.dtype), replaced, names)


def _columns(points: xr.DataArray) -> list[str] | None:
    """Return the names of a DataArray's columns, None if they are only numbered."""
    labels = points.coords.get(points.dims[-1]) if points.ndim == 2 else None
    return (
        list(map(str, labels.values))
        if labels is not None and labels.dtype.kind in "UO"
        else None
    )


def _of_columns(
    points: xr.DataArray, dims: Sequence[str] | None, name: str
) -> PointTable:
    """Return points of a DataArray whose columns have names."""
    columns = _columns(points) or []
    names = column_names(columns, dims or _dims_of(columns), name)
    places = [columns.index(column) for column in names]
    whole = real_array(points.values, name)

    def replaced(moved: NDArray[np.float64]) -> Any:
        whole[:, places] = moved
        return points.copy(data=whole)

    return PointTable(whole[:, places], _rounding(points.dtype), replaced)


def table_names(points: pd.DataFrame) -> tuple[str, ...] | None:
    """Return what a table calls its points, if it has one column for that."""
    columns = list(points.columns)
    called = next((points[c] for c in NAME_COLUMNS if columns.count(c) == 1), None)
    return None if called is None else tuple(map(str, called))


def _dims_of(columns: Sequence[Hashable]) -> Sequence[str]:
    """Return the dims that columns name."""
    axes = sum(isinstance(c, str) and c.startswith("axis-") for c in columns)
    return SPATIAL_DIMS if "z" in columns or axes > 2 else SPATIAL_DIMS[1:]


def _rounding(dtype: Any) -> float:
    return float(np.finfo(dtype if dtype.kind == "f" else float).eps)
