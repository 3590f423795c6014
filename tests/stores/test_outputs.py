"""Outputs appear whole or not at all, and replace nothing unless asked to."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import xdreg
from tests.helpers.disks import ROOT
from tests.helpers.pairs import zero_field
from tests.helpers.stores import sample
from xdreg.cli.main import app
from xdreg.stores.outputs import new_file

SLOW = """
import os, sys, time
import numpy as np
import xdreg
from tests.helpers.pairs import zero_field
from tests.helpers.stores import sample

def slowly(block):
    os.write(1, b"writing" + os.linesep.encode())
    time.sleep(0.05)
    return block + 1

image = sample(2).chunk(8)
kind, target, overwrite = sys.argv[1], sys.argv[2], bool(int(sys.argv[3]))
if kind == "image":
    data = image.copy(data=image.data.map_blocks(slowly, dtype=image.dtype))
else:
    data = zero_field(image.shape)
    chunks = data.chunk(y=8, x=8)
    data["displacement"] = chunks.displacement.copy(
        data=chunks.displacement.data.map_blocks(slowly, dtype=np.float32)
    )
xdreg.save(data, target, overwrite=overwrite)
print("written", flush=True)
"""


def data_of(kind):
    return sample(2) if kind == "image" else zero_field((70, 93))


def values_of(kind, path):
    if kind == "image":
        return xdreg.open_ome_zarr(path, level=0).values
    return xdreg.open_field(path).displacement.values


def killed(kind, target, *, overwrite, chunks):
    """Write in another process, and kill it after so many chunks."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, kind, str(target), str(int(overwrite))],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    for _ in range(chunks):
        assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    process.stdout.close()


@pytest.mark.parametrize("kind", ["image", "field"])
def test_a_writer_that_is_killed_leaves_what_was_there(tmp_path, kind):
    target = tmp_path / "out.zarr"
    killed(kind, target, overwrite=False, chunks=6)
    assert not target.exists()
    with pytest.raises(xdreg.StoreError, match="does not exist"):
        values_of(kind, target)
    xdreg.save(data_of(kind), target)
    before = values_of(kind, target)
    killed(kind, target, overwrite=True, chunks=6)
    np.testing.assert_array_equal(values_of(kind, target), before)
    xdreg.save(data_of(kind), target, overwrite=True)
    np.testing.assert_array_equal(values_of(kind, target), before)
    # What the killed ones left is gone, too.
    assert [path.name for path in tmp_path.iterdir()] == ["out.zarr"]


def test_a_writer_killed_between_two_renames_loses_nothing(tmp_path):
    target = tmp_path / "out.zarr"
    xdreg.save(sample(2), target)
    target.rename(tmp_path / ".out.zarr.old")
    with pytest.raises(xdreg.StoreError, match="exists"):
        xdreg.save(sample(2) + 1, target)
    np.testing.assert_array_equal(values_of("image", target), sample(2))


@pytest.mark.parametrize("kind", ["image", "field"])
def test_nothing_is_overwritten_unless_asked(tmp_path, kind):
    target = tmp_path / "out.zarr"
    xdreg.save(data_of(kind), target)
    times = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    with pytest.raises(xdreg.StoreError, match=r"exists; .* overwrite=True"):
        xdreg.save(data_of(kind), target)
    assert times == {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    for name, content in (("thesis.txt", "years"), ("folder/notes.txt", "of work")):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)
        with pytest.raises(xdreg.StoreError, match="not a Zarr store"):
            xdreg.save(data_of(kind), tmp_path / name.split("/")[0], overwrite=True)
        assert file.read_text() == content


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "picture.png"
    with pytest.raises(RuntimeError), new_file(target, overwrite=False) as file:
        file.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with new_file(target, overwrite=False) as file:
        file.write_text("whole")
    with (
        pytest.raises(xdreg.StoreError, match="exists"),
        new_file(target, overwrite=False),
    ):
        raise AssertionError
    with new_file(target, overwrite=True) as file:
        file.write_text("new")
    assert target.read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 1


def refused(*command, match):
    with pytest.raises(xdreg.StoreError, match=match):
        app([str(word) for word in command], standalone_mode=False)


def test_commands_overwrite_nothing_and_say_so_before_they_start(tmp_path):
    pair = xdreg.datasets.write_phantom_pair(tmp_path, (48, 56))
    with pytest.raises(xdreg.StoreError, match="exists"):
        xdreg.datasets.write_phantom_pair(tmp_path, (48, 56))
    out = tmp_path / "out"
    out.mkdir()
    for name in ("field.ome.zarr", "moved.ome.zarr"):
        (out / name).mkdir()
        refused("register", *pair, "-o", out, match=f"{name} exists")
        (out / name).rmdir()
        assert list(out.iterdir()) == []
    refused("warp", pair[0], pair[1], "-o", pair[1], match="exists")
    for name in ("fixed.ome.zarr", "field.ome.zarr", "before_after.png"):
        (out / name).write_text("mine")
        refused("demo", "-o", out, match=f"{name} exists")
        assert (out / name).read_text() == "mine"
        (out / name).unlink()
    refused("register", *pair, "-o", "s3://bucket/out", match="must be a local folder")


def test_outputs_are_not_overwritten_unless_asked(tmp_path):
    path = tmp_path / "image.zarr"
    xdreg.save(sample(2), path)
    with pytest.raises(xdreg.StoreError, match="exists"):
        xdreg.save(sample(2), path)
    xdreg.save(sample(2) * 0 + 5, path, overwrite=True)
    assert float(xdreg.open_ome_zarr(path, level=0).mean()) == 5
    assert not list(tmp_path.glob(".*"))


def test_only_stores_are_overwritten(tmp_path):
    folder, file = tmp_path / "folder", tmp_path / "file.txt"
    folder.mkdir()
    for precious in (folder / "precious.txt", file):
        precious.write_text("years of work")
    for path in (folder, file):
        with pytest.raises(xdreg.StoreError, match="not a Zarr store"):
            xdreg.save(sample(2), path, overwrite=True)
    assert (folder / "precious.txt").exists()
    assert file.exists()


def test_an_image_may_replace_the_store_it_is_read_from(tmp_path):
    path = tmp_path / "image.zarr"
    xdreg.save(sample(2), path)
    before = xdreg.open_ome_zarr(path, level=0)
    xdreg.save(before + 1, path, overwrite=True)
    after = xdreg.open_ome_zarr(path, level=0)
    np.testing.assert_array_equal(after, sample(2) + 1)
    assert after.data.name != before.data.name


def test_what_cannot_be_written_to_is_said(tmp_path):
    with pytest.raises(xdreg.StoreError, match="Protocol not known"):
        xdreg.save(sample(2), "unheard-of://image.zarr")
    with pytest.raises(xdreg.StoreError, match="folder"):
        xdreg.save(sample(2), tmp_path / "missing" / "image.zarr")
