"""Files of points: what comes out is what went in, but for the coordinates."""

import csv
import json
import os
from importlib.util import find_spec

import numpy as np
import pytest

import xdreg
from tests.helpers.fields import Known
from xdreg.cli.points import points as command
from xdreg.errors import StoreError
from xdreg.stores.point_files import kind_of, read_points

DIMS = ("z", "y", "x")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    known = Known(3, 20)
    path = tmp_path_factory.mktemp("field") / "field.ome.zarr"
    known.field.dreg.to_ome_zarr(path)
    return known, str(path)


def places(known, count=6):
    lower, upper = known.fixed.bounds
    return np.random.default_rng(0).uniform(lower + 3, upper - 3, (count, 3))


def there_and_back(stored, path, tmp_path):
    """Map a file there and back; return what is read of all three."""
    known, field = stored
    moved, back = (tmp_path / f"{name}{path.suffix}" for name in ("moved", "back"))
    command(field, path, moved)
    command(field, moved, back, inverse=True)
    found = [read_points(file, DIMS).points for file in (path, moved, back)]
    known_points = np.isfinite(found[1]).all(axis=1)
    expected = known.field.dreg.transform_points(found[0])
    np.testing.assert_allclose(found[1], expected, atol=1e-4)
    np.testing.assert_allclose(
        found[2][known_points], found[0][known_points], atol=2e-3
    )
    return moved, back


def test_csv_as_napari_writes_it(stored, tmp_path):
    path, points = tmp_path / "shapes.csv", places(stored[0])
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "shape-type", "axis-0", "axis-1", "axis-2", "axis-3"])
        writer.writerows([i, "polygon", 5, *p] for i, p in enumerate(points))
    moved, _ = there_and_back(stored, path, tmp_path)
    with moved.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["axis-0"] for row in rows} == {"5"}
    assert rows[3]["shape-type"] == "polygon"


def test_parquet_keeps_its_columns_and_metadata(stored, tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    points = np.vstack([places(stored[0]), [1e6, 0, 0]]).astype(np.float32)
    table = pa.table(
        {
            "x": points[:, 2],
            "name": [f"p{i}" for i in range(len(points))],
            "z": points[:, 0],
            "y": points[:, 1],
        }
    ).replace_schema_metadata({"made": "here"})
    path = tmp_path / "points.parquet"
    pq.write_table(table, path)
    moved, _ = there_and_back(stored, path, tmp_path)
    found = pq.read_table(moved)
    assert found.column_names == ["x", "name", "z", "y"]
    assert found.column("name").to_pylist() == table.column("name").to_pylist()
    assert found.schema.metadata == {b"made": b"here"}
    assert np.isnan(found.column("x").to_numpy()[-1])
    pq.write_table(table.drop_columns(["z"]), tmp_path / "bad.parquet")
    with pytest.raises(xdreg.InputError, match="'z'"):
        read_points(tmp_path / "bad.parquet", DIMS)
    text = pa.table({"z": ["a"], "y": [1], "x": [2]})
    pq.write_table(text, tmp_path / "text.parquet")
    with pytest.raises(xdreg.InputError, match="holds string"):
        read_points(tmp_path / "text.parquet", DIMS)
    (tmp_path / "no.parquet").write_text("no")
    with pytest.raises(xdreg.StoreError, match="Parquet"):
        read_points(tmp_path / "no.parquet", DIMS)


def test_geojson_of_any_geometry(stored, tmp_path):
    points = places(stored[0], 8)[:, ::-1].tolist()
    ring = [points[1], points[2], points[3], points[1]]
    parts = [
        {"type": "Point", "coordinates": [*points[0], "kept"]},
        {"type": "Polygon", "coordinates": [ring]},
        {
            "type": "GeometryCollection",
            "geometries": [
                {"type": "LineString", "coordinates": points[4:6]},
                {"type": "Point", "coordinates": [1e6, 0, 0]},
            ],
        },
        {"type": "MultiPoint", "coordinates": [points[6], [1e6, 0, 0]], "lost": 1},
        None,
    ]
    features = [
        {"type": "Feature", "properties": {"n": i}, "geometry": part, "bbox": [0]}
        for i, part in enumerate(parts)
    ]
    document = {"type": "FeatureCollection", "features": features, "by": "hand"}
    path = tmp_path / "places.geojson"
    path.write_text(json.dumps(document))
    moved, back = tmp_path / "moved.geojson", tmp_path / "back.json"
    command(stored[1], path, moved)
    command(stored[1], moved, back, inverse=True)
    there, again = (json.loads(file.read_text("utf-8")) for file in (moved, back))
    geometries = [feature["geometry"] for feature in there["features"]]
    expected = stored[0].field.dreg.transform_points(np.array(ring)[:, ::-1])
    np.testing.assert_allclose(
        geometries[1]["coordinates"][0], expected[:, ::-1], atol=1e-6
    )
    assert geometries[0]["coordinates"][3] == "kept"
    # What has a point that cannot be mapped has no place any more.
    assert geometries[3:] == [None, None]
    assert [part["type"] for part in geometries[2]["geometries"]] == ["LineString"]
    assert [f["properties"]["n"] for f in there["features"]] == [0, 1, 2, 3, 4]
    assert there["by"] == "hand"
    assert "bbox" not in moved.read_text("utf-8")
    same = again["features"][1]["geometry"]["coordinates"][0]
    np.testing.assert_allclose(same, ring, atol=2e-3)


def test_a_lost_geometry_of_its_own_is_empty(tmp_path):
    path = tmp_path / "place.geojson"
    document = {"type": "Point", "coordinates": [1, 2, 3], "bbox": [1, 2], "by": "hand"}
    path.write_text(json.dumps(document))
    found = read_points(path, DIMS)
    found.write(path, found.points * np.nan)
    written = json.loads(path.read_text("utf-8"))
    assert written == {"type": "Point", "coordinates": [], "by": "hand"}


@pytest.mark.parametrize("suffix", [".ply", ".vtk", ".obj"])
def test_meshes_keep_their_faces(stored, tmp_path, suffix):
    meshio = pytest.importorskip("meshio")
    vertices = places(stored[0])[:, ::-1]
    faces = np.array([[0, 1, 2], [1, 2, 3], [3, 4, 5]])
    path = tmp_path / f"mesh{suffix}"
    meshio.Mesh(vertices, [("triangle", faces)]).write(path)
    moved, _ = there_and_back(stored, path, tmp_path)
    np.testing.assert_array_equal(meshio.read(moved).cells_dict["triangle"], faces)
    path.write_text("no mesh")
    with pytest.raises(xdreg.XdregError, match="mesh"):
        read_points(path, DIMS)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{}", "no positions"), ('{"type": "Point", "coordinates": [1, 2]}', "3 numbers"),
     ('{"type": "Point", "coordinates": [1, 2, "a"]}', "3 numbers")],
)  # fmt: skip
def test_geojson_without_points_is_refused(tmp_path, text, message):
    path = tmp_path / "a.geojson"
    path.write_text(text)
    with pytest.raises(xdreg.InputError, match=message):
        read_points(path, DIMS)
    path.write_text("{")
    with pytest.raises(xdreg.StoreError, match="GeoJSON"):
        read_points(path, DIMS)


