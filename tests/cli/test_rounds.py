"""The command rounds, with what it writes."""

import json
import tomllib

import numpy as np
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


def test_saved_options_repeat_rounds_to_the_bit(folder, xdreg_command, tmp_path):
    rounds = [folder / "r2.ome.zarr", f"third={folder / 'r3.ome.zarr'}"]
    file = tmp_path / "run.toml"
    matrix = np.eye(3)
    matrix[0, 2] = 1.0
    np.savetxt(tmp_path / "start.csv", matrix, delimiter=",")
    called = [*arguments(folder, *rounds), "--moving-channel", "third=Hoechst"]
    called += ["--initial", f"third={tmp_path / 'start.csv'}"]
    called += ["-o", tmp_path / "out", "--save-options", file, "--json"]
    code, out, err = xdreg_command(*called)
    assert code == 0, err
    assert json.loads(out)["options"] == str(file)
    found = tomllib.loads(file.read_text(encoding="utf-8"))
    assert found["rounds"]["third"] == str(folder / "r3.ome.zarr")
    assert found["moving_channel"] == {"third": "Hoechst"}
    assert found["initial"] == {"third": str(tmp_path / "start.csv")}
    assert found["stages"][0]["iterations"] == 2
    again = ["rounds", "--options", file, "-o", tmp_path / "again"]
    code, _, err = xdreg_command(*again)
    assert code == 0, err
    for name in ("r2", "third"):
        one, other = (
            xdreg.open_field(tmp_path / run / "fields" / f"{name}.ome.zarr")
            for run in ("out", "again")
        )
        np.testing.assert_array_equal(one.displacement, other.displacement)
    code, _, err = xdreg_command("register", "--options", file)
    assert code == 1
    assert "is for xdreg rounds" in err
    code, _, err = xdreg_command(*called[:-3], "--overwrite", "--save-options", file)
    assert code == 0, err
    code, _, err = xdreg_command(*again, "--save-options", file)
    assert code == 1
    assert "exists" in err


def test_stages_may_differ_by_round(folder, xdreg_command, tmp_path):
    file = tmp_path / "run.yaml"
    stage = "[{kind: LocalCorrelation, level: 0, iterations: %d, metric: %s}]"
    text = f"""
fixed: {folder / "r1.ome.zarr"}
rounds: {{r2: {folder / "r2.ome.zarr"}, 3: {folder / "r3.ome.zarr"}}}
channel: 0
stages: {{r2: {stage % (1, "lncc")}, 3: {stage % (2, "mind")}}}
"""
    file.write_text(text, encoding="utf-8")
    saved = tmp_path / "saved.toml"
    called = ["rounds", "--options", file, "-o", tmp_path / "out"]
    code, _, err = xdreg_command(*called, "--save-options", saved)
    assert code == 0, err
    table = pd.read_csv(tmp_path / "out" / "rounds.csv", index_col="round")
    assert table.metric.to_dict() == {"r2": "lncc", "3": "mind"}
    found = tomllib.loads(saved.read_text(encoding="utf-8"))["stages"]
    assert [found[name][0]["iterations"] for name in ("r2", "3")] == [1, 2]
    code, _, err = xdreg_command("rounds", "--options", saved, "-o", tmp_path / "b")
    assert code == 0, err
    assert pd.read_csv(tmp_path / "b" / "rounds.csv").metric.tolist() == [
        "lncc",
        "mind",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rounds: [a.zarr]", "rounds must be a table of paths by name"),
        ("rounds: {r2: a.zarr}\nmoving_mask: {r9: b}", "moving_mask names 'r9'"),
        ("rounds: {r2: 3}", "rounds of r2 must be a path as text"),
        ("fixed: {r2: a.zarr}", "fixed must be a path as text"),
        ("initial: {r9: a.csv}", "initial is given for 'r9'; rounds are r2"),
        ("stages: {r2: [{kind: No}]}", "stage 0 of r2 is"),
        ("stages: {r9: [{kind: Affine}]}", "stages names the round 'r9'"),
    ],
)
def test_files_of_rounds_that_do_not_fit_are_refused(
    folder, xdreg_command, tmp_path, text, words
):
    file = tmp_path / "run.yaml"
    file.write_text(text, encoding="utf-8")
    named = [folder / "r1.ome.zarr", folder / "r2.ome.zarr", "--channel", "DAPI"]
    called = ["rounds", *named, "--options", file, "-o", tmp_path / "out"]
    code, _, err = xdreg_command(*called)
    assert code == 1
    assert words in err


def test_what_is_missing_is_named(folder, xdreg_command):
    code, _, err = xdreg_command("rounds", folder / "r1.ome.zarr")
    assert code == 2
    assert "ROUNDS" in err
