"""Landmarks as users have them: arrays, tables, layers of napari, and files.

Of files: CSV with named columns, BigWarp's CSV, 3D Slicer's fcsv and mrk.json. The
world of a file is that of ITK, left, posterior, superior; Slicer's right, anterior,
superior is turned into it. A point that a file lists and that was never set is NaN.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from xdreg.errors import InputError, StoreError
from xdreg.grid import SPATIAL_DIMS, UNIT_METRES, normalise_units, unit_ratio
from xdreg.numerics.point_tables import read_table, table_names
from xdreg.stores.napari_layers import NO_UNIT, layer_data, layer_matrix, per_axis
from xdreg.stores.paths import as_address, local_path
from xdreg.stores.point_files import csv_rows, point_frame

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

#: Axes x, y, z of each of Slicer's coordinate systems, relative to the world. Files of
#: old versions number them.
SYSTEMS = {"LPS": (1, 1, 1), "RAS": (-1, -1, 1), "1": (1, 1, 1), "0": (-1, -1, 1)}

#: What Slicer calls a point that was placed, in either format.
DEFINED = ("defined", "2")


@dataclass(frozen=True)
class Landmarks:
    """Points ``(n, ndim)`` in dims order, their names, and their unit, if known.

    ``own_nan`` states whether NaN stands for points that a file lists as not set.
    """

    values: NDArray[np.float64]
    names: tuple[str, ...] | None = None
    units: str | None = None
    own_nan: bool = False

    def in_units(self, units: str | None, name: str) -> Landmarks:
        """Return the points in another unit; those without one are taken to have it."""
        if self.units is None or units is None:
            return replace(self, units=units or self.units)
        ratio = unit_ratio(self.units, units, name)
        return replace(self, values=self.values * ratio, units=normalise_units(units))


def read_landmarks(
    points: Any, name: str, dims: Sequence[str] | None = None
) -> Landmarks:
    """Return the points of one image, in dims order.

    Parameters
    ----------
    points
        What `read_table` takes; the path of CSV or Parquet with named columns, or of
        Slicer's fcsv or mrk.json; a points layer of napari, or its tuple
        ``(data, meta, kind)``.
    name
        What to call them in an error.
    dims
        Their dims; by default those that they have.

    Raises
    ------
    InputError, StoreError
        If they are not points of these dims, or a file cannot be read.
    """
    if isinstance(points, str | Path):
        path = local_path(as_address(points))
        if path.name.lower().endswith((".fcsv", ".json")):
            return _checked(_slicer(path), dims, name)
        if path.suffix.lower() == ".csv" and _is_bigwarp(csv_rows(path)[0]):
            msg = f"{path} is BigWarp's and holds both; give it as fixed_points alone"
            raise InputError(msg)
        points = point_frame(path)
    elif _is_layer(points):
        return _checked(_layer(points, name), dims, name)
    table = read_table(points, dims, name)
    return Landmarks(table.values, table.names)


def read_bigwarp(path: str | Path) -> tuple[Landmarks, Landmarks]:
    """Return the fixed and the moving landmarks of a CSV file that BigWarp wrote.

    Its columns are name, active, moving x, y, (z), fixed x, y, (z). Points that are not
    active or have no counterpart are NaN.
    """
    place = local_path(as_address(path))
    first, rows = csv_rows(place)
    if not _is_bigwarp(first):
        msg = (
            f"{place} is a table of one image's points; give those of the moving image "
            "as well. Only BigWarp's CSV holds both"
        )
        raise InputError(msg)
    rows = [first, *rows]
    try:
        values = np.array([[float(v) for v in row[2:]] for row in rows])
    except ValueError as error:
        msg = f"{place} has rows that are not BigWarp's: {error}"
        raise StoreError(msg) from error
    active = np.array([row[1].strip().lower() == "true" for row in rows])
    values[~(active & np.isfinite(values).all(axis=1))] = np.nan
    moving, fixed = np.split(values, 2, axis=1)
    names = tuple(row[0] for row in rows)
    both = (Landmarks(v[:, ::-1].copy(), names, own_nan=True) for v in (fixed, moving))
    return next(both), next(both)


def _checked(found: Landmarks, dims: Sequence[str] | None, name: str) -> Landmarks:
    ndim = found.values.shape[1]
    if dims is not None and ndim != len(dims):
        msg = f"{name} have {ndim} coordinates; expected {len(dims)}, {tuple(dims)}"
        raise InputError(msg)
    return found


def _is_bigwarp(row: Sequence[str]) -> bool:
    """Return whether the first row of a file is one of BigWarp's, without a header."""
    flag = row[1].strip().lower() if len(row) in (6, 8) else ""
    return flag in ("true", "false")


