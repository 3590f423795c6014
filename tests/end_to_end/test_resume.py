"""Interrupted runs, damaged work directories, and concurrent runs."""

import os
import shutil
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
import zarr.storage._local

import xdreg
from tests.helpers.hostile import hostile, shift
from tests.helpers.pairs import shifted_pair
from tests.helpers.runs import (
    WORKERS,
    PowerCut,
    Writes,
    bits,
    calls,
    driver,
    harm_in_a_run,
    register,
    small_pair,
)
from xdreg.fields.diagnostics import status_counts
from xdreg.registration import blockwise, workdir
from xdreg.registration.mapping import map_over_blocks


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return the directory, the result and the number of writes of a whole run."""
    where = tmp_path_factory.mktemp("undisturbed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        writes = Writes(patch)
        found = bits(register(where))
    assert writes.count > 40
    return where, found, writes.count


def go_on_after_cuts(where, writes, cut, gaps):
    """Cut a run off after so many writes, the next run after so many more, and so on.

    Return the bits that the last run finds, and how many of the runs ended in a cut.
    """
    writes.cut, cuts = cut, 0
    for gap in gaps:
        writes.last = writes.count + int(gap)
        try:
            return bits(register(where)), cuts
        except PowerCut:
            cuts += 1
    writes.last = None
    return bits(register(where)), cuts


def test_a_power_cut_between_any_two_writes(tmp_path, monkeypatch, undisturbed):
    writes, total = Writes(monkeypatch), undisturbed[2]
    rng = np.random.default_rng(0)
    found, cuts = go_on_after_cuts(
        tmp_path / "run", writes, None, rng.integers(1, 6, total)
    )
    assert found == undisturbed[1]
    assert cuts > 8
    # Finished parts are not written again.
    assert writes.count <= total + 2 * cuts


@pytest.mark.parametrize("cut", ["short", "empty", "zeros"])
def test_a_power_cut_amid_a_write(cut, tmp_path, monkeypatch, undisturbed):
    rng = np.random.default_rng(len(cut))
    # Not the first write, the manifest: it is synced before it is renamed.
    gaps = [2, *rng.integers(2, 16, 5)]
    found, cuts = go_on_after_cuts(tmp_path / "run", Writes(monkeypatch), cut, gaps)
    assert found == undisturbed[1]
    assert cuts > 2


@pytest.mark.parametrize("cut", ["short", "empty", "zeros", "gone"])
def test_damaged_files_are_made_again(cut, tmp_path, undisturbed):
    where = tmp_path / "run"
    shutil.copytree(undisturbed[0], where)
    files = [p for p in where.rglob("*") if p.is_file() and p.name != "run.json"]
    kinds = {(p.parent.parent.name, p.parent.name, p.suffix): p for p in files}
    kinds = {k: p for k, p in kinds.items() if "levels" not in str(p)}
    assert len(kinds) > 10
    for path in kinds.values():
        content = path.read_bytes()
        if cut == "gone":
            path.unlink()
            continue
        kept = {"short": content[: len(content) // 2], "empty": b""}
        path.write_bytes(kept.get(cut, bytes(len(content))))
    assert bits(register(where)) == undisturbed[1]
    patches = zarr.open_array(where / "stage_02" / "patches")
    assert np.isfinite(patches[:]).all()


@pytest.mark.parametrize("name", ["patches", "records", "field", "disagreement"])
@pytest.mark.parametrize("stages", [("stage_02", "stage_02"), ("stage_01", "stage_02")])
def test_files_in_each_others_place_are_made_again(name, stages, tmp_path, undisturbed):
    where = tmp_path / "run"
    shutil.copytree(undisturbed[0], where)
    first, second = (sorted((where / s / name).glob("[0-9]*")) for s in stages)
    # Of another block, or of this block in another stage.
    shutil.copy(first[-1 if stages[0] == stages[1] else 0], second[0])
    assert bits(register(where)) == undisturbed[1]


def test_a_damaged_manifest_is_said(tmp_path, undisturbed):
    where = tmp_path / "run"
    where.mkdir()
    (where / "run.json").write_text('{"fixed": ')
    with pytest.raises(xdreg.StoreError, match="is damaged"):
        register(where)


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """Return the result without harm."""
    folder = tmp_path_factory.mktemp("calm")
    for name in ("once", "log"):
        (folder / name).mkdir()
    found = harm_in_a_run("none", folder)
    assert len(calls(folder)) == 16
    return found


@pytest.mark.slow
def test_a_driver_that_is_killed_again_and_again(tmp_path, calm):
    """SIGKILL ends the process in one block after the other; each run resumes."""
    ends = []
    while not ends or ends[-1] != 0:
        one = driver("kill", tmp_path, share=0.35)
        one.join(120)
        ends.append(one.exitcode)
        assert len(ends) < 9
    assert set(ends) == {0, -signal.SIGKILL}
    assert len(ends) > 2
    assert (tmp_path / "result").read_text("utf-8") == calm
    # A death costs at most the blocks that were running.
    again = sum(calls(tmp_path).values()) - 16
    assert len(ends) - 1 <= again <= WORKERS * (len(ends) - 1)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_interrupted_goes_on(how, tmp_path, calm):
    """Blocks hang in native code; no process of the run survives."""
    first = driver("hang", tmp_path)
    deadline = time.monotonic() + 60
    # Both processes are in a block that hangs.
    while len(list((tmp_path / "once").iterdir())) < WORKERS:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = psutil.Process(first.pid).children(recursive=True)
    assert children
    os.kill(first.pid, how)
    first.join(20)
    assert first.exitcode
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    (tmp_path / "once" / "calm").touch()
    second = driver("hang", tmp_path)
    second.join(120)
    assert second.exitcode == 0
    assert (tmp_path / "result").read_text("utf-8") == calm
    ran = calls(tmp_path)
    assert len(ran) == 16
    assert sum(ran.values()) - 16 <= WORKERS


def test_a_second_run_is_refused(tmp_path):
    fixed, moving = small_pair()
    inside, leave = threading.Event(), threading.Event()

    def wait(fixed, moving):
        inside.set()
        leave.wait(60)
        return shift(fixed, moving)

    stage = xdreg.Custom(method=wait, isolated=False)
    options = {"stages": [stage], "metric": "ncc", "progress": False}
    options["workdir"] = tmp_path / "run"
    first = threading.Thread(target=fixed.dreg.register, args=(moving,), kwargs=options)
    first.start()
    try:
        assert inside.wait(60)
        with pytest.raises(xdreg.InputError, match=f"in use by process {os.getpid()}"):
            fixed.dreg.register(moving, **options)
    finally:
        leave.set()
        first.join()
    fixed.dreg.register(moving, **options)


def run_with_failures(folder, **more):
    """Register in two stages, in each of which some blocks fail."""
    fixed, moving = shifted_pair()
    limit = more.pop("timeout", None)
    stages = []
    for number, voxels in enumerate((2.0, 0.0)):
        options = {"kind": "raise", "once": str(folder / f"once{number}")}
        options["voxels"] = voxels
        stages.append(
            xdreg.Custom(method=hostile, level=0, options=options, timeout=limit)
        )
    return fixed.dreg.register(
        moving,
        stages=stages,
        metric="ncc",
        block_shape=24,
        workdir=folder / "run",
        progress=False,
        **more,
    )


def test_failed_blocks_run_again_when_asked(tmp_path):
    for number in range(2):
        (tmp_path / f"once{number}").mkdir()
    first = run_with_failures(tmp_path)
    bad = int((first.dreg.blocks.status[0] == "crashed").sum())
    assert bad > 0
    before = bits(first)
    assert bits(run_with_failures(tmp_path)) == before
    stage = tmp_path / "run" / "stage_00"
    stamps = {p: p.stat().st_mtime_ns for p in (stage / "records").glob("[0-9]*")}
    again = run_with_failures(tmp_path, retry=("crashed", "timeout"), timeout=100.0)
    changed = [p for p in stamps if stamps[p] != p.stat().st_mtime_ns]
    assert len(changed) == bad
    assert not list((stage / "errors").iterdir())
    # The second stage ran again; the blocks that failed in it had failed once before.
    assert "crashed" not in status_counts(again)
    for number in range(2):
        (tmp_path / f"once{number}" / "calm").touch()
    (tmp_path / "run").rename(tmp_path / "old")
    assert bits(run_with_failures(tmp_path)) == bits(again)


def test_what_may_be_retried():
    fixed, moving = small_pair()
    with pytest.raises(xdreg.InputError, match="workdir="):
        fixed.dreg.register(moving, retry="crashed")
    with pytest.raises(xdreg.InputError, match="names a status"):
        fixed.dreg.register(moving, retry="success", workdir="nowhere")


def test_a_changed_method_or_option_is_refused(tmp_path):
    fixed, moving = small_pair()

    def one(fixed, moving, value):
        return shift(fixed, moving)

    def start(method, value):
        stage = xdreg.Custom(method=method, options={"value": value})
        return fixed.dreg.register(
            moving, stages=[stage], metric="ncc", workdir=tmp_path, progress=False
        )

    start(one, np.arange(5000))
    start(one, np.arange(5000))
    changed = np.arange(5000)
    changed[2500] = 7
    with pytest.raises(xdreg.InputError, match="What differs: stage 0"):
        start(one, changed)

    def one(fixed, moving, value):
        return shift(fixed, moving, voxels=1.0)

    with pytest.raises(xdreg.InputError, match="What differs: stage 0"):
        start(one, np.arange(5000))


def test_an_address_may_be_written_in_another_way(tmp_path, monkeypatch):
    """Relative and absolute paths name one image; another image is refused."""
    monkeypatch.chdir(tmp_path)
    pair = xdreg.datasets.phantom_pair((48, 56), amplitude=1.0)
    for name, image in (("f", pair.fixed), ("m", pair.moving), ("n", pair.moving + 1)):
        xdreg.save(image, f"{name}.ome.zarr")

    def run(folder, moving="m"):
        fixed, other = (
            xdreg.open_ome_zarr(f"{folder}{name}.ome.zarr") for name in ("f", moving)
        )
        stages = [xdreg.Translation()]
        fixed.dreg.register(other, stages=stages, workdir="run", progress=False)

    run("")
    run(f"{tmp_path}/")
    with pytest.raises(xdreg.InputError, match="another registration"):
        run("", "n")


@pytest.mark.parametrize("kept", [True, False])
def test_the_size_of_a_work_directory_is_known(kept, tmp_path, monkeypatch):
    phantom = xdreg.datasets.phantom_pair((230, 250), amplitude=2.0)
    images = phantom.fixed.compute(), phantom.moving.compute()
    options = {"block_shape": 64, "metric": "lncc"}
    options["stages"] = [
        xdreg.LocalCorrelation(level=level, iterations=2) for level in (1, 0)
    ]
    plan = images[0].dreg.plan(images[1], **options)
    directory = tmp_path / "run"
    made = workdir.WorkDirectory.__init__

    def init(self, path):
        made(self, path)
        self.temporary = not kept

    monkeypatch.setattr(workdir.WorkDirectory, "__init__", init)
    images[0].dreg.register(images[1], workdir=directory, progress=False, **options)
    arrays = [p for p in directory.rglob("*") if p.is_file() and p.suffix != ".json"]
    size = sum(p.stat().st_size for p in arrays)
    assert size < plan.workdir_bytes(kept=kept)
    if kept:
        assert size > 0.7 * plan.workdir_bytes()
    assert "work directory needs" in str(plan)


def test_a_worker_must_see_the_work_directory(tmp_path, monkeypatch):
    gone = tmp_path / "gone" / "errors"
    monkeypatch.setattr(
        blockwise,
        "map_over_blocks",
        lambda function, task, *rest, **options: map_over_blocks(
            function, replace(task, errors=gone), *rest, **options
        ),
    )
    with pytest.raises(xdreg.StoreError, match="all workers see"):
        register(tmp_path / "run")
