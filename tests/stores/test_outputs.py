"""Outputs appear whole or not at all, and replace nothing unless asked to."""

import asyncio
import errno
import os
import signal
import threading
import time

import dask
import numpy as np
import pytest

import xdreg
from tests.helpers.forks import Script
from tests.helpers.pairs import zero_field
from tests.helpers.stores import sample
from xdreg.cli.main import app
from xdreg.fields.displacement import FIELD_CHUNK
from xdreg.stores.outputs import new_file, new_store

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
    script = Script(SLOW, kind, target, int(overwrite))
    for _ in range(chunks):
        assert script.stdout.readline() == "writing\n"
    assert script.end(signal.SIGKILL) == -signal.SIGKILL


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
        assert file.read_text("utf-8") == content


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
    assert target.read_text("utf-8") == "new"
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
    refused("warp", pair[0], pair[1], "-o", out, match="exists")
    for name in ("fixed.ome.zarr", "field.ome.zarr", "before_after.png"):
        (out / name).write_text("mine")
        refused("demo", "-o", out, match=f"{name} exists")
        assert (out / name).read_text("utf-8") == "mine"
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


def test_an_image_in_memory_may_replace_the_store_it_was_read_from(tmp_path):
    path = tmp_path / "image.zarr"
    xdreg.save(sample(2), path)
    before = xdreg.open_ome_zarr(path, level=0)
    xdreg.save(before.compute() + 1, path, overwrite=True)
    after = xdreg.open_ome_zarr(path, level=0)
    np.testing.assert_array_equal(after, sample(2) + 1)
    assert after.data.name != before.data.name


def test_what_cannot_be_written_to_is_said(tmp_path):
    with pytest.raises(xdreg.StoreError, match="Protocol not known"):
        xdreg.save(sample(2), "unheard-of://image.zarr")
    (tmp_path / "file").touch()
    with pytest.raises(xdreg.StoreError, match="file is no folder"):
        xdreg.save(sample(2), tmp_path / "file" / "a" / "image.zarr")


def test_folders_of_an_output_are_made(tmp_path):
    path = tmp_path / "missing" / "too" / "image.zarr"
    xdreg.save(sample(2), path)
    np.testing.assert_array_equal(xdreg.open_ome_zarr(path, level=0), sample(2))
    assert list(path.parent.iterdir()) == [path]


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    xdreg.save(sample(2), shelf / "image.zarr")
    (shelf / "a.txt").write_text("old")
    links = [tmp_path / "link.zarr", tmp_path / "a.txt", tmp_path / "shelf2"]
    for link, to in zip(
        links, ("shelf/image.zarr", "shelf/a.txt", "shelf"), strict=True
    ):
        link.symlink_to(to)
    xdreg.save(sample(2) + 1, links[0], overwrite=True)
    with new_file(links[1], overwrite=True) as file:
        file.write_text("new")
    xdreg.save(sample(2), links[2] / "second.zarr")
    assert all(link.is_symlink() for link in links)
    np.testing.assert_array_equal(values_of("image", links[0]), sample(2) + 1)
    assert (shelf / "a.txt").read_text("utf-8") == "new"
    names = {"image.zarr", "a.txt", "second.zarr"}
    assert {path.name for path in shelf.iterdir()} == names
    assert set(tmp_path.iterdir()) == {shelf, *links}


@pytest.mark.parametrize("overwrite", [False, True])
def test_links_to_nothing_are_said(tmp_path, overwrite):
    loop, dangling = tmp_path / "loop", tmp_path / "dangling"
    loop.symlink_to(loop)
    dangling.symlink_to(tmp_path / "missing")
    for link in (loop, dangling):
        with pytest.raises(xdreg.StoreError, match="does not exist; remove the link"):
            xdreg.save(sample(2), link, overwrite=overwrite)
        with (
            pytest.raises(xdreg.StoreError, match="does not exist; remove the link"),
            new_file(link, overwrite=overwrite),
        ):
            raise AssertionError
    assert not (tmp_path / "missing").exists()


def writers(folder):
    """Return functions that write outputs of all kinds into a folder."""
    from xdreg.fields.warp_to import warp_to

    image = sample(2)[:20, :30]
    field = xdreg.compose(np.eye(3), like=image)

    def text(target):
        with new_file(target, overwrite=True) as file:
            file.write_text("whole")

    return {
        folder / "a.zarr": lambda target: xdreg.save(image, target, overwrite=True),
        folder / "b.zarr": lambda target: warp_to(field, image, target, overwrite=True),
        folder / "c.n5": lambda target: xdreg.write_transform(field, target),
        folder / "d.csv": text,
    }


