"""Point files: CSV, GeoJSON, Parquet and the vertices of meshes.

Coordinates are physical, in the units of the field that maps the points. A table has a
column per dim, named ``z``, ``y`` and ``x``, or as napari names them ``axis-0``,
``axis-1`` and so on, where the last axes are the dims. GeoJSON and meshes store
positions as x, y, z. Everything else in a file is kept.

The files are edited rather than converted, so that nothing is lost: shapely drops a
geometry's other members and a fourth coordinate, and pandas the schema of Parquet.
"""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from xdreg.errors import InputError, StoreError
from xdreg.grid import SPATIAL_DIMS
from xdreg.numerics.point_tables import NAME_COLUMNS, column_names
from xdreg.stores.named_files import check_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Write = Callable[[Path, NDArray[np.float64]], None]

_KINDS = {
    ".csv": "CSV",
    ".geojson": "GeoJSON",
    ".json": "GeoJSON",
    ".parquet": "Parquet",
    ".pq": "Parquet",
}

#: How a mesh of Abaqus names another.
_INCLUDE = re.compile(rb"^\s*\*\s*include", re.I | re.M)

_NORMALS = ("nx", "ny", "nz", "Normals", "normals", "obj:vn")


@dataclass(frozen=True)
class PointFile:
    """The points of a file, and a function that writes the file with moved points.

    ``points`` are ``(n, ndim)`` in dims order, in physical units.
    """

    points: NDArray[np.float64]
    write: Write


def kind_of(path: Path) -> str:
    """Return ``"CSV"``, ``"GeoJSON"``, ``"Parquet"`` or ``"mesh"``, by the suffix."""
    suffix = path.suffix.lower()
    if suffix in _KINDS:
        return _KINDS[suffix]
    try:
        import meshio

        if suffix in meshio.extension_to_filetypes:
            return "mesh"
    except ImportError:
        pass
    msg = (
        f"{path} must be .csv, .geojson, .parquet, or a mesh such as .ply or .vtk, for "
        "which pip install 'xdreg[points]'"
    )
    raise InputError(msg)


def read_points(path: Path, dims: Sequence[str]) -> PointFile:
    """Read the points of a file, whose spatial dims are ``dims``, slowest first."""
    readers = {
        "CSV": _read_csv,
        "GeoJSON": _read_geojson,
        "Parquet": _read_parquet,
        "mesh": _read_mesh,
    }
    return readers[kind_of(path)](path, tuple(dims))


def point_names(path: Path) -> list[str] | None:
    """Return the points' names if the file is a CSV with a column of names."""
    if kind_of(path) != "CSV":
        return None
    header, rows = csv_rows(path)
    column = next((header.index(n) for n in NAME_COLUMNS if n in header), None)
    if column is None:
        return None
    return [row[column] if column < len(row) else "" for row in rows]


def csv_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return the header and the non-empty rows of a CSV file."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, "CSV", error) from error
    if not rows:
        msg = f"{path} is empty; expected a header, for example z,y,x"
        raise InputError(msg)
    for number, row in enumerate(rows[1:], 1):
        if any(row[len(rows[0]) :]):
            msg = (
                f"{path}: row {number} has {len(row)} values, {row}, and the header "
                f"{len(rows[0])}; are there commas in the numbers?"
            )
            raise InputError(msg)
    return [name.strip() for name in rows[0]], rows[1:]


def point_frame(path: Path) -> Any:
    """Return a CSV or Parquet file as a table of pandas.

    Of CSV, only the columns with coordinates are converted to numbers.
    """
    import pandas as pd

    kind = kind_of(path)
    if kind not in ("CSV", "Parquet"):
        msg = f"{path} is {kind}; expected a table, CSV or Parquet"
        raise InputError(msg)
    try:
        if kind == "Parquet":
            return pd.read_parquet(path)
        header, rows = csv_rows(path)
        table = pd.DataFrame(rows, columns=header)
        numeric = [c for c in header if c in SPATIAL_DIMS or c.startswith("axis-")]
        return table.assign(**{c: pd.to_numeric(table[c]) for c in numeric})
    except (OSError, ValueError, TypeError, ImportError) as error:
        raise _unreadable(path, kind, error) from error


def write_frame(table: Any, path: Path) -> None:
    """Write a table of pandas as CSV or Parquet."""
    if kind_of(path) == "Parquet":
        table.to_parquet(path, index=False)
    else:
        # As points are written elsewhere.
        table.to_csv(path, index=False, na_rep="nan", encoding="utf-8")


def _unreadable(path: Path, kind: str, error: Exception) -> StoreError:
    return StoreError(f"{path} cannot be read as {kind}: {error}")


def _read_csv(path: Path, dims: tuple[str, ...]) -> PointFile:
    header, rows = csv_rows(path)
    columns = [header.index(name) for name in column_names(header, dims, str(path))]
    points = np.empty((len(rows), len(dims)))
    for number, row in enumerate(rows):
        try:
            points[number] = [float(row[column]) for column in columns]
        except (ValueError, IndexError) as error:
            msg = f"{path}: point {number + 1} is {row}; expected numbers"
            raise InputError(msg) from error

    def write(target: Path, moved: NDArray[np.float64]) -> None:
        for row, point in zip(rows, moved.tolist(), strict=True):
            for column, value in zip(columns, point, strict=True):
                row[column] = repr(value)
        with target.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])

    return PointFile(points, write)


