"""Landmarks of BigWarp, 3D Slicer and napari."""

import json

import numpy as np
import pandas as pd
import pytest

import xdreg
from xdreg.stores.landmark_files import read_bigwarp, read_landmarks

#: Points z, y, x in the world: left, posterior, superior.
PLACES = np.array([[1.5, -20.25, 30.0], [-4.0, 5.0, 6.0], [7.0, 8.0, -9.0]])
FLIP = {"LPS": (1, 1, 1), "RAS": (-1, -1, 1)}


def markups(system, *, unit="mm", states=("defined",) * 3):
    """Return the text of a file as 3D Slicer 5 writes it."""
    points = [
        {
            "id": str(i + 1), "label": f"F-{i + 1}", "description": "",
            "associatedNodeID": "", "position": position.tolist(),
            "orientation": [-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0],
            "selected": True, "locked": False, "visibility": True,
            "positionStatus": state,
        }
        for i, (position, state) in enumerate(
            zip(PLACES[:, ::-1] * FLIP[system], states, strict=True)
        )
    ]  # fmt: skip
    schema = "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable"
    markup = {
        "type": "Fiducial", "coordinateSystem": system, "coordinateUnits": unit,
        "locked": False, "labelFormat": "%N-%d", "lastUsedControlPointNumber": 3,
        "controlPoints": points, "measurements": [], "display": {"opacity": 1.0},
    }  # fmt: skip
    return json.dumps({"@schema": schema, "markups": [markup]}, indent=4)


