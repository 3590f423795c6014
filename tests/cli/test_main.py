"""The command, run as a user runs it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

import xdreg
from tests.helpers.commands import run
from xdreg.cli.inputs import named_channels


@pytest.mark.slow
def test_register_info_and_warp(tmp_path):
    fixed, moving = xdreg.datasets.write_phantom_pair(tmp_path, (80, 96), amplitude=3.0)
    options = ["--block-shape", 64, "--fixed-mask", "auto"]
    done = run("register", fixed, moving, "-o", tmp_path / "out", *options)
    assert done.returncode == 0, done.stderr
    for word in ("pose", "correlation", "success", "time", "peak memory"):
        assert word in done.stdout
    field = xdreg.open_field(tmp_path / "out" / "field.ome.zarr")
    assert json.loads(field.attrs["xdreg"])["fixed_mask"]["auto"]
    moved = xdreg.open_ome_zarr(tmp_path / "out" / "moved.ome.zarr", level=0)
    np.testing.assert_array_equal(moved, field.dreg.warp(xdreg.open_ome_zarr(moving)))
    assert "scale" not in run("info", fixed).stderr
    assert "micrometer" in run("info", fixed).stdout
    assert (
        "displacement field" in run("info", tmp_path / "out" / "field.ome.zarr").stdout
    )
    warped = tmp_path / "warped.ome.zarr"
    done = run("warp", tmp_path / "out" / "field.ome.zarr", moving, "-o", warped)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(xdreg.open_ome_zarr(warped, level=0), moved)
    again = run("register", fixed, moving, "-o", tmp_path / "out")
    assert again.returncode == 1
    assert "exists" in again.stderr


def test_a_users_mistake_is_one_clear_line(tmp_path):
    done = run(
        "register", tmp_path / "no.zarr", tmp_path / "no.zarr", "-o", tmp_path / "o"
    )
    assert done.returncode == 1
    assert "does not exist" in done.stderr
    assert "Traceback" not in done.stderr
    assert run("register", "only-one").returncode == 2


def test_import_is_light():
    heavy = "('itk', 'dask', 'distributed', 'napari', 'numba', 'matplotlib')"
    code = f"import sys, xdreg; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_an_output_that_cannot_be_made_is_one_line(tmp_path):
    paths = xdreg.datasets.write_phantom_pair(tmp_path, (64, 80))
    (tmp_path / "taken").write_text("")
    done = run("register", *paths, "-o", tmp_path / "taken")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "cannot be made" in done.stderr


def test_a_channel_is_known_by_its_name_first():
    image = xr.DataArray(np.zeros((2, 3, 3)), dims=("c", "y", "x"))
    named = image.assign_coords(c=["488", "561"])
    assert named_channels(named, ["488"]) == "488"
    assert named_channels(named, ["1", "488"]) == [1, "488"]
    assert named_channels(image, ["1"]) == 1
    assert named_channels(image, None) is None


def test_a_channel_of_an_image_without_any_is_refused(tmp_path):
    paths = xdreg.datasets.write_phantom_pair(tmp_path, (64, 80))
    for option in ("--channel", "--moving-channel"):
        done = run("register", *paths, "-o", tmp_path / "out", option, "0")
        assert done.returncode == 1
        assert "no channel axis" in done.stderr


def test_luminance_is_an_option(tmp_path):
    pair = xdreg.datasets.phantom_pair((64, 80), amplitude=2.0)
    for name in ("fixed", "moving"):
        grey = getattr(pair, name) // 256
        colour = xr.concat([grey, grey // 2, 255 - grey], "c").astype("uint8")
        xdreg.save(colour, tmp_path / f"{name}.ome.zarr")
    paths = [tmp_path / f"{name}.ome.zarr" for name in ("fixed", "moving")]
    out = tmp_path / "out"
    done = run("register", *paths, "-o", out, "--channel", "luminance")
    assert done.returncode == 0, done.stderr
    for word in ("lncc, chosen", "correlation", "success"):
        assert word in done.stdout
    moved = xdreg.open_ome_zarr(out / "moved.ome.zarr", level=0)
    assert moved.sizes["c"] == 3
