"""The command rounds, with what it writes."""

import json

import pandas as pd
import pytest
import xarray as xr

import xdreg
from xdreg.stores.channels import with_channels

OPTIONS = """
stages: [{kind: LocalCorrelation, level: 0, metric: lncc, iterations: 2, search: false}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with three rounds of two channels, and an options file."""
    folder = tmp_path_factory.mktemp("rounds")
    pair = xdreg.datasets.phantom_pair((64, 72), amplitude=1.0)
    (folder / "few.yaml").write_text(OPTIONS, encoding="utf-8")
    for number, names in enumerate((("DAPI", "A"), ("DAPI", "B"), ("Hoechst", "C"))):
        image = pair.moving if number else pair.fixed
        two = xr.concat([image, image // 2], "c").drop_vars("c", errors="ignore")
        for dim in ("y", "x"):
            two[dim].attrs = image[dim].attrs
        entries = [{"label": name, "color": "00FF00"} for name in names]
        xdreg.save(with_channels(two, entries), folder / f"r{number + 1}.ome.zarr")
    return folder


def arguments(folder, *rounds):
    options = ["--channel", "DAPI", "--options", folder / "few.yaml"]
    return ["rounds", folder / "r1.ome.zarr", *rounds, *options]


def test_rounds_writes_fields_one_image_a_table_and_a_report(
    folder, xdreg_command, tmp_path
):
    rounds = [folder / "r2.ome.zarr", f"third={folder / 'r3.ome.zarr'}"]
    called = [*arguments(folder, *rounds), "-o", tmp_path / "out"]
    code, _, err = xdreg_command(*called)
    assert code == 1
    assert "round 'third' has no channel 'DAPI'" in err
    assert err.strip().endswith("--moving-channel third=0")
    assert not (tmp_path / "out").exists()
    called += ["--moving-channel", "third=Hoechst", "--workdir", tmp_path / "run"]
    code, out, err = xdreg_command(*called)
    assert code == 0, err
    for word in ("r2 ", "third ", "similarity", "aligned.ome.zarr", "rounds.html"):
        assert word in out
    aligned = xdreg.open_ome_zarr(tmp_path / "out" / "aligned.ome.zarr", level=0)
    assert aligned.c.values.tolist() == [
        *("fixed:DAPI", "fixed:A", "r2:DAPI", "r2:B", "third:Hoechst", "third:C")
    ]
    for name in ("r2", "third"):
        field = xdreg.open_field(tmp_path / "out" / "fields" / f"{name}.ome.zarr")
        assert "displacement" in field
    table = pd.read_csv(tmp_path / "out" / "rounds.csv", index_col="round")
    assert list(table.index) == ["r2", "third"]
    html = (tmp_path / "out" / "rounds.html").read_text(encoding="utf-8")
    assert html.count("<img") == 2
    code, _, err = xdreg_command(*called)
    assert code == 1
    assert "--overwrite" in err


def test_a_round_that_fails_is_named_and_the_exit_code_says_so(
    folder, xdreg_command, tmp_path
):
    empty = xr.zeros_like(xdreg.open_ome_zarr(folder / "r2.ome.zarr", level=0))
    xdreg.save(empty, tmp_path / "empty.ome.zarr")
    rounds = [folder / "r2.ome.zarr", tmp_path / "empty.ome.zarr"]
    called = [*arguments(folder, *rounds), "-o", tmp_path / "out", "--json"]
    code, out, err = xdreg_command(*called, "--moving-mask", "empty=none")
    assert code == 3
    told = json.loads(out)
    assert told["rounds"]["r2"]["verdict"] != "failed"
    assert "the round empty failed" in err
    assert "same value everywhere" in told["rounds"]["empty"]["reasons"]
    aligned = xdreg.open_ome_zarr(told["aligned"], level=0)
    assert aligned.sizes["c"] == 4


@pytest.mark.parametrize(
    ("rounds", "options", "words"),
    [
        (["r2.ome.zarr", "r2.ome.zarr"], [], "both named r2; name one"),
        (
            ["r2.ome.zarr"],
            ["--initial", "r9=a.tfm", "--initial", "b.tfm"],
            "NAME=VALUE",
        ),
        (["nothing.ome.zarr"], [], "nothing.ome.zarr"),
        (["fixed=r2.ome.zarr"], [], "'fixed' names no round"),
    ],
)
def test_what_does_not_fit_is_refused(
    folder, xdreg_command, tmp_path, monkeypatch, rounds, options, words
):
    monkeypatch.chdir(folder)
    called = arguments(folder, *rounds)
    code, _, err = xdreg_command(*called, *options, "-o", tmp_path / "out")
    assert code == 1
    assert words in err
    assert not (tmp_path / "out").exists()
