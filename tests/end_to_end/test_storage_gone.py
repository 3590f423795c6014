"""Disks that go away: an error, and the same call works once they are back."""

import shutil
import warnings

import dask
import numpy as np
import pytest

import xdreg
from xdreg.errors import UnavailableError
from xdreg.partition import BlockStatus
from xdreg.registration import linear_stage, register_block
from xdreg.registration.source import Source

SHAPE, CHUNK = (96, 96), 24
OPTIONS = {
    "stages": [xdreg.LocalCorrelation(level=0, iterations=1, metric="lncc")],
    "block_shape": 24,
    "overlap": 4,
    "progress": False,
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Write a pair, a mask and a field, each on its own disk; return the folder."""
    folder = tmp_path_factory.mktemp("sound")
    pair = xdreg.datasets.phantom_pair(SHAPE, amplitude=1.5)
    fixed = pair.fixed.compute()
    images = {
        "fixed": fixed,
        "moving": pair.moving.compute(),
        "mask": (fixed >= fixed.min()).astype("uint8"),
    }
    for name, image in images.items():
        (folder / name).mkdir()
        xdreg.save(image, folder / name / "it", chunks=CHUNK, levels=1, progress=False)
    (folder / "start").mkdir()
    start = xdreg.register(fixed, images["moving"], **OPTIONS)
    xdreg.save(start, folder / "start/it", progress=False)
    return folder


@pytest.fixture
def disks(sound, tmp_path):
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    return tmp_path


def register(disks, *, compute=True, **options):
    fixed, moving, mask = (
        xdreg.open_ome_zarr(disks / name / "it") for name in ("fixed", "moving", "mask")
    )
    initial = xdreg.open_field(disks / "start/it")
    given = {"fixed_mask": mask, "initial": initial}
    with warnings.catch_warnings(), dask.config.set(scheduler="synchronous"):
        warnings.simplefilter("ignore")
        field = xdreg.register(fixed, moving, **OPTIONS | given | options)
        return field.load() if compute else field


@pytest.fixture(scope="module")
def whole(sound):
    return register(sound)


def unmount_during(monkeypatch, disk, left):
    """Take a disk away before the fourth block; ``left`` is what is in its place."""
    real, count = register_block._register, []

    def watched(index, task):
        count.append(index)
        if len(count) == 4:
            disk.rename(disk.with_name("away"))
            if left == "empty":
                disk.mkdir()
        return real(index, task)

    monkeypatch.setattr(register_block, "_register", watched)


def mount_again(monkeypatch, disk):
    monkeypatch.undo()
    if disk.exists():
        disk.rmdir()
    disk.with_name("away").rename(disk)


@pytest.mark.parametrize(
    ("name", "left"),
    [("moving", "empty"), ("mask", "nothing"), ("start", "nothing")],
)
def test_a_disk_that_goes_away_stops_the_run(disks, whole, monkeypatch, name, left):
    run = disks / "run"
    unmount_during(monkeypatch, disks / name, left)
    with pytest.raises(xdreg.StoreError, match="blocks cannot be read, more than 25%"):
        register(disks, workdir=run)
    mount_again(monkeypatch, disks / name)
    field = register(disks, workdir=run)
    assert (field.block_status == BlockStatus.SUCCESS).sum() > 8
    np.testing.assert_array_equal(field.displacement, whole.displacement)
    np.testing.assert_array_equal(field.block_status, whole.block_status)


def test_nothing_is_made_of_an_image_that_is_gone(disks, monkeypatch):
    """A level that the store lacks, or a foreground, would be kept."""
    names = ("fixed", "moving")
    images = [xdreg.open_ome_zarr(disks / name / "it") for name in names]
    stages = [xdreg.LocalCorrelation(level=1, iterations=2, metric="lncc")]
    options = OPTIONS | {"stages": stages, "workdir": disks / "run"}
    options |= {"fixed_mask": "auto", "moving_mask": "auto"}
    expected = xdreg.register(*images, **options | {"workdir": None}).load()
    real = Source.check

    def unmounted(source):
        if source.name == "moving":
            (disks / "moving").rename(disks / "away")
        real(source)

    monkeypatch.setattr(Source, "check", unmounted)
    with pytest.raises(UnavailableError, match="chunks are missing"):
        xdreg.register(*images, **options)
    mount_again(monkeypatch, disks / "moving")
    field = xdreg.register(*images, **options)
    np.testing.assert_array_equal(field.displacement, expected.displacement)


def test_linear_stages_are_not_made_of_nothing(disks, monkeypatch):
    images = [xdreg.open_ome_zarr(disks / name / "it") for name in ("fixed", "moving")]
    real = linear_stage.read_whole

    def unmounted(*arguments):
        (disks / "moving").rename(disks / "away")
        return real(*arguments)

    monkeypatch.setattr(linear_stage, "read_whole", unmounted)
    stages = [xdreg.Translation(metric="lncc")]
    with (
        dask.config.set(scheduler="synchronous"),
        pytest.raises(UnavailableError, match="chunks are missing"),
    ):
        xdreg.register(*images, **OPTIONS | {"stages": stages})


def test_fields_and_images_that_are_gone_are_not_read_as_zeros(disks):
    field = xdreg.open_field(disks / "start/it")
    moving = xdreg.open_ome_zarr(disks / "moving/it", level=0)
    warped = xdreg.warp(field, moving)
    points = np.array([[30.0, 40.0], [70.0, 20.0]])
    xdreg.transform_points(field, points)
    for name, looks in {
        "start": [
            lambda: xdreg.transform_points(field, points),
            warped.load,
            field.displacement.load,
            lambda: xdreg.save(field, disks / "copy", progress=False),
        ],
        "moving": [warped.load, moving.load],
    }.items():
        (disks / name).rename(disks / "away")
        for look in looks:
            with pytest.raises(UnavailableError, match="chunks are missing"):
                look()
        (disks / "away").rename(disks / name)
    assert not (disks / "copy").exists()
    # A field that was not saved lies in the work directory.
    field = register(disks, workdir=disks / "run", compute=False)
    (disks / "run").rename(disks / "away")
    with pytest.raises(UnavailableError, match="chunks are missing"):
        field.displacement.load()


def test_n5_that_is_gone_or_damaged_is_not_read_as_zeros(disks):
    pytest.importorskip("tensorstore")
    field = xdreg.open_field(disks / "start/it")
    path = disks / "field.n5"
    xdreg.bridges.write_transform(field, path)
    opened = xdreg.bridges.open_transform(path)
    np.testing.assert_array_equal(opened.displacement, field.displacement)
    block = next(p for p in (path / "dfield").rglob("0") if p.is_file())
    whole = block.read_bytes()
    block.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(xdreg.StoreError, match="cannot be read"):
        opened.displacement.load()
    block.write_bytes(whole)
    path.rename(disks / "away.n5")
    with pytest.raises(UnavailableError, match="is gone"):
        opened.displacement.load()


def test_the_share_of_missing_chunks_is_reported(disks):
    fixed, moving = (
        xdreg.open_ome_zarr(disks / name / "it") for name in ("fixed", "moving")
    )
    shutil.rmtree(disks / "moving/it/0/c/0")
    field = xdreg.register(fixed, moving, **OPTIONS)
    missing = field.block_missing_chunks
    assert (missing[0] > 0.2).all()
    assert (missing[-1] == 0).all()
    assert "of the images' chunks" in str(field.dreg)
    for name, row in (
        ("moving", 1),
        ("moving", 2),
        ("fixed", 0),
        ("fixed", 1),
        ("fixed", 2),
    ):
        shutil.rmtree(disks / name / f"it/0/c/{row}")
    with pytest.warns(UserWarning, match=r"% of the chunks .* are missing .* complete"):
        xdreg.register(fixed, moving, **OPTIONS)
