"""Registration of a 1024³ pair, and peaks of memory over image sizes.

Pairs are made once, in the folder that ``XDREG_SCRATCH`` names, or in a temporary one.
Every run has a process of its own, so that its peak is its own.
"""

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import dask
import numpy as np

import xdreg
from tests.benchmarks.common import row
from xdreg.fields.diagnostics import status_counts
from xdreg.partition import MOVING_MARGIN

AMPLITUDE = 10.0

SIZES = (256, 512, 1024)


@contextlib.contextmanager
def _pairs():
    """Yield the folder of the pairs."""
    kept = os.environ.get("XDREG_SCRATCH")
    with tempfile.TemporaryDirectory() as folder:
        yield Path(kept or folder)


def _store(folder, size):
    target = folder / f"phantom_{size}"
    if not (target / "moving.ome.zarr").exists():
        xdreg.datasets.write_phantom_pair(
            target, (size,) * 3, amplitude=AMPLITUDE, overwrite=True
        )
    return target


def alone(name, *arguments, module="large"):
    """Run a part of a module in a process of its own; return its figures."""
    code = (
        f"import json; from tests.benchmarks import {module} as module; "
        f"print(json.dumps(module.{name}(*{arguments!r})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    return json.loads(done.stdout.splitlines()[-1])


def _high_water():
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def _resident():
    return int(Path("/proc/self/statm").read_text("utf-8").split()[1]) * 4096


@contextlib.contextmanager
def peak_memory(found):
    """Record the peak memory of the process while the body runs."""
    done = threading.Event()

    def watch():
        while not done.wait(0.02):
            found["peak"] = max(found.get("peak", 0), _resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _open(folder):
    return [
        xdreg.open_ome_zarr(Path(folder) / f"{name}.ome.zarr")
        for name in ("fixed", "moving")
    ]


def memory():
    """Print the peak memory of one worker over image sizes, with equal blocks."""
    with _pairs() as folder:
        for size, profiled in ((512, True), *((size, False) for size in SIZES)):
            figures = alone("one_worker", str(_store(folder, size)), profiled)
            row(
                f"one worker, {size}³" + ", Dask's profile on" * profiled,
                blocks=figures["blocks"],
                peak=f"{figures['peak'] / 1e6:.0f} MB",
                plan_says=f"{figures['plan'] / 1e6:.0f} MB",
                client_and_scheduler=f"{figures['client'] / 1e6:.0f} MB",
            )


def one_worker(folder, profiled):
    """Run a stage in blocks of 64³, one after the other, beside its scheduler."""
    from dask.distributed import Client, LocalCluster

    fixed, moving = _open(folder)
    options = {
        "stages": [xdreg.LocalCorrelation(level=0, iterations=1, metric="lncc")],
        "block_shape": 64,
    }
    plan = fixed.dreg.plan(moving, **options)
    with (
        # Dask's profile would grow with time: it keeps a record of every second.
        dask.config.set({"distributed.worker.profile.enabled": profiled}),
        LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=None
        ) as local,
        Client(local) as client,
    ):
        field = fixed.dreg.register(moving, progress=False, **options)
        (peak,) = client.run(_high_water).values()
    return {
        "peak": peak,
        "plan": plan.worker_memory(),
        "client": _high_water(),
        "blocks": field.block_status.size,
    }


def large():
    """Print time, bytes, memory and error of 1024³ at every second voxel."""
    with _pairs() as folder:
        figures = alone("every_second_voxel", str(_store(folder, SIZES[-1])))
    stages, arrays = figures.pop("stages"), figures.pop("arrays")
    row("1024³ at level 1", **figures)
    for stage in stages:
        row(f"  {stage.pop('stage')}", **stage)
    for array in arrays:
        row(f"  {array.pop('array')}", **array)


def every_second_voxel(folder):
    """Run the default stages except the finest level."""
    fixed, moving = _open(folder)
    plan = fixed.dreg.plan(moving, metric="lncc")
    stages = [stage.options for stage in plan.stages if stage.fixed_level != 0]
    plan = fixed.dreg.plan(moving, metric="lncc", stages=stages)
    found = {}
    began = time.perf_counter()
    with _bytes_read() as read, peak_memory(found):
        field = fixed.dreg.register(
            moving, metric="lncc", stages=stages, progress=False
        )
    seconds = time.perf_counter() - began
    truth = xdreg.datasets.phantom_pair((SIZES[-1],) * 3, amplitude=AMPLITUDE)
    gap = field.dreg.transform_points(truth.fixed_points) - truth.moving_points
    stages = []
    for stage, record in zip(plan.stages, field.dreg.stages, strict=True):
        spent = record.blocks["seconds"]
        stages.append(
            {
                "stage": f"{stage.options.name}, level {stage.fixed_level}",
                "blocks": int(spent.size),
                "seconds_per_block": float(np.median(spent)),
            }
        )
    return {
        "seconds": seconds,
        "error_in_voxels": float(np.median(np.linalg.norm(gap, axis=1))),
        "blocks": str(status_counts(field)),
        "peak": f"{found['peak'] / 1e9:.2f} GB",
        "plan_says": f"{plan.worker_memory(os.cpu_count()) / 1e9:.2f} GB",
        "stages": stages,
        "arrays": _compare_bytes(plan, read, folder),
    }


@contextlib.contextmanager
def _bytes_read():
    """Count the bytes read from local stores, by file."""
    from zarr.storage import LocalStore

    original, counted = LocalStore.get, Counter()

    async def get(self, key, *arguments, **options):
        value = await original(self, key, *arguments, **options)
        if value is not None:
            counted[str(self.root / key)] += len(value)
        return value

    LocalStore.get = get
    try:
        yield counted
    finally:
        LocalStore.get = original


def _compare_bytes(plan, read, folder):
    """Return bytes read of each level beside those stored, and what windows touch."""
    rows, seen = [], set()
    for stage in plan.stages:
        sides = (
            ("fixed", plan.fixed, stage.fixed_level, 1),
            ("moving", plan.moving, stage.moving_level, 1 + MOVING_MARGIN),
        )
        for name, pyramid, level, overlaps in sides:
            place = f"{folder}/{name}.ome.zarr/scale{level}/"
            counted = sum(n for file, n in read.items() if file.startswith(place))
            chunks = [file for file in Path(place).rglob("*") if "/c/" in str(file)]
            stored = sum(file.stat().st_size for file in chunks if file.is_file())
            if stored == 0 or place in seen:
                continue
            seen.add(place)
            chunk = pyramid.arrays[level].data.chunksize
            rows.append(
                {
                    "array": f"{name} level {level}",
                    "read": f"{counted / 1e6:.0f} MB",
                    "stored": f"{stored / 1e6:.0f} MB",
                    "ratio": counted / stored,
                    "windows_touch": _touched(stage.partition, overlaps, chunk),
                }
            )
    return rows


def _touched(partition, overlaps, chunks):
    """Return how often a chunk lies in a window, of all chunks on average."""
    times = []
    for size, block, overlap, chunk in zip(
        partition.grid.shape,
        partition.block_shape,
        partition.overlap,
        chunks,
        strict=True,
    ):
        touched = 0
        for start in range(0, size, block):
            first = max(start - overlaps * overlap, 0) // chunk
            last = min(start + block + overlaps * overlap, size) - 1
            touched += last // chunk - first + 1
        times.append(touched / math.ceil(size / chunk))
    return math.prod(times)
