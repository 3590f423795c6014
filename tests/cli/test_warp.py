"""The command that warps, with what it passes on."""

import numpy as np
import pytest
import typer.testing
import xarray as xr
import zarr

import xdreg
from tests.helpers.fields import field_and_moving
from tests.helpers.stores import levels_of
from xdreg.cli.main import app


@pytest.fixture
def stored(tmp_path):
    field, moving = field_and_moving(2, channels=2)
    field.dreg.to_ome_zarr(tmp_path / "field.zarr")
    xdreg.save(moving, tmp_path / "moving.zarr", levels=2)
    return field, moving, tmp_path


def run(folder, *options, name="out.zarr"):
    arguments = ["warp", folder / "field.zarr", folder / "moving.zarr"]
    arguments += ["-o", folder / name, *options]
    runner = typer.testing.CliRunner()
    return runner.invoke(app, [str(argument) for argument in arguments])


def test_options_reach_the_function(stored):
    field, moving, folder = stored
    options = ["--spacing", "2,3", "--region", "y=40:70", "--region", "x=:60"]
    done = run(folder, *options, "--order", 3, "--fill", 5, "--levels", 1)
    assert done.exit_code == 0, done.output
    assert "wrote" in done.output
    expected = field.dreg.warp(
        moving, spacing=(2, 3), region={"y": slice(40, 70), "x": slice(None, 60)},
        order=3, fill_value=5,
    )  # fmt: skip
    (found,) = levels_of(folder / "out.zarr")
    xr.testing.assert_equal(found.drop_vars("omero"), expected)


def test_levels_are_built_or_resampled(stored):
    field, _, folder = stored
    tree = xdreg.open_ome_zarr(folder / "moving.zarr")
    like = ["--like", folder / "moving.zarr", "--levels", 2]
    for name, extra in (("built.zarr", []), ("all.zarr", ["--all-levels"])):
        assert run(folder, *like, *extra, name=name).exit_code == 0
        field.dreg.warp_to(
            tree, folder / "expected.zarr", like=tree, levels=2, overwrite=True,
            levels_from="moving" if extra else "finest",
        )  # fmt: skip
        for one, other in zip(
            levels_of(folder / name), levels_of(folder / "expected.zarr"), strict=True
        ):
            np.testing.assert_array_equal(one, other)
    built, resampled = (levels_of(folder / f"{n}.zarr")[1] for n in ("built", "all"))
    assert (built.values != resampled.values).any()


def test_labels(stored):
    field, moving, folder = stored
    assert run(folder, "--labels", "--label-rule", "gaussian").exit_code == 0
    found = levels_of(folder / "out.zarr")[0]
    np.testing.assert_array_equal(found, field.dreg.warp(moving, labels="gaussian"))


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--spacing", "two"], "--spacing"), (["--region", "z:3"], "DIM=START:STOP"),
     (["--region", "y=a:b"], "DIM=START:STOP"), (["--region", "q=1:2"], "map dims"),
     (["--order", "2"], "order must be")],
)  # fmt: skip
def test_mistakes_are_named(stored, options, message):
    done = run(stored[2], *options)
    assert isinstance(done.exception, xdreg.InputError)
    assert message in str(done.exception)
    assert not (stored[2] / "out.zarr").exists()


def test_the_layout_of_the_store(stored):
    _, _, folder = stored
    options = ["--version", "0.6", "--chunks", "16", "--shards", "32,48"]
    assert run(folder, *options).exit_code == 0
    array = zarr.open_array(folder / "out.zarr" / "0")
    assert (array.chunks[-2:], array.shards[-2:]) == ((16, 16), (32, 48))
    found = xdreg.open_ome_zarr(folder / "out.zarr")
    assert found.attrs["ome_zarr_version"].startswith("0.6")
    assert run(folder, "--version", "0.4", name="old.zarr").exit_code == 0
    assert (folder / "old.zarr" / ".zattrs").exists()
    done = run(folder, "--version", "0.4", "--shards", "32", name="other.zarr")
    assert isinstance(done.exception, xdreg.InputError)