def _is_layer(points: Any) -> bool:
    if isinstance(points, tuple):
        return len(points) == 3 and isinstance(points[2], str)
    return hasattr(points, "data_to_world") and hasattr(points, "features")


def _layer(layer: Any, name: str) -> Landmarks:
    """Return the points of a layer of napari in its world."""
    if isinstance(layer, tuple):
        data, meta, kind = layer_data(layer)
        if kind != "points":
            msg = f"{name} are a layer of {kind}; expected one of points"
            raise InputError(msg)
        data = np.asarray(data, np.float64)
        ndim = data.shape[-1]
        scale, shift = (
            per_axis(meta, "scale", 1, ndim),
            per_axis(meta, "translate", 0, ndim),
        )
        matrix, units = np.eye(ndim + 1), meta.get("units") or (NO_UNIT,)
        features = pd.DataFrame(meta.get("features"))
    else:
        data, ndim = np.asarray(layer.data, np.float64), layer.ndim
        scale, shift, matrix = layer.scale, layer.translate, layer_matrix(layer)
        units, features = layer.units, layer.features
    named = {str(unit) for unit in ([units] if isinstance(units, str) else units)}
    if ndim > len(SPATIAL_DIMS) or len(named) > 1:
        msg = f"{name}, a layer, have {ndim} axes in {sorted(named)}; select 2 or 3"
        raise InputError(msg)
    (unit,) = named
    world = (data * scale + shift) @ matrix[:-1, :-1].T + matrix[:-1, -1]
    known = None if unit == NO_UNIT else normalise_units(unit)
    return Landmarks(world, table_names(features), known)


def _slicer(path: Path) -> Landmarks:
    """Return the points of a file of 3D Slicer, in millimetres."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        found = _fcsv(text) if path.suffix.lower() == ".fcsv" else _markups(text)
        places, system, units, names = found
        values = np.array(places, np.float64).reshape(len(places), 3)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        msg = f"{path} cannot be read as points of 3D Slicer: {error}"
        raise StoreError(msg) from error
    if system not in SYSTEMS:
        msg = (
            f"{path} has points in {system or 'no coordinate system'}; expected LPS or "
            "RAS. Save it again with 3D Slicer"
        )
        raise InputError(msg)
    if units not in UNIT_METRES:
        msg = f"{path} has points in {units}, which is no unit of length"
        raise InputError(msg)
    return Landmarks((values * SYSTEMS[system])[:, ::-1], names, units, own_nan=True)


def _fcsv(text: str) -> tuple[list[list[float]], str, str, tuple[str, ...]]:
    """Return positions x, y, z, the system, the unit, and names."""
    lines = text.splitlines()
    headers = [line[1:].partition("=") for line in lines if line.startswith("#")]
    told = {key.strip().lower(): value.strip() for key, _, value in headers}
    columns = [name.strip() for name in told["columns"].split(",")]
    rows = csv.reader(line for line in lines if line.strip() and line[0] != "#")
    places: list[list[float]] = []
    names: list[str] = []
    for row in rows:
        # Later versions add the state of a point after the columns that they name.
        later = row[len(columns) :]
        known = dict(zip(columns, row, strict=False))
        unset = bool(later) and later[0] not in DEFINED
        places.append([np.nan if unset else float(known[axis]) for axis in "xyz"])
        names.append(known.get("label") or known.get("id") or str(len(names) + 1))
    return places, told.get("coordinatesystem", ""), "millimeter", tuple(names)


def _markups(text: str) -> tuple[list[Any], str, str, tuple[str, ...]]:
    """Return positions x, y, z, the system, the unit, and names."""
    lists = [
        markup
        for markup in json.loads(text)["markups"]
        if markup.get("type", "Fiducial") == "Fiducial"
    ]
    if len(lists) != 1:
        msg = f"it holds {len(lists)} lists of points; expected one"
        raise ValueError(msg)
    (markup,) = lists
    points: list[Mapping[str, Any]] = markup["controlPoints"]
    places = [
        point["position"]
        if point.get("positionStatus", "defined") in DEFINED
        else [np.nan] * 3
        for point in points
    ]
    names = (point.get("label") or point.get("id") for point in points)
    unit = markup.get("coordinateUnits", "mm")
    # As text, or as a code with its scheme and meaning.
    unit = normalise_units(unit[0] if isinstance(unit, list) else unit)
    system = str(markup.get("coordinateSystem", ""))
    return places, system, unit or "", tuple(map(str, names))
