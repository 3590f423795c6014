"""Clusters, output folders and answers of the commands."""

import json
from typing import ClassVar

import itk

import xdreg


def test_an_output_that_cannot_be_made_is_one_line(xdreg_command, pair, tmp_path):
    (tmp_path / "taken").write_text("")
    code, _, err = xdreg_command("register", *pair, "-o", tmp_path / "taken")
    assert code == 1
    assert len(err.strip().splitlines()) == 1
    assert "cannot be made" in err


def test_answers_for_scripts_are_json_and_nothing_else(xdreg_command, pair, tmp_path):
    _, out, _ = xdreg_command("info", pair[0], "--json")
    level = json.loads(out)["levels"][0]
    assert (level["shape"], level["units"]) == ([72, 80], "micrometer")
    image = xdreg.open_ome_zarr(pair[0], level=0)
    xdreg.from_itk_transform(translation(), image).dreg.to_ome_zarr(tmp_path / "f.zarr")
    _, out, _ = xdreg_command("info", tmp_path / "f.zarr", "--json")
    assert json.loads(out)["grid"]["shape"] == [72, 80]
    _, out, _ = xdreg_command(
        "warp", tmp_path / "f.zarr", pair[1], "-o", tmp_path / "w.zarr", "--json"
    )
    assert json.loads(out) == {"moved": str(tmp_path / "w.zarr")}
    (tmp_path / "points.csv").write_text("y,x\n5,5\n500,5\n")
    _, out, _ = xdreg_command(
        "points",
        *(tmp_path / "f.zarr", tmp_path / "points.csv", "--json"),
        *("-o", tmp_path / "moved.csv"),
    )
    told = json.loads(out)
    assert (told["count"], told["unmapped"]) == (2, 1)
    _, out, _ = xdreg_command(
        "invert",
        *(tmp_path / "f.zarr", "--like", pair[1], "--json"),
        *("-o", tmp_path / "i.zarr"),
    )
    assert json.loads(out)["largest_residual"] < 1e-3


def translation():
    shift = itk.TranslationTransform[itk.D, 2].New()
    shift.SetOffset([1.0, 2.0])
    return shift


def test_a_run_on_a_cluster(xdreg_command, pair, tmp_path):
    from distributed import LocalCluster, SchedulerPlugin

    class Seen(SchedulerPlugin):
        keys: ClassVar[set[str]] = set()

        def transition(self, key, *_, **__):
            self.keys.add(str(key))

    with LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster:
        cluster.scheduler.add_plugin(Seen())
        code, out, _ = xdreg_command(
            *("register", *pair, "-o", tmp_path, "--metric", "lncc", "--json"),
            *("--scheduler", cluster.scheduler_address),
        )
    assert code == 0
    assert json.loads(out)["blocks"] == {"success": 1}
    assert any("register_linear" in key for key in Seen.keys)


def test_a_scheduler_that_does_not_answer_is_named(xdreg_command, pair, monkeypatch):
    monkeypatch.setattr("xdreg.cli.common.CONNECT_LIMIT", 0.2)
    code, _, err = xdreg_command(
        "register", *pair, "-o", "out", "--scheduler", "tcp://127.0.0.1:9"
    )
    assert code == 1
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in err
