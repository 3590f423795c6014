"""Arguments of register and plan: precedence, channels, initial transforms."""

import json
import tomllib

import itk
import numpy as np
import pytest
import xarray as xr

from xdreg.cli.inputs import named_channels


def test_the_command_line_comes_before_the_file(xdreg_command, pair, tmp_path):
    file = tmp_path / "run.toml"
    names = f'fixed = "{pair[0]}"\nmoving = "{pair[1]}"\n'
    file.write_text(names + 'metric = "mind"\nblock_shape = 32\n')

    def planned(*more):
        code, out, _ = xdreg_command("plan", "--options", file, "--json", *more)
        assert code == 0
        last = json.loads(out)["stages"][-1]
        return last["metric"], last["blocks"]

    assert planned() == ("mind", [3, 3])
    assert planned("--metric", "lncc") == ("lncc", [3, 3])
    assert planned("--block-shape", "72,40") == ("mind", [1, 2])


def test_an_option_that_stages_have_themselves_is_refused(
    xdreg_command, pair, tmp_path
):
    file = tmp_path / "run.toml"
    file.write_text('[[stages]]\nkind = "LocalCorrelation"\nblock_shape = 40\n')
    code, _, err = xdreg_command(
        "plan", *pair, "--options", file, "--block-shape", "32"
    )
    assert code == 1
    assert "--block-shape has no effect on stage 0" in err
    code, _, _ = xdreg_command("plan", *pair, "--options", file, "--metric", "mind")
    assert code == 0


def test_a_matrix_and_a_transform_start_a_run(xdreg_command, pair, tmp_path):
    matrix = tmp_path / "shift.csv"
    matrix.write_text("1,0,500\n0,1,0\n0,0,1\n")
    code, _, err = xdreg_command("register", *pair, "-o", tmp_path, "--initial", matrix)
    assert code == 1
    assert "initial maps fixed to 499" in err
    assert "a matrix of a translation: --initial" in err
    shift = itk.TranslationTransform[itk.D, 2].New()
    shift.SetOffset([1.0, 2.0])
    itk.transformwrite(shift, str(tmp_path / "shift.tfm"))
    code, _, _ = xdreg_command("plan", *pair, "--initial", tmp_path / "shift.tfm")
    assert code == 0
    matrix.write_text("1,x")
    code, _, err = xdreg_command("plan", *pair, "--initial", matrix)
    assert code == 1
    assert "homogeneous matrix" in err


def test_a_channel_is_known_by_its_name_first():
    image = xr.DataArray(np.zeros((2, 3, 3)), dims=("c", "y", "x"))
    named = image.assign_coords(c=["488", "561"])
    assert named_channels(named, ["488"]) == "488"
    assert named_channels(named, ["1", "488"]) == [1, "488"]
    assert named_channels(image, ["1"]) == 1
    assert named_channels(image, None) is None


@pytest.mark.parametrize("option", ["--channel", "--moving-channel"])
def test_a_channel_of_an_image_without_any_is_refused(
    xdreg_command, pair, tmp_path, option
):
    code, _, err = xdreg_command("register", *pair, "-o", tmp_path, option, "0")
    assert code == 1
    assert "no channel axis" in err


def test_an_overlap_in_voxels_or_as_a_share_of_the_block(xdreg_command, pair, tmp_path):
    file = tmp_path / "run.toml"
    for text, expected in (
        ("25%", lambda size: round(size / 4)),
        ("0.25", lambda size: round(size / 4)),
        ("6", lambda _: 6),
        ("6,25%", None),
    ):
        code, _, err = xdreg_command(
            *("plan", *pair, "--block-shape", "30", "--overlap", text),
            *("--save-options", file, "--overwrite"),
        )
        assert code == 0, err
        last = tomllib.loads(file.read_text(encoding="utf-8"))["stages"][-1]
        shares = [round(size / 4) for size in last["block_shape"]]
        wanted = [expected(n) for n in last["block_shape"]] if expected else None
        assert last["overlap"] == (wanted or [6, shares[1]])


@pytest.mark.parametrize("text", ["60%", "1.5", "ten", "10%,5%,5%", ""])
def test_an_overlap_that_is_none_is_refused(xdreg_command, pair, text):
    code, _, err = xdreg_command("plan", *pair, "--overlap", text)
    assert code == 1
    assert "overlap must be" in err
