"""The work directory: manifests, files that are whole or absent, and removal."""

import numpy as np
import pytest

import xdreg
from xdreg.grid import Grid
from xdreg.partition import BlockStatus, Partition
from xdreg.registration.block_array import BlockArray
from xdreg.registration.judge import RECORD
from xdreg.registration.outcome import forget_blocks
from xdreg.registration.workdir import WorkDirectory, read_json, write_json

MANIFEST = {"metric": "lncc", "fixed": {"source": "a.zarr", "token": "1"}, "limits": 1}


def test_the_same_manifest_is_accepted_again(tmp_path):
    work = WorkDirectory(tmp_path / "run")
    work.claim(MANIFEST | {"shape": (3, 4)})
    work.claim(MANIFEST | {"shape": [3, 4]})
    # Neither limits nor the address of an image make another run.
    changed = {"limits": 2, "fixed": {"source": "b.zarr", "token": "1"}}
    work.claim(MANIFEST | {"shape": [3, 4]} | changed)
    assert read_json(work.path / "run.json")["limits"] == 2


def test_another_manifest_is_refused_and_what_differs_is_named(tmp_path):
    WorkDirectory(tmp_path).claim(MANIFEST)
    changed = MANIFEST | {"metric": "mi", "fixed": {"source": "a.zarr", "token": "2"}}
    with pytest.raises(xdreg.InputError, match=r"What differs: fixed: .*; metric was "):
        WorkDirectory(tmp_path).claim(changed)


def test_a_folder_that_is_no_run_is_not_made_anew(tmp_path):
    (tmp_path / "run.json").write_text('{"experiment": 7}')
    (tmp_path / "stage_1").mkdir()
    (tmp_path / "stage_1" / "weights.pt").touch()
    for fresh in (False, True):
        with pytest.raises(xdreg.StoreError, match="not of a run"):
            WorkDirectory(tmp_path).claim(MANIFEST, fresh=fresh)
    assert (tmp_path / "stage_1" / "weights.pt").exists()


def test_the_option_that_differs_is_named(tmp_path):
    stages = [{"name": "affine"}, {"name": "bspline", "level": 0, "step": [4, 4]}]
    WorkDirectory(tmp_path).claim(MANIFEST | {"stages": stages})
    other = [stages[0], stages[1] | {"step": [8, 8]}]
    for changed, text in (
        (other, r"differs: stage 1 \(bspline\): step was \[4, 4\], now \[8, 8\]\."),
        (stages[:1], r"differs: the stages were affine, bspline, now affine\."),
    ):
        with pytest.raises(xdreg.InputError, match=text):
            WorkDirectory(tmp_path).claim(MANIFEST | {"stages": changed})


def test_a_directory_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(xdreg.InputError, match="is not empty"):
        WorkDirectory(tmp_path).claim(MANIFEST)
    with pytest.raises(xdreg.StoreError, match="cannot be made"):
        WorkDirectory(tmp_path / "notes.txt" / "run")
    with pytest.raises(xdreg.InputError, match="local or shared"):
        WorkDirectory("s3://bucket/run")


def made_run(folder):
    """Make a run of two stages, with what killed writers left."""
    WorkDirectory(folder).claim(MANIFEST)
    for name in (
        "stage_00/records/0.0.0", "stage_00/records/.0.1.0.12.345", "choice.json",
        "stage_00/field/zarr.json", "stage_00/errors/0.1.txt", "stage_00/stopped",
        "stage_00/agreement.part", "stage_01/linear.json", "fixed_levels/1.zarr/0.0",
        f"moving_levels_1/2.zarr/0.{'0f' * 16}.partial", "fixed_levels/1.0.chunk",
        "fixed_foreground.json", "fixed_foreground.zarr/zarr.json",
        "stage_01/disagreement/0.0", "stage_100/.DS_Store",
    ):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "stage_02" / "errors").mkdir(parents=True)


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock"
    }