@pytest.mark.parametrize("name", [".{}.part", ".{}.old", ".{}.part/lock"])
def test_nothing_is_written_through_links_that_lie_in_the_way(tmp_path, name):
    precious = tmp_path / "home" / "precious"
    precious.mkdir(parents=True)
    (precious / "zarr.json").write_text("years of work")
    to = precious / "zarr.json" if name.endswith("lock") else precious
    folder = tmp_path / "out"
    folder.mkdir()
    for target, write in writers(folder).items():
        link = folder / name.format(target.name)
        link.parent.mkdir(mode=0o700, exist_ok=True)
        link.symlink_to(to)
        with pytest.raises(xdreg.StoreError, match="link") as caught:
            write(target)
        assert str(link) in str(caught.value)
        assert not target.exists()
        assert [path.name for path in precious.iterdir()] == ["zarr.json"]
        assert (precious / "zarr.json").read_text("utf-8") == "years of work"
        link.unlink()
        write(target)
    # Names of before are not used: links there do not matter.
    (folder / ".part-d.csv").symlink_to(precious / "zarr.json")
    writers(folder)[folder / "d.csv"](folder / "d.csv")
    assert (precious / "zarr.json").read_text("utf-8") == "years of work"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to make files of another user")
def test_what_another_user_put_in_the_way_is_refused(tmp_path):
    for target, write in writers(tmp_path).items():
        part = tmp_path / f".{target.name}.part"
        part.mkdir()
        os.chown(part, 65534, 65534)
        with pytest.raises(xdreg.StoreError, match="belongs to another user"):
            write(target)
        part.rmdir()


def test_users_own_hidden_folders_are_kept(tmp_path):
    for name in (".a.zarr.part", ".a.zarr.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.tex").write_text("years of work")
        with pytest.raises(xdreg.StoreError, match=r"thesis\.tex"):
            xdreg.save(sample(2), tmp_path / "a.zarr", overwrite=True)
        assert (tmp_path / name / "thesis.tex").read_text("utf-8") == "years of work"
        (tmp_path / name).rename(tmp_path / f"kept{name}")


def test_two_at_once_do_not_mix(tmp_path):
    target = tmp_path / "a.zarr"
    with new_store(target, overwrite=False) as output:
        output.folder.mkdir()
        with pytest.raises(xdreg.InputError, match="in use by process"):
            xdreg.save(sample(2), target)
        (output.folder / "zarr.json").write_text("{}")
    assert [path.name for path in target.iterdir()] == ["zarr.json"]


@pytest.mark.parametrize("kind", ["image", "field"])
def test_chunks_that_are_written_after_the_first_error_leave_nothing(
    tmp_path, monkeypatch, kind
):
    """The first error ends the computation; other tasks of it are writing still."""
    to_thread, failed = asyncio.to_thread, threading.Event()
    started, ended = [], []

    async def on_a_full_disk(function, *arguments, **options):
        if function.__name__ != "_put" or "/c/" not in str(arguments[0]):
            return await to_thread(function, *arguments, **options)
        started.append(arguments)
        if len(started) == 1:
            while len(started) < 2:
                await asyncio.sleep(0.01)
            raise OSError(errno.ENOSPC, "No space left on device")

        def write():
            failed.wait(30)
            try:
                function(*arguments, **options)
            finally:
                ended.append(arguments)

        return await to_thread(write)

    monkeypatch.setattr(asyncio, "to_thread", on_a_full_disk)
    monkeypatch.setitem(FIELD_CHUNK, 2, 32)
    image = sample(2)[:64, :64]
    field = xdreg.compose(np.array([[1, 0, 2], [0, 1, 0], [0, 0, 1.0]]), like=image)
    with dask.config.set(scheduler="threads", num_workers=4):
        with pytest.raises(xdreg.StoreError, match="No space left"):
            if kind == "image":
                xdreg.save(image, tmp_path / "a.zarr", chunks=32)
            else:
                xdreg.save(field, tmp_path / "a.zarr")
        left = sorted(tmp_path.iterdir())
    failed.set()
    end = time.monotonic() + 30
    while len(ended) < len(started) - 1 and time.monotonic() < end:
        time.sleep(0.01)
    assert ended
    assert (left, sorted(tmp_path.iterdir())) == ([], [])
