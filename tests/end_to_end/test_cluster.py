"""Runs on Dask clusters whose workers die, join and leave."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cloudpickle
import dask
import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster
from distributed.scheduler import KilledWorker

import xdreg
from tests.helpers.forks import CLUSTER, context
from tests.helpers.hostile import harm, hostile, shift
from tests.helpers.pairs import shifted_pair
from tests.helpers.runs import digest
from xdreg.coordinates import grid_of
from xdreg.fields.diagnostics import status_counts
from xdreg.registration.judge import RECORD
from xdreg.registration.mapping import _suspects

OPTIONS = {"block_shape": 24, "overlap": 8, "metric": "ncc", "progress": False}


def run(kind, workdir=None, *, isolated=False, **options):
    """Register in twelve blocks; two of them do harm."""
    stage = xdreg.Custom(
        method=hostile, level=0, options={"kind": kind, **options}, isolated=isolated
    )
    fixed, moving = shifted_pair()
    return fixed.dreg.register(moving, stages=[stage], workdir=workdir, **OPTIONS)


@pytest.fixture(scope="module")
def expected():
    """Return the result with bad blocks that raise, and without bad blocks."""
    return run("raise"), run("none")


@pytest.fixture(scope="module")
def cluster():
    """Start two workers, each a process of one thread."""
    settings = {
        # By default Dask gives up a worker that still restarts 15 s after it died.
        "distributed.deploy.lost-worker-timeout": "10 minutes",
        **CLUSTER,
    }
    context()
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as local,
        Client(local),
    ):
        yield local


def same(field, other):
    """Check that two fields agree to the bit."""
    np.testing.assert_array_equal(field.displacement, other.displacement)


@pytest.mark.slow
def test_a_crash_in_a_process_costs_no_worker(cluster, expected):
    workers = set(cluster.scheduler_info["workers"])
    field = run("segfault", isolated=True)
    same(field, expected[0])
    np.testing.assert_array_equal(field.block_status, expected[0].block_status)
    assert set(cluster.scheduler_info["workers"]) == workers


@pytest.mark.slow
def test_blocks_that_take_workers_down_are_given_up(cluster, expected, tmp_path):
    """The scheduler gives up a task that killed workers; the run continues."""
    cluster.scheduler.allowed_failures = 0
    field = run("segfault", tmp_path / "run")
    same(field, expected[0])
    np.testing.assert_array_equal(field.block_status, expected[0].block_status)
    errors = (tmp_path / "run" / "stage_00" / "errors").glob("*.txt")
    assert "workers died" in next(errors).read_text("utf-8")


def first_dies_later(fixed, moving):
    """Kill the worker in the first block, at once; in the second, a while later."""
    row, column = (round(place) for place in grid_of(fixed).origin)
    if row < 1 and column < 24:
        time.sleep(0.2 if column < 1 else 1.5)
        harm("kill")
    return shift(fixed, moving)


@pytest.mark.slow
def test_a_block_is_tried_alone_only_when_the_others_have_ended(cluster):
    """A block that still runs would kill the worker of one that is innocent."""
    cluster.scheduler.allowed_failures = 0
    fixed, moving = shifted_pair()
    stage = xdreg.Custom(method=first_dies_later, level=0, isolated=False)
    field = fixed.dreg.register(moving, stages=[stage], **OPTIONS)
    counts = status_counts(field)
    assert counts == {"success": 10, "crashed": 2}


@pytest.mark.slow
def test_the_bits_are_those_of_one_worker(cluster, alone):
    assert digest() == alone


@pytest.mark.parametrize(
    ("key", "blocks"),
    [
        (("register_block-1", 1, 0), [4, 5, 6, 7]),
        (("from-value-1",), []),
        ("functions-register_block-1", []),
    ],
)
def test_what_all_blocks_share_is_no_block_to_give_up(key, blocks):
    error = KilledWorker(key, None, 3)
    assert _suspects(error, np.arange(12), 4) == blocks


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_the_blocks_in_flight(
    cluster, expected, tmp_path
):
    for name in ("once", "log"):
        (tmp_path / name).mkdir()
    places = {"once": str(tmp_path / "once"), "log": str(tmp_path / "log")}
    # The default: a good block may be on the worker when two bad ones kill it.
    cluster.scheduler.allowed_failures = 3
    # Each of the bad blocks kills its worker the first time it runs.
    field = run("kill", **places)
    same(field, expected[1])
    assert len(list((tmp_path / "log").iterdir())) <= 12 + 4


def command(name, *arguments):
    """Start a part of a cluster by the command line."""
    program = Path(sys.executable).with_name("dask")
    assert program.exists() or shutil.which("dask")
    return subprocess.Popen(
        [str(program) if program.exists() else "dask", name, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(xdreg.__file__).parent.parent)},
    )


def worker(file, *arguments):
    """Start a worker."""
    return command(
        "worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-dashboard",
        "--death-timeout", "120", *arguments,
    )  # fmt: skip


@pytest.mark.slow
def test_separate_processes_that_come_go_and_die(tmp_path, expected):
    """Workers started by the command line join and leave.

    Then the scheduler is killed, and the same call resumes on another one.
    """
    for name in ("gate", "log"):
        (tmp_path / name).mkdir()
    places = {"gate": str(tmp_path / "gate"), "log": str(tmp_path / "log")}

    def let(count):
        (tmp_path / "gate" / str(count)).touch()

    def calls():
        return len(list((tmp_path / "log").iterdir()))

    def scheduler(name):
        file = tmp_path / name
        started = command(
            "scheduler", "--scheduler-file", str(file), "--port", "0",
            "--dashboard-address", ":0",
        )  # fmt: skip
        deadline = time.monotonic() + 300
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        return started, file

    processes = []
    try:
        first, file = scheduler("first.json")
        processes.append(first)
        leaver = worker(file, "--memory-limit", "1GB")
        processes.append(leaver)
        with Client(scheduler_file=str(file)) as client:
            client.wait_for_workers(1, timeout=300)
            let(2)
            done = _in_thread(run, "none", tmp_path / "run", **places)
            _until(lambda: calls() >= 3)
            processes.append(worker(file, "--no-nanny"))
            client.wait_for_workers(2, timeout=300)
            leaver.terminate()
            let(6)
            _until(lambda: calls() >= 7)
            first.kill()
            with pytest.raises(Exception, match=r".") as info:
                done.result(timeout=300)
            assert not isinstance(info.value, AssertionError)
        _until(lambda: not _locked(tmp_path / "run"))
        second, file = scheduler("second.json")
        processes += [second, worker(file, "--no-nanny")]
        let(99)
        before = calls()
        with Client(scheduler_file=str(file)):
            field = run("none", tmp_path / "run", **places)
        same(field, expected[1])
        assert calls() - before < 12
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()


def _in_thread(function, *arguments, **options):
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(1)
    future = pool.submit(function, *arguments, **options)
    pool.shutdown(wait=False)
    return future


def _until(condition, limit=300):
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _locked(folder):
    from xdreg.stores.locks import Lock

    try:
        with Lock(folder):
            return False
    except xdreg.InputError:
        return True


@pytest.mark.slow
def test_a_worker_of_one_gigabyte(tmp_path):
    """A worker runs blocks with the memory that the plan names."""
    paths = xdreg.datasets.write_phantom_pair(tmp_path, (64, 80, 128), amplitude=2.0)
    fixed, moving = (xdreg.open_ome_zarr(path) for path in paths)
    options = {
        "stages": [xdreg.LocalCorrelation(level=0, iterations=3, metric="lncc")],
        "block_shape": 64,
        "progress": False,
    }
    plan = fixed.dreg.plan(moving, **{k: options[k] for k in ("stages", "block_shape")})
    assert plan.worker_memory() < 1e9
    local = fixed.dreg.register(moving, **options)
    context()
    with (
        dask.config.set(CLUSTER),
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            memory_limit="1GB",
            dashboard_address=None,
        ) as cluster,
        Client(cluster) as client,
    ):
        before = set(client.scheduler_info()["workers"])
        same(fixed.dreg.register(moving, **options), local)
        assert set(client.scheduler_info()["workers"]) == before
    assert status_counts(local)["success"] > 0


def test_a_cluster_without_workers_is_told_of(expected):
    """The run waits for the first worker."""
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        comes = threading.Timer(1.0, cluster.scale, [1])
        comes.start()
        with pytest.warns(UserWarning, match="the cluster has no workers yet"):
            field = run("none")
        comes.join()
    same(field, expected[1])


def test_what_lies_in_memory_is_one_node_of_a_graph(monkeypatch):
    """Images in memory are not copied into the task of every block."""
    fixed, _ = shifted_pair()
    graphs = []
    mapped = xr.map_blocks
    monkeypatch.setattr(
        xr, "map_blocks", lambda *a, **k: graphs.append(mapped(*a, **k)) or graphs[-1]
    )
    field = run("none")
    assert graphs[0].size == 12 * len(RECORD)
    graphs.append(field.dreg.statistics(block_shape=8)["max_displacement"])
    for graph in graphs:
        nodes = dict(graph.__dask_graph__()).values()
        sizes = [len(cloudpickle.dumps(node)) for node in nodes]
        assert sum(size > fixed.nbytes / 2 for size in sizes) <= 1, graph