def fcsv(system, header, tail=""):
    """Return the text of an fcsv file; versions differ in header and tail."""
    lines = ["# Markups fiducial file version = 4.11", f"# CoordinateSystem = {header}"]
    names = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"
    lines.append(f"# columns = {names}")
    for i, (x, y, z) in enumerate((PLACES[:, ::-1] * FLIP[system]).tolist()):
        lines.append(f'{i + 1},{x},{y},{z},0,0,0,1,1,1,0,"F, {i + 1}",,{tail}')
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.mrk.json", markups("LPS")), ("a.mrk.json", markups("RAS")),
     ("a.fcsv", fcsv("LPS", "LPS", ",2,0")), ("a.fcsv", fcsv("RAS", "RAS")),
     ("a.fcsv", fcsv("RAS", "0")), ("a.fcsv", fcsv("LPS", "1"))],
)  # fmt: skip
def test_files_of_slicer_in_both_systems(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    found = read_landmarks(path, "points")
    np.testing.assert_array_equal(found.values, PLACES)
    assert found.units == "millimeter"
    assert found.names[0] in ("F-1", "F, 1")


def test_slicers_points_are_where_its_image_shows_them(tmp_path):
    """The voxel of an image of ITK that a point in right, anterior, superior marks."""
    import itk

    image = itk.image_from_array(np.zeros((8, 9, 10), np.float32))
    image.SetOrigin([-4.0, 3.0, 12.0])
    image.SetSpacing([1.0, 2.0, 3.0])
    itk.imwrite(image, tmp_path / "a.nii.gz")
    marked = np.array(list(image.TransformIndexToPhysicalPoint([6, 2, 5])))
    path = tmp_path / "a.mrk.json"
    document = json.loads(markups("RAS"))
    document["markups"][0]["controlPoints"][0]["position"] = [
        -marked[0], -marked[1], marked[2],
    ]  # fmt: skip
    path.write_text(json.dumps(document), encoding="utf-8")
    opened = xdreg.open_image(tmp_path / "a.nii.gz")
    place = read_landmarks(path, "points").values[0]
    index = [float(v) for v in (opened.z[5], opened.y[2], opened.x[6])]
    np.testing.assert_allclose(place, index)


def test_units_and_unset_points_of_slicer(tmp_path):
    path = tmp_path / "a.mrk.json"
    states = ("defined", "undefined", "defined")
    text = markups("LPS", unit=["um", "UCUM", "micrometer"], states=states)
    path.write_text(text, encoding="utf-8")
    found = read_landmarks(path, "points")
    assert found.units == "micrometer"
    assert np.isnan(found.values[1]).all()
    np.testing.assert_array_equal(found.values[[0, 2]], PLACES[[0, 2]])


def test_a_file_of_bigwarp(tmp_path):
    path = tmp_path / "landmarks.csv"
    path.write_text(
        '"Pt-0","true","1.0","2.0","3.0","4.0","5.0","6.0"\n'
        '"Pt-1","false","1.5","2.0","3.0","4.0","5.0","6.5"\n'
        '"Pt-2","true","7.0","8.0","9.0","Infinity","Infinity","Infinity"\n',
        encoding="utf-8",
    )
    fixed, moving = read_bigwarp(path)
    np.testing.assert_array_equal(fixed.values[0], [6, 5, 4])
    np.testing.assert_array_equal(moving.values[0], [3, 2, 1])
    assert np.isnan(fixed.values[1:]).all()
    assert np.isnan(moving.values[1:]).all()
    assert fixed.names == ("Pt-0", "Pt-1", "Pt-2")
    with pytest.raises(xdreg.InputError, match="holds both"):
        read_landmarks(path, "fixed_points")


def test_layers_of_napari():
    layers = pytest.importorskip("napari.layers")
    layer = layers.Points(
        [[1, 2], [3, 4]], scale=(2, 3), translate=(10, 20), units=("mm", "mm"),
        features=pd.DataFrame({"label": ["a", "b"]}),
    )  # fmt: skip
    for given in (layer, layer.as_layer_data_tuple()):
        found = read_landmarks(given, "points")
        np.testing.assert_allclose(found.values, [[12, 26], [16, 32]])
        assert found.names == ("a", "b")
        assert found.units == "millimeter"
    turned = layers.Points([[1.0, 0.0]], rotate=90)
    expected = turned.data_to_world((1.0, 0.0))
    np.testing.assert_allclose(
        read_landmarks(turned, "points").values[0], expected, atol=1e-9
    )
    with pytest.raises(xdreg.InputError, match="axes"):
        read_landmarks(layers.Points(np.zeros((3, 4))), "points")


def test_tables_and_csv_are_read_by_column(tmp_path):
    table = pd.DataFrame({"name": ["a", "b", "c"], "x": PLACES[:, 2]})
    table = table.assign(z=PLACES[:, 0], y=PLACES[:, 1])
    table.to_csv(tmp_path / "a.csv", index=False)
    for given in (table, tmp_path / "a.csv", str(tmp_path / "a.csv")):
        found = read_landmarks(given, "points")
        np.testing.assert_array_equal(found.values, PLACES)
        assert found.names == ("a", "b", "c")
        assert found.units is None


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [("a.mrk.json", "{}", "markups"), ("a.mrk.json", "[", "cannot be read"),
     ("a.mrk.json", markups("LPS").replace('"LPS"', '"IJK"'), "LPS or RAS"),
     ("a.mrk.json", markups("LPS").replace("Fiducial", "Curve"), "0 lists"),
     ("a.mrk.json", markups("LPS", unit="banana"), "no unit of length"),
     ("a.fcsv", fcsv("LPS", "2"), "LPS or RAS"),
     ("a.fcsv", fcsv("LPS", "LPS").replace("# Coord", "# Other"), "no coordinate"),
     ("a.fcsv", "1,2,3\n", "columns"), ("a.csv", "z,y,x\n1,2,b\n", "cannot be read"),
     ("a.csv", "1,2,3\n", "'y'"), ("a.csv", "", "empty"),
     ("a.csv", "z,y,x\n1,2\n", "cannot be read"),
     ("a.txt", "z,y,x\n1,2,3\n", "must be .csv"), ("a.geojson", "{}", "a table")],
)  # fmt: skip
def test_a_bad_file_is_named(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises((xdreg.InputError, xdreg.StoreError), match=message):
        xdreg.landmarks(path, path)


def test_a_missing_file_and_a_url_are_named(tmp_path):
    with pytest.raises(xdreg.StoreError, match="cannot be read"):
        read_landmarks(tmp_path / "a.fcsv", "points")
    with pytest.raises(xdreg.StoreError, match="cannot be read"):
        read_landmarks("https://example.org/a.csv", "points")