def test_a_run_is_removed_and_what_lies_next_to_it_stays(tmp_path):
    made_run(tmp_path)
    names = ["notes.txt", "choice.txt", "stage_1/a.pt", "stage_000/b", "stage_xx/c"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    WorkDirectory(tmp_path).claim(MANIFEST | {"metric": "mi"}, fresh=True)
    assert contents(tmp_path).keys() == {"run.json", *names}


@pytest.mark.parametrize(
    "name",
    [
        "stage_00/notes.txt", "stage_00/errors/why.txt", "stage_00/records/r.txt",
        "stage_42/fig.pdf", "fixed_levels/n.txt", "fixed_levels/raw.tif",
        "moving_levels_1/2.zarr/a/b", "fixed_foreground.zarr/0.0/x", "stage_01/0.0",
    ],
)  # fmt: skip
def test_users_files_in_a_run_are_named_and_nothing_is_removed(name, tmp_path):
    made_run(tmp_path)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(xdreg.InputError, match=f"holds '{name}', which no run made"):
        WorkDirectory(tmp_path).claim(MANIFEST | {"metric": "mi"}, fresh=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["stage_01/notes.txt", "stage_00/field/n", "stage_100/1"]
)
def test_blocks_are_not_forgotten_with_users_files(name, tmp_path):
    made_run(tmp_path)
    (tmp_path / name).write_text("mine")
    (tmp_path / "stage_000").mkdir()
    (tmp_path / "stage_000" / "mine").touch()
    before = contents(tmp_path)
    with pytest.raises(xdreg.InputError, match=f"holds '{name}'"):
        WorkDirectory(tmp_path).forget_after(0)
    assert contents(tmp_path) == before
    (tmp_path / name).unlink()
    WorkDirectory(tmp_path).forget_after(0)
    assert (tmp_path / "stage_000" / "mine").exists()
    assert not any((tmp_path / f"stage_{n}").exists() for n in ("01", "02", "100"))


@pytest.mark.parametrize(
    ("path", "remedy"), [(None, "choose a directory"), ("run", "go on from there")]
)
def test_errors_of_a_disk_name_the_directory_and_a_remedy(path, remedy, tmp_path):
    work = WorkDirectory(path and tmp_path / path)
    with pytest.raises(xdreg.StoreError, match=remedy) as caught, work.writing():
        raise OSError(28, "No space left on device")
    assert str(work.path) in str(caught.value)
    with pytest.raises(OSError, match="interrupted"), work.writing():
        raise OSError(4, "interrupted")


def test_forgotten_blocks_take_all_that_depends_on_them_along(tmp_path):
    work = WorkDirectory(tmp_path)
    for number in range(3):
        work.stage(number).mkdir()
    folder = work.stage(1)
    partition = Partition(
        Grid(("y", "x"), (8, 8), (1.0, 1.0), (0.0, 0.0)), (4, 4), (1, 1), (1, 1)
    )
    records = BlockArray(folder / "records", (2, 2), (len(RECORD),), np.nan)
    (folder / "errors").mkdir()
    for index, status in zip(np.ndindex(2, 2), (0, 7, 0, 8), strict=True):
        records[index] = status
        (folder / "errors" / "{}.{}.txt".format(*index)).touch()
    for name in ("agreement.json", "consensus.json"):
        write_json(folder / name, {})
    for name in ("field", "disagreement"):
        (folder / name).mkdir()
    forget_blocks(work, 1, partition, [BlockStatus.EMPTY])
    assert len(list(records.done())) == 4
    assert (folder / "field").exists()
    forget_blocks(work, 1, partition, [BlockStatus.CRASHED])
    assert sorted(records.done()) == [(0, 0), (1, 0), (1, 1)]
    left = {path.name for path in folder.rglob("*")}
    assert left.isdisjoint({"0.1.txt", "field", "disagreement"})
    assert left.isdisjoint({"agreement.json", "consensus.json"})
    assert work.stage(0).exists()
    assert not work.stage(2).exists()


@pytest.mark.parametrize("path", [None, "run"])
def test_patches_are_discarded_in_a_temporary_directory_alone(path, tmp_path):
    work = WorkDirectory(path and tmp_path / path)
    patches = work.stage(0) / "patches"
    patches.mkdir(parents=True)
    work.discard_patches(0)
    assert patches.exists() == (path is not None)


@pytest.mark.parametrize("flipped", range(0, 60, 7))
def test_json_that_is_altered_counts_as_missing(flipped, tmp_path):
    file = tmp_path / "a.json"
    assert read_json(file) is None
    write_json(file, {"a": [1, 2.5], "b": None})
    assert read_json(file) == {"a": [1, 2.5], "b": None}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    content = file.read_bytes()
    # Some of these are JSON too, with another number in it.
    altered = bytearray(content)
    altered[flipped] ^= 1
    for damaged in (content[:-2], altered, b"[]", b"7", b"[" * 100_000, b"\xff\xfe"):
        file.write_bytes(damaged)
        assert read_json(file) is None


def test_json_of_another_stage_counts_as_missing(tmp_path):
    for stage in ("stage_00", "stage_01"):
        (tmp_path / stage).mkdir()
    write_json(tmp_path / "stage_00" / "linear.json", {"matrix": 1})
    (tmp_path / "stage_00").rename(tmp_path / "stage_02")
    assert read_json(tmp_path / "stage_02" / "linear.json") is None


def test_fresh_finds_padding_anew(tmp_path):
    pair = xdreg.datasets.phantom_pair((64, 72), amplitude=1.0)
    fixed, moving = (
        image.astype("float32").compute() for image in (pair.fixed, pair.moving)
    )
    options = {"stages": [xdreg.LocalCorrelation(level=0, metric="lncc", iterations=1)]}
    options |= {"initial": np.eye(3), "progress": False}
    wide, narrow = (fixed.where(fixed.x > edge, -1.0) for edge in (30, 10))
    wide.dreg.register(moving, workdir=tmp_path, **options)
    again = narrow.dreg.register(moving, workdir=tmp_path, fresh=True, **options)
    alone = narrow.dreg.register(moving, **options)
    assert again.attrs["xdreg"] == alone.attrs["xdreg"]
