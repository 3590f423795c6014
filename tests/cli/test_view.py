"""The command ``view``, with images served to a browser, and which it opens."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

import xdreg
from tests.helpers import servers
from tests.helpers.commands import ON_A_TERMINAL
from tests.helpers.viewers import state_of
from xdreg.coordinates import grid_of
from xdreg.views.neuroglancer_server import ImageServer


def test_what_a_field_was_made_of_is_served(tmp_path):
    pair = xdreg.datasets.phantom_pair((60, 70), amplitude=2.0)
    paths = [tmp_path / f"{name}.ome.zarr" for name in ("fixed", "moving")]
    for image, path in zip((pair.fixed, pair.moving), paths, strict=True):
        xdreg.save(image, path)
    images = [xdreg.open_ome_zarr(path) for path in paths]
    field = images[0].dreg.register(images[1], stages=xdreg.Affine(), progress=False)
    field.dreg.to_ome_zarr(tmp_path / "field.ome.zarr")
    command = [sys.executable, "-c", ON_A_TERMINAL + "main()", "view"]
    with subprocess.Popen(
        [*command, str(tmp_path / "field.ome.zarr"), "--neuroglancer"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        try:
            link = process.stdout.readline().strip()
            sources = {v["name"]: v["source"] for v in state_of(link)["layers"]}
            url = sources["warped"].removeprefix("zarr://")
            found = xdreg.open_ome_zarr(url, level=0).values
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    np.testing.assert_array_equal(found, field.dreg.warp(images[1]).values)


@pytest.fixture
def folder(pair, tmp_path):
    """Return a folder with a pair, and in a folder of its own a field."""
    for name, path in zip(("fixed", "moving"), pair, strict=True):
        shutil.copytree(path, tmp_path / "a" / f"{name}.ome.zarr")
    grid = grid_of(xdreg.open_ome_zarr(pair[0], level=0))
    field = xdreg.make_field(np.zeros((grid.ndim, *grid.shape), np.float32), grid)
    (tmp_path / "a" / "out").mkdir()
    xdreg.save(field, tmp_path / "a" / "out" / "field.ome.zarr")
    return tmp_path / "a"


@pytest.fixture
def view(xdreg_command, monkeypatch):
    """Run the command until it would serve."""

    def ended(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ImageServer, "serve_forever", ended)
    return lambda *arguments: xdreg_command("view", *arguments, "--neuroglancer")


def name_images(field, **addresses):
    """Write into a stored field the addresses of its images."""
    document = json.loads((field / "xdreg" / "zarr.json").read_text("utf-8"))
    manifest = {name: {"source": str(value)} for name, value in addresses.items()}
    document["attributes"]["xdreg"] = json.dumps(manifest)
    (field / "xdreg" / "zarr.json").write_text(json.dumps(document))


def test_local_images_are_named_before_they_are_opened(folder, view):
    field = folder / "out" / "field.ome.zarr"
    images = {name: folder / f"{name}.ome.zarr" for name in ("fixed", "moving")}
    name_images(field, **images)
    xdreg.save(xdreg.open_field(field), folder / "out" / "again.ome.zarr")
    moved = folder.rename(folder.with_name("b"))
    code, link, errors = view(moved / "out" / "again.ome.zarr")
    assert code == 0, errors
    assert "viewer" not in errors
    assert state_of(link.splitlines()[0])
    for name in images:
        path = moved / f"{name}.ome.zarr"
        assert f"opening {path}, the {name} image that" in errors


@pytest.mark.parametrize(
    "address",
    ["http://HOST/a.zarr", "reference::http://HOST/a.json", "HTTP://HOST/a.zarr",
     "simplecache::http://HOST/a", "zip://a::http://HOST/b.zip", "//HOST/share/a",
     "filecache::reference::http://HOST/a", "file:///etc/passwd", "smb://HOST/a"],
)  # fmt: skip
def test_no_server_is_called_because_a_field_says_so(
    folder, view, xdreg_command, tmp_path, address
):
    field = folder / "out" / "field.ome.zarr"
    with servers.serving(tmp_path) as (url, faults):
        address = address.replace("HOST", url.removeprefix("http://"))
        name_images(field, fixed=folder / "fixed.ome.zarr", moving=address)
        code, output, errors = view(field)
        assert (code, output) == (1, "")
        assert address in errors
        assert errors.rstrip().endswith("--trust")
        # Not by what only describes the field, either.
        assert xdreg_command("info", field)[0] == 0
        assert repr(xdreg.open_field(field).dreg)
        assert xdreg.open_field(field).dreg._repr_html_()
        assert faults.asked == []


def test_trust_and_images_of_the_user_open_what_is_elsewhere(folder, view, tmp_path):
    field = folder / "out" / "field.ome.zarr"
    with servers.serving(tmp_path) as (url, _):
        remote = f"{url}/a/moving.ome.zarr"
        name_images(field, fixed=folder / "fixed.ome.zarr", moving=remote)
        code, _, errors = view(field, "--trust")
        assert code == 0, errors
        assert f"opening {remote}, the moving image" in errors
        assert view(field, folder / "fixed.ome.zarr", remote)[0] == 0
        # What lies below the folder of a field on a server is opened.
        shutil.copytree(field, folder / "field.ome.zarr")
        code, _, errors = view(f"{url}/a/field.ome.zarr")
        assert code == 0, errors
        (tmp_path / "c").mkdir()
        shutil.copytree(field, tmp_path / "c" / "field.ome.zarr")
        code, _, errors = view(f"{url}/c/field.ome.zarr")
        assert code == 1
        assert remote in errors


def test_pipes_and_devices_are_refused(folder, view):
    field = folder / "out" / "field.ome.zarr"
    os.mkfifo(folder / "pipe.nrrd")
    for place in (folder / "pipe.nrrd", "/dev/zero", "/proc/self/environ"):
        name_images(field, fixed=place, moving=folder / "moving.ome.zarr")
        code, _, errors = view(field, "--trust")
        assert code == 1
        assert str(place) in errors
        assert "is not opened" in errors


def test_python_opens_what_a_field_names_as_the_command_does(folder, tmp_path):
    path = folder / "out" / "field.ome.zarr"
    name_images(path, fixed=folder / "fixed.ome.zarr", moving=folder / "no.zarr")
    with pytest.raises(xdreg.StoreError, match="does not exist"):
        xdreg.make_scene(xdreg.open_field(path))
    with servers.serving(tmp_path) as (url, faults):
        remote = f"{url}/a/moving.ome.zarr"
        name_images(path, fixed=folder / "fixed.ome.zarr", moving=remote)
        field = xdreg.open_field(path)
        with pytest.raises(xdreg.InputError, match="trust=True"):
            xdreg.make_scene(field)
        assert faults.asked == []
        assert len(xdreg.make_scene(field, trust=True).pair) == 2
