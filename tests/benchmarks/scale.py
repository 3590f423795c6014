"""Many blocks and workers, with engines that do nothing or sleep.

Every measurement runs in a process of its own, so that peaks of memory are its own.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dask
import numpy as np
import xarray as xr

import xdreg
from tests.benchmarks.common import row

#: Voxels of a block per axis, where only the machinery is measured.
TINY = 8

#: The simulated cluster: threads, blocks per axis, seconds that a block sleeps.
THREADS, BLOCKS, SLEEP = 32, (10, 10, 20), 2.0


def scale():
    """Print start and memory of many blocks, a simulated cluster, and two workers."""
    for count in (22, 47):
        alone("first_block", str(count))
    alone("all_blocks", "22")
    alone("cluster")
    alone("workers")


def alone(name, *arguments):
    """Run one of this module's parts in a process of its own."""
    code = f"from tests.benchmarks import scale; scale.{name}(*{arguments!r})"
    subprocess.run([sys.executable, "-c", code], check=True)


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def _image(shape):
    values = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    coords = {
        dim: np.arange(n, dtype=float) for dim, n in zip("zyx", shape, strict=True)
    }
    return xr.DataArray(values, dims=("z", "y", "x"), coords=coords)


def nothing(fixed, moving):
    """Return a field of zeros."""
    shape = (3, *fixed.shape)
    return xr.DataArray(np.zeros(shape, np.float32), dims=("component", *fixed.dims))


def sleeping(fixed, moving):
    """Sleep, and return a field of zeros."""
    time.sleep(SLEEP)
    return nothing(fixed, moving)


def first_block(count):
    """Seconds until the first of count³ blocks runs, and the client's memory then."""
    count = int(count)
    image = _image((count * TINY,) * 3)
    loaded, began = _peak(), time.perf_counter()

    def stop(fixed, moving):
        row(
            f"first of {count**3} blocks",
            seconds=time.perf_counter() - began,
            peak=f"{_peak():.2f} GB",
            of_that_images_and_modules=f"{loaded:.2f} GB",
        )
        os._exit(0)

    _register(image, stop)


def all_blocks(count):
    """Time per block of count³ blocks, and the client's peak."""
    count = int(count)
    image = _image((count * TINY,) * 3)
    cpu = time.process_time()
    seconds = _register(image, nothing)
    row(
        f"all of {count**3} blocks",
        milliseconds=1e3 * seconds / count**3,
        of_processor=1e3 * (time.process_time() - cpu) / count**3,
        peak=f"{_peak():.2f} GB",
    )


def _register(image, method):
    """Register; return the seconds without those that it takes to remove the files."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        image.dreg.register(
            image,
            stages=[xdreg.Custom(method=method, isolated=False)],
            block_shape=TINY,
            overlap=2,
            progress=False,
            workdir=Path(folder) / "run",
        )
        return time.perf_counter() - began


def cluster():
    """Share of the ideal with 32 worker threads and an engine that sleeps."""
    from dask.distributed import Client, LocalCluster

    dask.config.set({"distributed.scheduler.worker-saturation": "inf"})
    image = _image([TINY * n for n in BLOCKS])
    blocks = int(np.prod(BLOCKS))
    ideal = blocks * SLEEP / THREADS
    for processes in (1, 2, 8):
        with (
            LocalCluster(
                n_workers=processes,
                threads_per_worker=THREADS // processes,
                processes=True,
                dashboard_address=None,
            ) as local,
            Client(local),
        ):
            # Workers that have not run xdreg before import it, and load its kernels.
            _register(_image((4 * TINY,) * 3), nothing)
            seconds = _register(image, sleeping)
        row(
            f"cluster, {processes} x {THREADS // processes} threads",
            blocks=blocks,
            seconds=seconds,
            share_of_ideal=ideal / seconds,
        )


def workers():
    """Two worker processes against one, on a stored phantom in 27 blocks."""
    from dask.distributed import Client, LocalCluster

    stage = xdreg.LocalCorrelation(level=0, block_shape=64, metric="lncc")
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = xdreg.datasets.write_phantom_pair(folder, (160,) * 3, amplitude=6.0)
        fixed, moving = (xdreg.open_ome_zarr(path) for path in paths)
        for count in (1, 2):
            with (
                LocalCluster(
                    n_workers=count, threads_per_worker=1, dashboard_address=None
                ) as local,
                Client(local),
            ):
                # Loading and compiling are not what is compared.
                fixed.dreg.register(moving, stages=[stage], progress=False)
                times = []
                for _ in range(3):
                    began = time.perf_counter()
                    fixed.dreg.register(moving, stages=[stage], progress=False)
                    times.append(time.perf_counter() - began)
            seconds[count] = float(np.median(times))
    row(
        "two worker processes",
        one=seconds[1],
        two=seconds[2],
        faster=f"{seconds[1] / seconds[2]:.2f} x",
    )
