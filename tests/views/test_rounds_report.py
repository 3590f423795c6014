"""The report on several rounds."""

import numpy as np
import pytest
import xarray as xr

import xdreg
from tests.helpers.viewers import HOSTILE
from xdreg.views import report_figures


def test_the_report_has_the_table_and_pictures_of_each_round(tmp_path, monkeypatch):
    monkeypatch.setattr(report_figures, "DPI", 30)
    fixed = xdreg.datasets.phantom_pair((64, 72), amplitude=1.0).fixed
    rounds = {"r2": fixed, HOSTILE[:60]: fixed, "empty": xr.zeros_like(fixed)}
    options = {"stages": [xdreg.LocalCorrelation(level=0, metric="lncc", iterations=1)]}
    options |= {"initial": np.eye(3), "progress": False}
    with pytest.warns(UserWarning, match="the round empty failed"):
        found = xdreg.register_rounds(fixed, rounds, **options)
    path = xdreg.report_rounds(found, tmp_path / "rounds.html", title="Slide <1>")
    html = path.read_text(encoding="utf-8")
    assert "Slide &lt;1&gt;" in html
    assert "1 round failed" in html
    assert "same value everywhere" in html
    assert HOSTILE[:60] not in html
    assert html.count('<img class="wide" src="data:image/png;base64,') == 2
    assert "<script" not in html
    with pytest.raises(xdreg.StoreError, match="exists"):
        xdreg.report_rounds(found, path)
    with pytest.raises(xdreg.InputError, match="a local file"):
        xdreg.report_rounds(found, "s3://bucket/rounds.html")
