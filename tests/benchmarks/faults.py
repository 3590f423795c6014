"""The cost of faults: blocks lost, blocks run again, and equality of the result.

Injected: the number of faults. Lost: blocks without a result at the end of the run.
Rerun: blocks that ran more than once until all had a result. Identical: whether the
result, failed blocks run again, is to the bit that of an undisturbed run.
"""

import contextlib
import hashlib
import os
import signal
import tempfile
import time
from pathlib import Path

import dask
import numpy as np
import psutil
import pytest
from distributed import Client, LocalCluster

import xdreg
from tests.benchmarks.common import row
from tests.helpers import runs
from tests.helpers.hostile import hostile
from tests.helpers.pairs import shifted_pair
from xdreg.engines.local_correlation import local_correlation
from xdreg.partition import BlockStatus
from xdreg.registration import register_block as tasks

#: Faults within a block's process, and the limits that stop them.
CONTAINED = {
    "segfault": {},
    "abort": {},
    "kill": {},
    "sleep": {"timeout": 2.0},
    "hang": {"timeout": 2.0},
    "memory": {"memory_limit": "500 MB"},
}
LOST = (BlockStatus.CRASHED, BlockStatus.TIMEOUT)

#: Runs that end at a write, for each state in which the write may be left.
CUTS = 25


def faults():
    """Print a table of faults, and the cost of isolation."""
    expected = _digest(_run("none", _places())[0])
    for kind, limits in CONTAINED.items():
        _contained(f"block: {kind}", expected, kind, **limits)
    _drivers()
    _power_cuts()
    with (
        # By default Dask gives up a worker that still restarts 15 s after it died.
        dask.config.set({"distributed.deploy.lost-worker-timeout": "10 minutes"}),
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        Client(cluster),
    ):
        _contained("worker: SIGKILL", expected, "kill", isolated=False)
        # Such a block costs one worker more than this number.
        cluster.scheduler.allowed_failures = 1
        _contained("worker: SIGSEGV always", expected, "always", isolated=False)
    _cost()


def _places():
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    for name in ("once", "log"):
        (folder / name).mkdir()
    return folder


def _run(kind, folder, *, retry=(), isolated=True, **limits):
    """Register in twelve blocks; about half fail, by default only once."""
    options = {"kind": kind, "share": 0.4, "seed": 2, "log": str(folder / "log")}
    options["once"] = str(folder / "once")
    stage = xdreg.Custom(
        method=hostile, level=0, options=options, isolated=isolated, **limits
    )
    fixed, moving = shifted_pair()
    field = fixed.dreg.register(
        moving,
        stages=[stage],
        metric="ncc",
        block_shape=24,
        workdir=folder / "run",
        retry=retry,
        progress=False,
    ).load()
    return field, len([p for p in (folder / "once").iterdir() if p.name != "calm"])


def _digest(field):
    """Return a hash of the displacement."""
    return hashlib.sha256(field["displacement"].values.tobytes()).hexdigest()


def _line(name, injected, lost, folder, identical, blocks=12):
    calls = len(list((folder / "log").iterdir()))
    row(
        name,
        injected=injected,
        blocks_lost=lost,
        blocks_rerun=calls - blocks,
        identical=identical,
    )


def _contained(name, expected, kind, **options):
    places = _places()
    field, injected = _run(kind, places, **options)
    lost = int(np.isin(field.block_status, LOST).sum())
    (places / "once" / "calm").touch()
    again, _ = _run(kind, places, retry=("crashed", "timeout"), **options)
    _line(name, injected, lost, places, _digest(again) == expected)


def _drivers():
    """Kill and interrupt the process that runs a registration."""
    calm = _places()
    expected = runs.harm_in_a_run("none", calm)
    places, deaths, found = _places(), -1, None
    while not found:
        deaths += 1
        out, _ = runs.driver("kill", places).communicate()
        found = out.strip()
    _line("driver: SIGKILL", deaths, 0, places, found == expected, 16)
    for how in (signal.SIGINT, signal.SIGKILL):
        places = _places()
        first = runs.driver("hang", places)
        while not list((places / "once").iterdir()):
            time.sleep(0.05)
        time.sleep(1.0)
        os.kill(first.pid, how)
        first.communicate()
        (places / "once" / "calm").touch()
        out, _ = runs.driver("hang", places).communicate()
        name = f"driver amid a block: {how.name}"
        _line(name, 1, 0, places, out.strip() == expected, 16)


def _power_cuts():
    """End runs at a write that is missing, short, empty or zeros."""
    folder = _places()
    with pytest.MonkeyPatch.context() as patch:
        writes = runs.Writes(patch)
        ran = []
        make = tasks._register
        patch.setattr(
            tasks, "_register", lambda *given: ran.append(given[0]) or make(*given)
        )
        expected = runs.bits(runs.register(folder / "whole"))
        total, blocks = writes.count, len(ran)
        rng = np.random.default_rng(1)
        for cut in (None, "short", "empty", "zeros"):
            same = 0
            ran.clear()
            for number, last in enumerate(rng.integers(2, total, CUTS)):
                where = folder / f"{cut}{number}"
                writes.count, writes.last, writes.cut = 0, int(last), cut
                with contextlib.suppress(runs.PowerCut):
                    runs.register(where)
                writes.last = None
                same += runs.bits(runs.register(where)) == expected
            row(
                f"power cut, file {cut or 'missing'}",
                injected=CUTS,
                blocks_lost=0,
                blocks_rerun=len(ran) - CUTS * blocks,
                identical=same == CUTS,
            )


def correlation(fixed, moving, **options):
    """Register as `xdreg.LocalCorrelation` does."""
    return local_correlation(fixed, moving, **options).displacement


def _cost():
    """Print the CPU time of blocks of 64³ in processes, against threads."""
    phantom = xdreg.datasets.phantom_pair((128, 128, 128), amplitude=3.0)
    images = phantom.fixed.compute(), phantom.moving.compute()

    def cpu():
        spent = 0.0
        for process in (own := psutil.Process(), *own.children(recursive=True)):
            times = process.cpu_times()
            spent += times.user + times.system
        return spent

    seconds = {True: [], False: []}
    with dask.config.set(scheduler="synchronous"):
        for isolated in (True, False) * 4:
            stage = xdreg.Custom(method=correlation, level=0, isolated=isolated)
            before = cpu()
            field = images[0].dreg.register(
                images[1], stages=[stage], metric="lncc", block_shape=64, progress=False
            )
            seconds[isolated].append(cpu() - before)
    # The first of each starts processes and loads kernels.
    inside, beside = (float(np.median(seconds[kind][1:])) for kind in (True, False))
    row(
        "isolation, 64³ blocks",
        blocks=field.block_status.size,
        cpu_processes=inside,
        cpu_threads=beside,
        cost=f"{100 * (inside / beside - 1):+.1f} %",
    )
