"""The command points."""

import csv

import numpy as np
import pytest

import xdreg
from xdreg.cli.points import points


def test_points_both_ways(xdreg_command, stored, tmp_path):
    known, field = stored
    lower, upper = known.fixed.bounds
    places = np.random.default_rng(0).uniform(lower, upper, (5, 3))
    paths = [tmp_path / f"{name}.csv" for name in ("fixed", "moving", "again")]
    with paths[0].open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "x", "z", "y"])
        writer.writerows([f"p{i}", p[2], p[0], p[1]] for i, p in enumerate(places))
        writer.writerow(["far", 1e6, 0, 0])
    code, out, err = xdreg_command("points", field, paths[0], "-o", paths[1])
    assert code == 0, err
    assert "1 of them nan" in out
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
