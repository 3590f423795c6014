"""Commands on fields, run as a user runs them."""

import csv

import numpy as np
import pytest

import xdreg
from tests.helpers.commands import run
from tests.helpers.fields import Known, moving_like
from xdreg.cli.fields import invert, points


@pytest.fixture
def stored(tmp_path):
    known = Known(3, 30)
    known.field.dreg.to_ome_zarr(tmp_path / "field.ome.zarr")
    return known, tmp_path / "field.ome.zarr"


def test_invert(stored, tmp_path):
    known, field = stored
    xdreg.save(moving_like(known), tmp_path / "moving.ome.zarr")
    target = tmp_path / "inverse.ome.zarr"
    options = ["--like", tmp_path / "moving.ome.zarr", "-o", target, "--step", 2]
    done = run("invert", field, *options)
    assert done.returncode == 0, done.stderr
    for word in ("success", "residual", "micrometer", "outside", "folded", "wrote"):
        assert word in done.stdout
    expected = known.field.dreg.inverse(like=moving_like(known), step=2).displacement
    found = xdreg.open_field(target)
    np.testing.assert_array_equal(found.displacement, expected)
    assert "success" in run("info", target).stdout
    with pytest.raises(xdreg.StoreError, match="exists"):
        invert(str(field), target)
    with pytest.raises(xdreg.InputError, match=r": like=\.\.\."):
        invert(str(field), tmp_path / "other.ome.zarr")


def test_points_both_ways(stored, tmp_path):
    known, field = stored
    lower, upper = known.fixed.bounds
    places = np.random.default_rng(0).uniform(lower, upper, (5, 3))
    paths = [tmp_path / f"{name}.csv" for name in ("fixed", "moving", "again")]
    with paths[0].open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "x", "z", "y"])
        writer.writerows([f"p{i}", p[2], p[0], p[1]] for i, p in enumerate(places))
        writer.writerow(["far", 1e6, 0, 0])
    done = run("points", field, paths[0], "-o", paths[1])
    assert done.returncode == 0, done.stderr
    assert "1 of them nan" in done.stdout
    points(str(field), paths[1], paths[2], inverse=True)
    tables = []
    for path in paths[1:]:
        with path.open(newline="") as file:
            tables.append(list(csv.DictReader(file)))
    assert [row["name"] for row in tables[0]] == ["p0", "p1", "p2", "p3", "p4", "far"]
    there, back = (
        np.array([[float(row[d]) for d in ("z", "y", "x")] for row in table])
        for table in tables
    )
    np.testing.assert_array_equal(there[:5], known.field.dreg.transform_points(places))
    assert np.isnan(there[5]).all()
    np.testing.assert_allclose(back[:5], places, atol=1e-3)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "empty"), ("a,y,x\n1,2,3\n", "'z'"), ("z,y,x\n1,2\n", "point 1"),
     ("z,y,x\n1,2,b\n", "point 1"), ("z,y,x,x\n1,2,3,4\n", "'x'")],
)  # fmt: skip
def test_a_bad_table_is_named(stored, tmp_path, text, message):
    table, output = tmp_path / "points.csv", tmp_path / "moved.csv"
    table.write_text(text)
    with pytest.raises(xdreg.InputError, match=message):
        points(str(stored[1]), table, output)
    with pytest.raises(xdreg.StoreError, match="cannot be read"):
        points(str(stored[1]), tmp_path / "missing.csv", output)
    assert not output.exists()
    output.write_text("")
    with pytest.raises(xdreg.StoreError, match="overwrite"):
        points(str(stored[1]), table, output)