def test_kinds_are_not_mixed(stored, tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("z,y,x\n1,2,3\n")
    with pytest.raises(xdreg.InputError, match="write the same format"):
        command(stored[1], path, tmp_path / "points.geojson")
    with pytest.raises(xdreg.InputError, match=r"must be \.csv"):
        kind_of(tmp_path / "points.txt")
    assert not (tmp_path / "points.geojson").exists()


XDMF = """<?xml version="1.0"?>{}
<Xdmf Version="3.0"><Domain><Grid Name="Grid">
<Geometry GeometryType="XYZ"><DataItem DataType="Float" Dimensions="4 3"
 Format="Binary" Precision="8">{}</DataItem></Geometry>
<Topology TopologyType="Triangle" NumberOfElements="1"><DataItem DataType="Int"
 Dimensions="1 3" Format="XML" Precision="8">0 1 2</DataItem></Topology>
</Grid></Domain></Xdmf>"""


def test_a_mesh_names_files_of_its_own_folder_only(tmp_path, monkeypatch):
    pytest.importorskip("meshio")
    folder = tmp_path / "a"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for place in (folder, tmp_path):
        np.arange(12.0).tofile(place / "points.bin")
    os.mkfifo(folder / "pipe")
    mesh = folder / "mesh.xdmf"
    if find_spec("h5py"):
        mesh.write_text(XDMF.format("", "points.bin"))
        assert read_points(mesh, ("z", "y", "x")).points.shape == (4, 3)
    for name in ("/dev/zero", "../points.bin", "pipe", "//server/share/x.h5:/a"):
        mesh.write_text(XDMF.format("", name))
        with pytest.raises(StoreError, match="for its numbers"):
            read_points(mesh, ("z", "y", "x"))
    lines = [f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10)]
    bomb = f'<!DOCTYPE Xdmf [<!ENTITY a0 "lol">{"".join(lines)}]>'
    mesh.write_text(XDMF.format(bomb, "&a9;"))
    with pytest.raises(StoreError):
        read_points(mesh, ("z", "y", "x"))
    deck = folder / "mesh.inp"
    deck.write_text("*NODE\n1, 0., 0., 0.\n *Include, input=/dev/zero\n")
    with pytest.raises(StoreError, match="includes other files"):
        read_points(deck, ("z", "y", "x"))


@pytest.mark.parametrize(
    "row", ["1,5,2,5,3", "1,2,3,note", '"1","2","3",0', "1,2,3,,,x"]
)
def test_a_row_of_more_values_than_the_header_is_refused(row, tmp_path):
    path = tmp_path / "points.csv"
    path.write_text(f"z,y,x\n1,2,3\n{row}\n")
    with pytest.raises(xdreg.InputError, match=r"row 2 has .* header 3; are there"):
        read_points(path, DIMS)
    path.write_text("z,y,x\n1,2,3,\n4,5,6,,\n")
    np.testing.assert_array_equal(
        read_points(path, DIMS).points, [[1, 2, 3], [4, 5, 6]]
    )
