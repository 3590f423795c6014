"""The command ``report``."""

import pytest

import xdreg
from tests.helpers.commands import run
from xdreg.cli.report import report
from xdreg.coordinates import grid_of
from xdreg.fields.displacement import make_field
from xdreg.views import report_figures


def test_landmarks_keep_their_names(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report_figures, "DPI", 30)
    pair = xdreg.datasets.phantom_pair((40, 48), amplitude=2.0)
    field = make_field(pair.displacement.values, grid_of(pair.fixed))
    paths = []
    for thing, name in (
        (field, "field"),
        (pair.fixed, "fixed"),
        (pair.moving, "moving"),
    ):
        paths.append(str(tmp_path / f"{name}.zarr"))
        xdreg.save(thing, paths[-1])
    tables = tmp_path / "fixed.csv", tmp_path / "moving.csv"
    for points, table in zip(
        (pair.fixed_points, pair.moving_points), tables, strict=True
    ):
        rows = [f"{x},{y},<b>p{i}</b>" for i, (y, x) in enumerate(points)]
        table.write_text("\n".join(["x,y,name", *rows]))
    target = tmp_path / "qc.html"
    report(*paths, output=target, landmarks=tables)
    assert "wrote" in capsys.readouterr().out
    assert f"&lt;b&gt;p{len(rows) - 1}&lt;/b&gt;" in target.read_text("utf-8")
    with pytest.raises(xdreg.StoreError, match="exists"):
        report(*paths, output=target)
    again = run("report", *paths, "-o", target)
    assert again.returncode == 1
    assert "exists" in again.stderr
