"""How far a run goes, and what it may use of the machine."""

import subprocess
import sys
import textwrap
import threading

import dask.array
import numpy as np
import pytest
import xarray as xr
from dask.distributed import Client, LocalCluster

import xdreg
from tests.helpers.runs import bits, small_pair
from xdreg.registration import register_block

OPTIONS = {"metric": "lncc", "initial": np.eye(3), "progress": False}


def volume(size):
    """Return an image that is never read."""
    data = dask.array.zeros((size,) * 3, chunks=size // 4, dtype=np.uint16)
    axis = dict.fromkeys("zyx", np.arange(float(size)))
    return xr.DataArray(data, axis, ("z", "y", "x"))


def levels(**options):
    """Return the levels and kinds of a plan's stages."""
    image = volume(512)
    stages = image.dreg.plan(image, **options).stages
    return [(stage.options.name[:6], stage.fixed_level) for stage in stages]


def test_the_default_stages_end_at_the_finest_level():
    every = levels()
    assert every[-1] == ("local_", 0)
    assert levels(finest_level=1) == every[:-1]
    assert levels(finest_level=2, metric="msd")[-1] == ("bsplin", 2)
    # At least one deformable stage, and none of what is coarser than that level.
    assert levels(finest_level=4) == [("affine", 4), ("local_", 4)]


def test_stages_without_a_level_end_there_too():
    named = ["rigid", "local_correlation", "bspline"]
    assert levels(stages=named, finest_level=1)[1:] == [("local_", 2), ("bsplin", 1)]
    (function,) = levels(stages=lambda fixed, moving: None, finest_level=2)
    assert function[1] == 2
    own = xdreg.LocalCorrelation(level=2)
    assert levels(stages=own, finest_level=2) == [("local_", 2)]
    with pytest.raises(xdreg.InputError, match=r"asks for level 2.*leaves out finer"):
        levels(stages=own, finest_level=3)


@pytest.mark.parametrize("level", [-1, 1.0, True, "1", 9])
def test_a_level_that_there_is_not_is_refused(level):
    with pytest.raises(xdreg.InputError, match="finest_level"):
        levels(finest_level=level)


def test_a_plan_compares_finest_levels():
    image = volume(512)
    plan = image.dreg.plan(image, metric="lncc")
    rows = plan.alternatives
    assert [row.finest_level for row in rows] == [0, 1, 2]
    for row in rows:
        own = image.dreg.plan(image, metric="lncc", finest_level=row.finest_level)
        assert own.stages == row.stages
        assert [p.stages for p in own.alternatives] == [p.stages for p in rows]
    assert rows[0].core_seconds > 5 * rows[1].core_seconds
    text = str(plan)
    assert "finest_level  core time" in text
    assert "finest_level" in plan._repr_html_()
    # Given stages are not compared, and those of others have no known time.
    plan = image.dreg.plan(image, stages=["affine", "bspline"])
    assert "finest_level" not in str(plan)
    assert plan.core_seconds is None


def test_the_finest_level_is_part_of_a_run(tmp_path):
    fixed, moving = small_pair()
    run = {**OPTIONS, "workdir": tmp_path / "run"}
    field = fixed.dreg.register(moving, finest_level=1, **run)
    assert field.sizes["y"] <= 20
    stages = [xdreg.Affine(level=1), xdreg.LocalCorrelation(level=1)]
    same = fixed.dreg.register(moving, stages=stages, **OPTIONS)
    assert np.array_equal(field.displacement, same.displacement)
    with pytest.raises(xdreg.InputError, match="level was 1, now 0"):
        fixed.dreg.register(moving, **run)


@pytest.fixture
def counted(monkeypatch):
    """Return a list that collects how many blocks run whenever one begins."""
    running, seen, lock = 0, [], threading.Lock()
    original = register_block._register

    def watched(*arguments):
        nonlocal running
        with lock:
            running += 1
            seen.append(running)
        try:
            return original(*arguments)
        finally:
            with lock:
                running -= 1

    monkeypatch.setattr(register_block, "_register", watched)
    return seen


def test_workers_and_memory_limit_blocks_and_change_nothing(counted, tmp_path):
    fixed, moving = small_pair()
    stages = xdreg.LocalCorrelation(level=0, iterations=3)
    options = {**OPTIONS, "stages": stages, "block_shape": 27}
    plan = fixed.dreg.plan(moving, **options)
    limits = [{"workers": 1}, {"workers": 3}, {"workers": 5, "memory": "2 GB"}]
    limits += [{"workers": 5, "memory": plan.peak_memory(2)}]
    most, fields = [], []
    for number, limit in enumerate(limits):
        counted.clear()
        where = tmp_path / str(number)
        fields.append(fixed.dreg.register(moving, workdir=where, **limit, **options))
        most.append(max(counted))
    # The same run, whatever it may use.
    counted.clear()
    fixed.dreg.register(moving, workdir=where, workers=2, **options)
    assert counted == []
    assert len({str(bits(field)) for field in fields}) == 1
    assert most[0] == 1
    assert all(n <= limit["workers"] for n, limit in zip(most, limits, strict=True))
    assert most[3] <= 2


def test_threads_are_those_of_the_run(monkeypatch):
    fixed, moving = small_pair()
    seen = []

    def planned(stage, fixed, moving, threads):
        seen.append((stage.partition.size, threads))
        return {"iterations": 1}

    kind = "xdreg.registration.planned_methods.PlannedLocalCorrelation.block_options"
    monkeypatch.setattr(kind, planned)
    options = {**OPTIONS, "stages": xdreg.LocalCorrelation(level=0)}
    one = {**options, "block_shape": 100}
    fixed.dreg.register(moving, workers=6, **one)
    two = {**options, "block_shape": (40, 100)}
    fixed.dreg.register(moving, workers=6, **two)
    memory = fixed.dreg.plan(moving, **two).peak_memory(1)
    fixed.dreg.register(moving, workers=6, memory=memory, **two)
    assert seen == [(1, 6), (2, 3), (2, 6)]


def test_too_little_memory_names_blocks_that_fit():
    image = volume(1024)
    with pytest.raises(
        xdreg.InputError, match=r"stage 6 .*level 0.*Blocks that"
    ) as error:
        image.dreg.plan(image, metric="lncc", memory="800 MB")
    shape = error.value.remedy["block_shape"]
    plan = image.dreg.plan(image, metric="lncc", memory="800 MB", block_shape=shape)
    assert plan.peak_memory() <= 800e6
    assert plan.blocks_at_once == 1
    with pytest.raises(xdreg.InputError):
        image.dreg.plan(image, metric="lncc", memory="800 MB", block_shape=shape + 8)
    # A stage's own blocks, an overlap that small blocks have no room for, a process.
    own = xdreg.LocalCorrelation(level=0, metric="lncc", block_shape=(32, 256, 256))
    with pytest.raises(xdreg.InputError, match="given to that stage: block_shape="):
        image.dreg.plan(image, stages=own, memory="500 MB")
    for more in ({"overlap": 60}, {"stages": "bspline"}):
        with pytest.raises(xdreg.InputError, match="give at least: memory=") as error:
            image.dreg.plan(image, memory="400 MB", **more)
    least = error.value.remedy["memory"]
    assert image.dreg.plan(image, stages="bspline", memory=least, block_shape=8)


@pytest.mark.parametrize(
    "limits", [{"workers": 0}, {"workers": 2.5}, {"memory": 0}, {"memory": "8 apples"}]
)
def test_what_is_no_limit_is_refused(limits):
    fixed, moving = small_pair()
    with pytest.raises(xdreg.InputError, match=next(iter(limits))):
        fixed.dreg.register(moving, **limits)


def test_limits_do_not_hold_on_a_cluster():
    fixed, moving = small_pair()
    cluster = LocalCluster(1, 1, processes=False, dashboard_address=None)
    with cluster, Client(cluster):
        for limits in ({"workers": 1}, {"memory": "8 GB"}):
            with pytest.raises(xdreg.InputError, match="client's cluster"):
                fixed.dreg.plan(moving, **limits)


#: A run of several large blocks in a process of its own that states its peak.
LIMITED = """
    import re, sys
    from pathlib import Path
    import xdreg

    paths = xdreg.datasets.write_phantom_pair(
        Path(sys.argv[1]), (144,) * 3, amplitude=2.0
    )
    fixed, moving = map(xdreg.open_ome_zarr, paths)
    stages = [xdreg.LocalCorrelation(level=0, metric="lncc", iterations=2)]
    options = {"stages": stages, "block_shape": 72}
    memory = fixed.dreg.plan(moving, **options).peak_memory(2)
    fixed.dreg.register(moving, workers=8, memory=memory, progress=False, **options)
    status = Path("/proc/self/status").read_text("utf-8")
    print(int(re.search(r"VmHWM:\\s*(\\d+) kB", status)[1]) * 1024, memory)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux says its peaks")
def test_the_peak_stays_within_the_memory(tmp_path):
    code = textwrap.dedent(LIMITED)
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        check=True,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    peak, memory = map(int, done.stdout.split())
    assert 0.7 < peak / memory <= 1
