"""The commands register and plan, with what they write."""

import json

import numpy as np
import pytest
import xarray as xr
import zarr

import xdreg
from xdreg.cli.options_file import read_options


@pytest.mark.slow
def test_register_info_and_warp(xdreg_command, tmp_path):
    def run(*arguments):
        code, out, err = xdreg_command(*arguments)
        assert code == 0, err
        return out

    fixed, moving = xdreg.datasets.write_phantom_pair(tmp_path, (80, 96), amplitude=3.0)
    options = ["--block-shape", 64, "--fixed-mask", "auto"]
    out = run("register", fixed, moving, "-o", tmp_path / "out", *options)
    for word in ("pose", "correlation", "success", "time", "peak memory"):
        assert word in out
    field = xdreg.open_field(tmp_path / "out" / "field.ome.zarr")
    assert json.loads(field.attrs["xdreg"])["fixed_mask"]["auto"]
    moved = xdreg.open_ome_zarr(tmp_path / "out" / "moved.ome.zarr", level=0)
    np.testing.assert_array_equal(moved, field.dreg.warp(xdreg.open_ome_zarr(moving)))
    code, out, err = xdreg_command("info", fixed)
    assert code == 0
    assert "scale" not in err
    assert "micrometer" in out
    assert "displacement field" in run("info", tmp_path / "out" / "field.ome.zarr")
    warped = tmp_path / "warped.ome.zarr"
    run("warp", tmp_path / "out" / "field.ome.zarr", moving, "-o", warped)
    np.testing.assert_array_equal(xdreg.open_ome_zarr(warped, level=0), moved)
    code, _, err = xdreg_command("register", fixed, moving, "-o", tmp_path / "out")
    assert code == 1
    assert "exists" in err


def test_luminance_is_an_option(xdreg_command, tmp_path):
    pair = xdreg.datasets.phantom_pair((64, 80), amplitude=2.0)
    for name in ("fixed", "moving"):
        grey = getattr(pair, name) // 256
        colour = xr.concat([grey, grey // 2, 255 - grey], "c").astype("uint8")
        xdreg.save(colour, tmp_path / f"{name}.ome.zarr")
    paths = [tmp_path / f"{name}.ome.zarr" for name in ("fixed", "moving")]
    folder = tmp_path / "out"
    options = ["-o", folder, "--channel", "luminance"]
    code, out, err = xdreg_command("register", *paths, *options)
    assert code == 0, err
    for word in ("lncc, chosen", "correlation", "success"):
        assert word in out
    moved = xdreg.open_ome_zarr(folder / "moved.ome.zarr", level=0)
    assert moved.sizes["c"] == 3


def test_an_image_written_anew_is_registered_with_fresh(xdreg_command, tmp_path):
    paths = xdreg.datasets.write_phantom_pair(tmp_path, (64, 80), amplitude=1.0)
    stages = "stages: [{kind: LocalCorrelation, level: 0, metric: lncc, iterations: 2}]"
    (tmp_path / "one.yaml").write_text(stages)
    options = ["-o", tmp_path / "out", "--workdir", tmp_path / "run", "--overwrite"]
    options += ["--options", tmp_path / "one.yaml"]
    assert xdreg_command("register", *paths, *options)[0] == 0
    array = zarr.open_group(paths[1], mode="r+")["0"]
    array[:] = array[:][::-1]
    code, _, err = xdreg_command("register", *paths, *options)
    assert code == 1
    assert "differs: moving" in err
    assert "--fresh" in err
    assert xdreg_command("register", *paths, *options, "--fresh")[0] == 0


@pytest.mark.parametrize("suffix", ["toml", "yaml"])
def test_what_a_run_used_gives_the_same_result(xdreg_command, pair, tmp_path, suffix):
    file = tmp_path / f"run.{suffix}"
    options = ["--block-shape", "40,48", "--save-options", file, "--json"]
    code, out, _ = xdreg_command("register", *pair, "-o", tmp_path / "one", *options)
    assert code == 0
    told = json.loads(out)
    assert told["blocks"] == {"success": 4}
    assert told["agreement"]["after"] > told["agreement"]["before"]
    stored = read_options(file)
    assert stored["fixed"] == str(pair[0])
    assert {stage.metric for stage in stored["stages"]} == {"lncc"}
    code, _, _ = xdreg_command(
        "register", "--options", file, "-o", tmp_path / "two", "--no-progress"
    )
    assert code == 0
    one, two = (
        xdreg.open_field(tmp_path / name / "field.ome.zarr") for name in ("one", "two")
    )
    np.testing.assert_array_equal(one.displacement, two.displacement)


def test_a_plan_is_a_file_to_edit(xdreg_command, pair, tmp_path):
    file = tmp_path / "plan.yaml"
    code, out, _ = xdreg_command("plan", *pair, "--save-options", file)
    assert code == 0
    assert "local_correlation" in out
    assert isinstance(read_options(file)["stages"][0], xdreg.Affine)
    code, _, err = xdreg_command("plan", *pair, "--save-options", file)
    assert code == 1
    assert "--overwrite" in err


def test_how_far_and_with_how_much(xdreg_command, pair, tmp_path):
    code, out, _ = xdreg_command("plan", *pair, "--json", "--workers", "1")
    assert code == 0
    told = json.loads(out)
    assert told["blocks_at_once"] == 1
    memory = f"{told['peak_memory_bytes']}"
    limits = ["--workers", "3", "--memory", memory, "--finest-level", "1"]
    file = tmp_path / "run.toml"
    where = ["-o", tmp_path / "out", "--save-options", file]
    code, out, _ = xdreg_command("register", *pair, *where, *limits, "--json")
    assert code == 0
    step = xdreg.open_field(tmp_path / "out/field.ome.zarr").dreg.stages["level"]
    assert list(step) == [1, 1]
    stored = read_options(file)
    assert [stage.level for stage in stored["stages"]] == [1, 1]
    assert not stored.keys() & {"workers", "memory", "finest_level"}
    limits = 'workers = 2\nmemory = "1 MB"\nfinest_level = 1\n'
    file.write_text(limits, encoding="utf-8")
    code, _, err = xdreg_command("plan", *pair, "--options", file)
    assert code == 1
    assert "--memory" in err


def test_a_channel_is_chosen_where_options_are_saved(xdreg_command, tmp_path):
    images = xdreg.datasets.phantom_pair((48, 56), amplitude=1.0)
    paths = [tmp_path / "fixed.ome.zarr", tmp_path / "moving.ome.zarr"]
    for image, path in zip((images.fixed, images.moving), paths, strict=True):
        two = xr.concat([image, image], "c").drop_vars("c", errors="ignore")
        for dim in ("y", "x"):
            two[dim].attrs = image[dim].attrs
        xdreg.save(two, path)
    file = tmp_path / "run.toml"
    options = ["--channel", "0", "--save-options", file]
    code, _, err = xdreg_command("plan", *paths, *options)
    assert code == 0, err
    assert "channel" in file.read_text(encoding="utf-8")
    options += ["-o", tmp_path / "out", "--overwrite"]
    code, _, err = xdreg_command("register", *paths, *options)
    assert code == 0, err
    code, _, err = xdreg_command("plan", "--options", file)
    assert code == 0, err
