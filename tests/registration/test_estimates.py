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
        "xdreg.registration.planned_stage.PlannedLocalCorrelation.block_options",
        lambda *_: {"iterations": 1},
    )
    monkeypatch.setattr(ImageReader, "read", counted)
    image.dreg.register(image, progress=False, **options)
    # Interpolation reads a voxel more on every side.
    assert plan.bytes_read(plan.stages[0]) <= count
    assert count < 1.2 * plan.bytes_read(plan.stages[0])


@pytest.mark.slow
def test_memory_is_what_the_plan_says():
    code = """
        import re, resource, dask, xdreg
        from pathlib import Path
        pair = xdreg.datasets.phantom_pair((144,) * 3, amplitude=2.0)
        images = pair.fixed.compute(), pair.moving.compute()
        stages = [xdreg.LocalCorrelation(level=0, metric="lncc", iterations=2)]
        plan = images[0].dreg.plan(images[1], stages=stages)
        with dask.config.set(scheduler="synchronous"):
            images[0].dreg.register(images[1], stages=stages, progress=False)
        # Linux hands the size of the process that started this one on to ru_maxrss.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        status = Path("/proc/self/status")
        if status.exists():
            own = re.search(r"VmHWM:\\s*(\\d+) kB", status.read_text())
            peak = int(own[1]) * 1024
        print(peak - 2 * images[0].nbytes, plan.worker_memory())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        check=True,
        capture_output=True,
        text=True,
    )
    peak, expected = map(int, done.stdout.split())
    assert 0.8 < peak / expected < 1.2


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
