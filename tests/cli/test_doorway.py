"""The way into the command: modules it loads, folders it leaves, images it finds."""

import subprocess
import sys

import pytest

import xdreg


def python(*arguments):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def loaded_by(*arguments):
    """Return what the command prints, and the names of the libraries it loads."""
    code = (
        f"import runpy, sys; sys.argv = ['xdreg', *{arguments}]\n"
        "try: runpy.run_module('xdreg', run_name='__main__')\n"
        "except SystemExit: print('\\f', *sys.modules)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    out, _, loaded = done.stdout.partition("\f")
    return out, set(loaded.split())


def test_python_m_and_the_help_load_no_slow_library():
    out, loaded = loaded_by("--help")
    assert "register" in out
    slow = {"dask", "zarr", "numba", "scipy", "ngff_zarr", "itk", "yaml", "rich"}
    assert slow.isdisjoint(loaded)
    own = {name for name in loaded if name.startswith("xdreg.cli.")}
    assert own == {f"xdreg.cli.{name}" for name in ("main", "commands", "speaking")}


def test_to_look_at_an_image_or_a_field_loads_no_engine(pair, tmp_path):
    image = xdreg.open_ome_zarr(pair[0])["scale1/image"]
    field = image.dreg.register(image, stages=[xdreg.Translation()], progress=False)
    field.dreg.to_ome_zarr(tmp_path / "field.ome.zarr")
    shown = [(pair[0], "spacing", "dask")]
    shown += [(tmp_path / "field.ome.zarr", "verdict", "dask.array")]
    for path, word, of_dask in shown:
        out, loaded = loaded_by("info", str(path))
        assert word in out
        slow = {"distributed", "itk", "ngff_zarr", "numba", "tifffile", "scipy"}
        assert (slow | {of_dask}).isdisjoint(loaded)


def test_what_is_printed_of_a_field_of_several_steps(xdreg_command, pair, tmp_path):
    image = xdreg.open_ome_zarr(pair[0])["scale1/image"]
    field = image.dreg.register(image, stages=[xdreg.Translation()], progress=False)
    field.dreg.to_ome_zarr(tmp_path / "plain.zarr")
    field.dreg.to_ome_zarr(tmp_path / "affine.zarr", affine=True)
    plain, steps = (
        xdreg_command("info", tmp_path / f"{name}.zarr")[1]
        for name in ("plain", "affine")
    )
    assert plain == steps


def test_help_names_what_an_option_takes(xdreg_command):
    for command in ("warp", "register"):
        _, out, _ = xdreg_command(command, "--help")
        assert "list[" not in out


def test_a_refused_run_leaves_no_folder(xdreg_command, pair, tmp_path):
    fixed, moving = pair
    target = tmp_path / "a" / "out"
    code, _, err = xdreg_command(
        "register", fixed, moving, "-o", target, "--channel", "dapi"
    )
    assert code == 1
    assert "channel" in err
    assert not list(tmp_path.iterdir())
    run = tmp_path / "run"
    with pytest.raises(xdreg.InputError):
        xdreg.register(*map(xdreg.open_ome_zarr, pair), workdir=run, initial="centre")
    assert not run.exists()
    target.mkdir(parents=True)
    assert xdreg_command("register", fixed, "gone.zarr", "-o", target)[0] == 1
    assert target.is_dir()


def test_centers_on_the_command_line(xdreg_command, pair, tmp_path):
    options = tmp_path / "run.toml"
    code, out, _ = xdreg_command(
        "plan", *pair, "--initial", "centers", "--save-options", options
    )
    assert code == 0
    assert 'initial = "centers"' in options.read_text("utf-8")
    assert xdreg_command("plan", "--options", options)[0] == 0
    assert max(map(len, out.splitlines()[:-1])) <= 80


def test_report_finds_the_images(xdreg_command, pair, tmp_path):
    images = [xdreg.open_ome_zarr(path) for path in pair]
    field = images[0].dreg.register(images[1], stages="rigid", progress=False)
    path, page = tmp_path / "field.ome.zarr", tmp_path / "qc.html"
    xdreg.save(field, path)
    code, _, err = xdreg_command("report", path, "-o", page)
    assert code == 0, err
    assert str(pair[0]) in err
    assert "<html" in page.read_text("utf-8")
    xdreg.save(field.drop_attrs(), path, overwrite=True)
    code, _, err = xdreg_command("report", path, "-o", page, "--overwrite")
    assert code == 1
    assert "give FIXED and MOVING" in err