def _read_parquet(path: Path, dims: tuple[str, ...]) -> PointFile:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        msg = f"{path} needs pyarrow; pip install 'xdreg[points]'"
        raise StoreError(msg) from error
    try:
        # As a file, because pyarrow expands and parses names.
        with path.open("rb") as file:
            table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, "Parquet", error) from error
    names = column_names(table.column_names, dims, str(path))
    for name in names:
        kind = table.schema.field(name).type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            msg = f"{path}: column {name!r} holds {kind}; expected numbers"
            raise InputError(msg)

    def write(target: Path, moved: NDArray[np.float64]) -> None:
        changed = table
        for name, values in zip(names, moved.T, strict=True):
            column = pa.array(np.ascontiguousarray(values))
            place = changed.column_names.index(name)
            changed = changed.set_column(place, name, column)
        with target.open("wb") as file:
            pq.write_table(changed.replace_schema_metadata(table.schema.metadata), file)

    columns = [table.column(name).cast(pa.float64()).to_numpy() for name in names]
    return PointFile(np.stack(columns, axis=1), write)


def _read_geojson(path: Path, dims: tuple[str, ...]) -> PointFile:
    try:
        text = path.read_text(encoding="utf-8-sig")
        document = json.loads(text)
    except (OSError, ValueError) as error:
        raise _unreadable(path, "GeoJSON", error) from error
    ndim, positions = len(dims), list[list[Any]]()

    def collect(places: list[list[Any]]) -> bool:
        positions.extend(places)
        return True

    _mapped(document, collect)
    if not positions:
        msg = f"{path} holds no positions; expected GeoJSON with geometries"
        raise InputError(msg)
    for position in positions:
        numbers = all(isinstance(v, int | float) for v in position[:ndim])
        if len(position) < ndim or not numbers:
            msg = (
                f"{path}: a position is {position}; expected {ndim} numbers, "
                f"{dims[::-1]}"
            )
            raise InputError(msg)

    def write(target: Path, moved: NDArray[np.float64]) -> None:
        points = iter(moved.tolist())

        def move(places: list[list[Any]]) -> bool:
            own = list(islice(points, len(places)))
            for place, point in zip(places, own, strict=True):
                place[:ndim] = point[::-1]
            return not np.isnan(own).any()

        written = _mapped(json.loads(text), move)
        if written is None:
            written = {**document, "coordinates": []}
            written.pop("bbox", None)
        target.write_text(json.dumps(written, allow_nan=False), encoding="utf-8")

    points = np.array([position[:ndim][::-1] for position in positions], float)
    return PointFile(points, write)


def _mapped(node: Any, move: Callable[[list[list[Any]]], bool]) -> Any:
    """Return a GeoJSON object after ``move`` has changed each geometry's positions.

    A geometry of which ``move`` returns false is left out; a feature keeps its
    properties and has null instead. Bounding boxes are left out too: they are outdated.
    """
    if isinstance(node, list):
        return [_mapped(child, move) for child in node]
    if not isinstance(node, dict):
        return node
    node = {key: value for key, value in node.items() if key != "bbox"}
    if "coordinates" in node and not move(list(_positions(node["coordinates"]))):
        return None
    for key in ("geometry", "geometries", "features"):
        if key in node:
            node[key] = _mapped(node[key], move)
    if isinstance(node.get("geometries"), list):
        node["geometries"] = [part for part in node["geometries"] if part is not None]
    return node


def _positions(coordinates: Any) -> Iterator[list[Any]]:
    """Yield every position in a geometry's nested coordinates."""
    if isinstance(coordinates, list) and coordinates:
        if isinstance(coordinates[0], list):
            for child in coordinates:
                yield from _positions(child)
        else:
            yield coordinates


def _files_of_mesh(path: Path) -> list[str]:
    """Return the files that a mesh names; raise if they could name more."""
    kind = path.suffix.lower()
    if kind == ".inp" and re.search(
        rb"^\s*\*\s*include", path.read_bytes(), re.I | re.M
    ):
        msg = f"{path} includes other files, which are not opened; make it one file"
        raise StoreError(msg)
    if kind not in (".xdmf", ".xmf"):
        return []
    # Expat, which parses XML here, limits how far entities grow.
    items = ElementTree.parse(path).iter("DataItem")
    named = [v.text or "" for v in items if v.get("Format", "XML") != "XML"]
    # In HDF5, a colon and the place in the file follow.
    return [text.strip().partition(":/")[0] for text in named]


def _read_mesh(path: Path, dims: tuple[str, ...]) -> PointFile:
    import meshio

    try:
        check_names(path, _files_of_mesh(path), "its numbers")
        mesh = meshio.read(path)
    except StoreError:
        raise
    except SystemExit as error:
        # meshio prints the reason and exits if none of its readers takes the file.
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
        # The stored normals are those of the old surface.
        data = {k: v for k, v in mesh.point_data.items() if k not in _NORMALS}
        cells, cell_data, more = mesh.cells, mesh.cell_data, mesh.field_data
        meshio.Mesh(vertices, cells, data, cell_data, more).write(target)

    return PointFile(points, write)
