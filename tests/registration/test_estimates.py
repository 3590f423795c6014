"""Estimates against the memory and bytes that runs take."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import xarray as xr

import xdreg
from xdreg.coordinates import coordinates
from xdreg.grid import Grid
from xdreg.numerics import compiled
from xdreg.registration.estimates import _along
from xdreg.stores.readers import ImageReader


def test_bytes_are_those_that_readers_read(monkeypatch):
    grid = Grid(("z", "y", "x"), (40, 36, 44), (2.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    values = np.random.default_rng(0).random(grid.shape, np.float32)
    image = xr.DataArray(values, coordinates(grid), grid.dims)
    stages = [xdreg.LocalCorrelation(level=0, metric="lncc", iterations=1)]
    options = {"stages": stages, "block_shape": (20, 12, 22), "overlap": 3}
    plan = image.dreg.plan(image, **options)
    count = 0
    original = ImageReader.read

    def counted(self, window=None):
        nonlocal count
        result = original(self, window)
        count += result.nbytes
        return result

    monkeypatch.setattr("xdreg.registration.source.Source.check", lambda source: None)
    monkeypatch.setattr(
        "xdreg.registration.planned_methods.PlannedLocalCorrelation.block_options",
        lambda *_: {"iterations": 1},
    )
    monkeypatch.setattr(ImageReader, "read", counted)
    image.dreg.register(image, progress=False, **options)
    # Interpolation reads a voxel more on every side.
    assert plan.bytes_read(plan.stages[0]) <= count
    assert count < 1.2 * plan.bytes_read(plan.stages[0])


#: The beginning of a process that plans, and runs in a worker of just that memory.
WORKER = """
    import re, sys
    from pathlib import Path
    from dask.distributed import Client, LocalCluster
    import xdreg

    def high_water():
        status = Path("/proc/self/status").read_text("utf-8")
        return int(re.search(r"VmHWM:\\s*(\\d+) kB", status)[1]) * 1024

    def main(size, block):
        paths = xdreg.datasets.write_phantom_pair(
            Path(sys.argv[1]) / str(size), (size,) * 3, amplitude=2.0
        )
        fixed, moving = map(xdreg.open_ome_zarr, paths)
        stages = [xdreg.LocalCorrelation(level=0, metric="lncc", iterations=2)]
        options = {"stages": stages, "block_shape": block}
        needed = fixed.dreg.plan(moving, **options).worker_memory()
        cluster = LocalCluster(1, 1, memory_limit=needed, dashboard_address=None)
        with cluster, Client(cluster) as client:
            fixed.dreg.register(moving, progress=False, **options)
            print(*client.run(high_water).values(), needed)

    if __name__ == "__main__":
        main(48, 20)
        main(144, 144)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux says its peaks")
def test_a_worker_of_just_the_planned_memory_finishes(tmp_path):
    file = tmp_path / "script.py"
    file.write_text(textwrap.dedent(WORKER))
    done = subprocess.run(
        [sys.executable, file, tmp_path],
        check=True,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    small, large = (map(int, line.split()) for line in done.stdout.splitlines()[-2:])
    peak, needed = small
    # Idle, it must be below the share at which Dask pauses it.
    assert 0.6 < peak / needed < 0.9
    peak, needed = large
    assert 0.8 < peak / needed < 0.95


def test_a_plan_knows_whether_kernels_are_compiled(tmp_path, monkeypatch):
    image = xdreg.datasets.phantom_pair((20, 24)).fixed.compute()
    monkeypatch.setattr(compiled, "is_stored", lambda kernel: True)
    plan = image.dreg.plan(image)
    stored = plan.worker_memory()
    for kernel in compiled.KERNELS.values():
        monkeypatch.setattr(compiled, "is_stored", lambda v, k=kernel: v is not k)
        assert plan.worker_memory() > stored


def test_the_voxels_of_many_blocks_are_counted_at_once():
    rng = np.random.default_rng(0)
    for _ in range(300):
        size, block, margin = (
            int(rng.integers(*r)) for r in ((1, 300), (1, 99), (0, 150))
        )
        windows = (
            min(start + block + margin, size) - max(start - margin, 0)
            for start in range(0, size, block)
        )
        assert _along(size, block, margin) == sum(windows)
    assert _along(10**12, 64, 8) > 10**12
