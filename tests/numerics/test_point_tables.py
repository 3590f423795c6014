"""Points given as tables, whose columns count by name."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import xdreg
from xdreg.fields.displacement import make_field
from xdreg.grid import Grid

#: Displacements along y and x.
SHIFT = (0.5, -2.0)


@pytest.fixture(scope="module")
def field():
    grid = Grid(("y", "x"), (30, 40), (1.0, 1.0), (0.0, 0.0))
    values = np.broadcast_to(np.float32(SHIFT)[:, None, None], (2, 30, 40))
    return make_field(values.copy(), grid)


def frame():
    """Return points whose columns are in an odd order, between others."""
    columns = {"x": [30, 12], "name": ["a", "b"], "y": [7, 20], "area": [1.5, 2.5]}
    return pd.DataFrame(columns, index=[7, 3])


def test_columns_count_by_name(field):
    table = frame()
    for columns in (["x", "y"], ["y", "x"], list(table.columns)):
        moved = field.dreg.transform_points(table[columns])
        assert list(moved.columns) == columns
        assert moved.index.tolist() == [7, 3]
        assert moved.x.tolist() == [28.0, 10.0]
        assert moved.y.tolist() == [7.5, 20.5]
    assert moved.area.tolist() == [1.5, 2.5]
    assert table.x.tolist() == [30, 12]
    back = field.dreg.transform_points(moved, inverse=True)
    np.testing.assert_allclose(back[["x", "y"]], table[["x", "y"]], atol=1e-4)


@pytest.mark.parametrize("kind", ["float32", "Int64", "Float64"])
def test_types_of_columns(field, kind):
    moved = field.dreg.transform_points(frame().astype({"x": kind, "y": kind}))
    assert moved.x.tolist() == [28.0, 10.0]


def test_napari_and_missing_numbers(field):
    table = pd.DataFrame(
        {"index": [0, 1], "axis-2": [30, None], "axis-1": [7, 7], "axis-0": [5, 5]}
    )
    moved = field.dreg.transform_points(table)
    assert moved["axis-2"].tolist()[0] == 28.0
    assert moved["axis-0"].tolist() == [5, 5]
    assert np.isnan(moved["axis-2"][1])


def test_other_tables_with_names(field):
    table = frame()
    records = table[["x", "y"]].astype("int32").to_records(index=False)
    assert field.dreg.transform_points(records)["x"].tolist() == [28.0, 10.0]
    array = xr.DataArray(
        table[["x", "area", "y"]].to_numpy(),
        dims=("point", "axis"),
        coords={"axis": ["x", "area", "y"]},
    )
    moved = field.dreg.transform_points(array)
    assert moved.sel(axis="x").values.tolist() == [28.0, 10.0]
    assert moved.sel(axis="area").values.tolist() == [1.5, 2.5]


def test_geometries(field):
    geopandas = pytest.importorskip("geopandas")
    table = frame()
    places = geopandas.points_from_xy(table.x, table.y, [5, 6])
    points = geopandas.GeoDataFrame(table[["name"]], geometry=places, crs=32632)
    moved = field.dreg.transform_points(points)
    assert moved.geometry.x.tolist() == [28.0, 10.0]
    assert moved.geometry.y.tolist() == [7.5, 20.5]
    assert moved.geometry.z.tolist() == [5.0, 6.0]
    assert moved.crs == points.crs
    assert moved.name.tolist() == ["a", "b"]
    series = field.dreg.transform_points(points.geometry)
    assert series.geom_equals(moved.geometry).all()
    with pytest.raises(xdreg.InputError, match="Polygon"):
        field.dreg.transform_points(points.set_geometry(points.buffer(1)))


class Polars:
    """A table of another library, which NumPy would take by position."""

    def __dataframe__(self):
        raise NotImplementedError

    def __array__(self, *_, **__):
        return np.zeros((2, 2))


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (frame()[["x", "area"]], "one named 'y'"),
        (frame()[["name", "area"]], "'y' and one named 'x'"),
        (frame().rename(columns={"x": "X"}), "'X'.*one named 'x'"),
        (pd.concat([frame(), frame()[["x"]]], axis=1), "one named 'x'"),
        (frame().assign(x=["left", "right"]), "column 'x' does not hold numbers"),
        (Polars(), r"\.to_pandas"),
    ],
)
def test_tables_without_what_is_needed(field, points, message):
    with pytest.raises(xdreg.InputError, match=message):
        field.dreg.transform_points(points)


def test_landmarks_by_name(field):
    fixed = frame()
    moving = fixed.assign(x=fixed.x - 2, y=fixed.y + 0.5)[["area", "y", "name", "x"]]
    errors = xdreg.landmark_errors(field, fixed, moving)
    assert errors.after.max() < 1e-6
    assert errors.names == ("a", "b")
    assert (
        xdreg.landmark_errors(field, fixed[["y", "x"]].values, moving).names[0] == "a"
    )
    distances = xdreg.target_registration_error(fixed, moving)
    np.testing.assert_allclose(distances, np.hypot(2, 0.5))
    with pytest.raises(xdreg.InputError, match=r"row 1 .* 'a' .* 'b'"):
        xdreg.landmark_errors(field, fixed, moving[::-1])
    with pytest.raises(xdreg.InputError, match="one named 'x'"):
        xdreg.target_registration_error(fixed, moving.drop(columns="x"))
