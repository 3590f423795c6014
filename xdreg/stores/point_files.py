"""Files of points: CSV, GeoJSON, Parquet, and meshes by their vertices.

Coordinates are physical, in the units of the field that the points go through. Tables
have a column for each dim, named ``z``, ``y`` and ``x``, or, as napari writes points
and shapes, ``axis-0``, ``axis-1`` and so on, the last of them the last dim. Positions
of GeoJSON and of meshes are in the order x, y, z. Whatever else is in a file is kept.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xdreg.errors import InputError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    Write = Callable[[Path, NDArray[np.float64]], None]

_GEOJSON = (".geojson", ".json")
_PARQUET = (".parquet", ".pq")

#: Columns that may name a point.
NAME_COLUMNS = ("name", "label", "id")


@dataclass(frozen=True)
class PointFile:
    """The points of a file, and how to write it with others in their place.

    Parameters
    ----------
    kind
        Of the file: ``"CSV"``, ``"GeoJSON"``, ``"Parquet"`` or ``"mesh"``.
    points : (n, ndim), physical units
        In the order of the dims, as many as the file has.
    write
        Function of a path and as many points.
    """

    kind: str
    points: NDArray[np.float64]
    write: Write


def kind_of(path: Path) -> str:
    """Return of what kind a file is, by its suffix.

    Raises
    ------
    InputError
        If there is no such kind.
    """
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return "CSV"
    if suffix in _GEOJSON:
        return "GeoJSON"
    if suffix in _PARQUET:
        return "Parquet"
    if suffix in _mesh_suffixes():
        return "mesh"
    msg = (
        f"{path} must be .csv, .geojson, .parquet, or a mesh such as .ply or .vtk, for "
        "which pip install 'xdreg[points]'"
    )
    raise InputError(msg)


def read_points(path: Path, dims: Sequence[str]) -> PointFile:
    """Read the points of a file.

    Parameters
    ----------
    path
        The file; its suffix says of what kind it is.
    dims
        Of the points, slowest first.

    Returns
    -------
    PointFile

    Raises
    ------
    StoreError
        If the file cannot be read.
    InputError
        If it holds no points of these dims.
    """
    kind = kind_of(path)
    readers = {
        "CSV": _read_csv,
        "GeoJSON": _read_geojson,
        "Parquet": _read_parquet,
        "mesh": _read_mesh,
    }
    points, write = readers[kind](path, tuple(dims))
    return PointFile(kind, points, write)


def point_names(path: Path) -> list[str] | None:
    """Return what a column of a CSV file calls its points; None where none does."""
    if kind_of(path) != "CSV":
        return None
    header, rows = _table(path)
    for name in NAME_COLUMNS:
        if name in header:
            column = header.index(name)
            return [row[column] if column < len(row) else "" for row in rows]
    return None


def _table(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a CSV file that are not empty."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, "CSV", error) from error
    if not rows:
        msg = f"{path} is empty; expected a header, for example z,y,x"
        raise InputError(msg)
    return [name.strip() for name in rows[0]], rows[1:]


def _unreadable(path: Path, kind: str, error: Exception) -> StoreError:
    return StoreError(f"{path} cannot be read as {kind}: {error}")


def _read_csv(path: Path, dims: tuple[str, ...]) -> tuple[NDArray[np.float64], Write]:
    header, rows = _table(path)
    places = [header.index(name) for name in _columns(header, dims, path)]
    points = np.empty((len(rows), len(places)))
    for number, row in enumerate(rows):
        try:
            points[number] = [float(row[place]) for place in places]
        except (ValueError, IndexError) as error:
            msg = f"{path}: point {number + 1} is {row}; expected numbers"
            raise InputError(msg) from error

    def write(target: Path, moved: NDArray[np.float64]) -> None:
        for row, point in zip(rows, moved.tolist(), strict=True):
            for place, value in zip(places, point, strict=True):
                row[place] = repr(value)
        with target.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])

    return points, write


def _columns(
    header: Sequence[str], dims: tuple[str, ...], path: Path
) -> tuple[str, ...]:
    """Return the names of the columns that hold the dims."""
    axes = [name for name in header if name.startswith("axis-")]
    if len(axes) >= len(dims) and not set(dims) & set(header):
        return tuple(f"axis-{len(axes) - len(dims) + i}" for i in range(len(dims)))
    missing = [dim for dim in dims if list(header).count(dim) != 1]
    if missing:
        msg = (
            f"{path} has columns {list(header)}; expected one named {missing[0]!r}, "
            f"for the field has dimensions {dims}"
        )
        raise InputError(msg)
    return dims


def _read_parquet(
    path: Path, dims: tuple[str, ...]
) -> tuple[NDArray[np.float64], Write]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        msg = f"{path} needs pyarrow; pip install 'xdreg[points]'"
        raise StoreError(msg) from error
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, "Parquet", error) from error
    names = _columns(table.column_names, dims, path)
    columns = []
    for name in names:
        kind = table.schema.field(name).type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            msg = f"{path}: column {name!r} holds {kind}; expected numbers"
            raise InputError(msg)
        values = table.column(name).cast(pa.float64()).to_numpy()
        columns.append(np.asarray(values, np.float64))

    def write(target: Path, moved: NDArray[np.float64]) -> None:
        changed = table
        for name, values in zip(names, moved.T, strict=True):
            column = pa.array(np.ascontiguousarray(values))
            place = changed.column_names.index(name)
            changed = changed.set_column(place, name, column)
        pq.write_table(changed.replace_schema_metadata(table.schema.metadata), target)

    return np.stack(columns, axis=1), write


def _read_geojson(
    path: Path, dims: tuple[str, ...]
) -> tuple[NDArray[np.float64], Write]:
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise _unreadable(path, "GeoJSON", error) from error
    places = [place for _, place in _positions(document)]
    if not places:
        msg = f"{path} holds no positions; expected GeoJSON with geometries"
        raise InputError(msg)
    ndim = len(dims)
    for place in places:
        good = all(isinstance(v, int | float) for v in place[:ndim])
        if len(place) < ndim or not good:
            msg = (
                f"{path}: a position is {place}; expected {ndim} numbers, {dims[::-1]}"
            )
            raise InputError(msg)
    points = np.array([place[:ndim][::-1] for place in places], float)

    def write(target: Path, moved: NDArray[np.float64]) -> None:
        written = json.loads(json.dumps(document))
        found = list(_positions(written))
        lost = set()
        for (owner, place), point in zip(found, moved.tolist(), strict=True):
            place[:ndim] = point[::-1]
            if np.isnan(point).any():
                lost.add(id(owner))
        _finish_geojson(written, lost)
        target.write_text(json.dumps(written, allow_nan=False), encoding="utf-8")

    return points, write


def _positions(node: Any) -> Iterator[tuple[dict[str, Any], list[Any]]]:
    """Yield every position of a GeoJSON document, with the geometry that holds it."""
    if isinstance(node, dict):
        if "coordinates" in node:
            for place in _leaves(node["coordinates"]):
                yield node, place
        for key in ("geometry", "geometries", "features"):
            yield from _positions(node.get(key))
    elif isinstance(node, list):
        for child in node:
            yield from _positions(child)


def _leaves(node: Any) -> Iterator[list[Any]]:
    if isinstance(node, list) and node:
        if isinstance(node[0], list):
            for child in node:
                yield from _leaves(child)
        else:
            yield node


def _finish_geojson(node: Any, lost: set[int]) -> bool:
    """Empty geometries that lost a position; tell whether a node is such a one.

    A feature keeps its properties, and its geometry becomes null, which is GeoJSON for
    one without a place. Bounding boxes are dropped: they were those of the old points.
    """
    if isinstance(node, list):
        for child in node:
            _finish_geojson(child, lost)
        return False
    if not isinstance(node, dict):
        return False
    node.pop("bbox", None)
    _finish_geojson(node.get("features"), lost)
    if _finish_geojson(node.get("geometry"), lost):
        node["geometry"] = None
    parts = node.get("geometries")
    if isinstance(parts, list):
        node["geometries"] = [v for v in parts if not _finish_geojson(v, lost)]
    if id(node) in lost:
        node["coordinates"] = []
        return True
    return False


def _mesh_suffixes() -> set[str]:
    try:
        import meshio
    except ImportError:
        return set()
    return set(meshio.extension_to_filetypes)


def _read_mesh(path: Path, dims: tuple[str, ...]) -> tuple[NDArray[np.float64], Write]:
    import meshio

    try:
        mesh = meshio.read(path)
    except SystemExit as error:
        # How meshio ends where no reader of its takes a file, having printed why.
        msg = f"{path} cannot be read as a mesh"
        raise StoreError(msg) from error
    except Exception as error:
        raise _unreadable(path, "a mesh", error) from error
    ndim = len(dims)
    if mesh.points.ndim != 2 or mesh.points.shape[1] < ndim or not len(mesh.points):
        msg = (
            f"{path} has vertices of shape {mesh.points.shape}; expected (n, {ndim}) "
            f"in the order {dims[::-1]}"
        )
        raise InputError(msg)
    points = np.asarray(mesh.points[:, :ndim][:, ::-1], np.float64)

    def write(target: Path, moved: NDArray[np.float64]) -> None:
        vertices = np.array(mesh.points, np.float64)
        vertices[:, :ndim] = moved[:, ::-1]
        # Normals were those of the old surface.
        data = {k: v for k, v in mesh.point_data.items() if k not in _NORMALS}
        meshio.Mesh(
            vertices,
            mesh.cells,
            point_data=data,
            cell_data=mesh.cell_data,
            field_data=mesh.field_data,
        ).write(target)

    return points, write


_NORMALS = ("nx", "ny", "nz", "Normals", "normals", "obj:vn")
