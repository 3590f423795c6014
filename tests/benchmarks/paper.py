"""The plan of a terabyte pair that is never read: blocks, hours, bytes and files.

The hours are those of a phantom, registered in the same run, per voxel of its windows.
"""

import math
import tempfile
from pathlib import Path

import dask.array
import numpy as np
import xarray as xr

import xdreg
from tests.benchmarks.common import measured, row
from xdreg.registration.mapping import MOST_TASKS

#: Voxels per axis of a uint16 image of a terabyte.
SIZE = 8192

#: Voxels per axis of the phantom that is registered, and its largest displacement.
MEASURED, AMPLITUDE = 224, 2.0

CORES = (1, 64, 1000)


def seconds_per_voxel():
    """Return CPU seconds per voxel of a window, at a coarse and at the finest level.

    From store to field: reading, judging and blending count.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = xdreg.datasets.write_phantom_pair(
            Path(folder), (MEASURED,) * 3, amplitude=AMPLITUDE
        )
        fixed, moving = map(xdreg.open_ome_zarr, paths)
        fine = [xdreg.LocalCorrelation(level=0, metric="lncc")]
        coarse = [xdreg.LocalCorrelation(level=1, metric="lncc"), *fine]

        def run(stages):
            options = {"stages": stages, "progress": False}
            _, (_, cpu) = measured(
                lambda: fixed.dreg.register(moving, **options).load()
            )
            partitions = [
                s.partition for s in fixed.dreg.plan(moving, stages=stages).stages
            ]
            return cpu, [_voxels(partition) for partition in partitions]

        run(coarse)  # compiled
        alone, (finest,) = run(fine)
        both, (first, _) = run(coarse)
    return (both - alone) / first, alone / finest


def _voxels(partition):
    """Return the number of voxels of all windows."""
    along = zip(
        partition.grid.shape, partition.block_shape, partition.overlap, strict=True
    )
    return math.prod(
        sum(min(s + b + o, n) - max(s - o, 0) for s in range(0, n, b))
        for n, b, o in along
    )


def paper():
    """Print blocks, hours, bytes and files of the default stages on a terabyte pair."""
    data = dask.array.zeros((SIZE,) * 3, chunks=128, dtype=np.uint16)
    axis = 0.5 * np.arange(SIZE)
    image = xr.DataArray(data, dict.fromkeys("zyx", axis), ("z", "y", "x"))
    plan = xdreg.plan(image, image, metric="lncc")
    at_coarse, at_finest = seconds_per_voxel()
    row("CPU, µs per voxel", coarse=1e6 * at_coarse, finest=1e6 * at_finest)
    hours = dict.fromkeys(CORES, 0.0)
    total = {"read": 0, "written": 0, "files": 0, "blocks": 0}
    for stage in plan.stages:
        partition = stage.partition
        seconds = at_finest if stage.fixed_level == 0 else at_coarse
        work = _voxels(partition) * seconds / partition.size / 3600
        together = math.ceil(partition.size / MOST_TASKS)
        tasks = math.ceil(partition.size / together)
        for cores in CORES:
            # The last tasks leave cores idle.
            hours[cores] += work * min(
                math.ceil(tasks / cores) * together, partition.size
            )
        blockwise = stage.options.name != "affine"
        points = partition.size * math.prod(partition.patch_shape)
        field = math.prod(partition.field_grid.shape)
        written = 12 * (points + field) * blockwise
        figures = {
            "read": plan.bytes_read(stage),
            "written": written,
            "files": 4 * partition.size * blockwise,
            "blocks": partition.size,
        }
        total = {name: total[name] + figures[name] for name in total}
        row(
            f"{stage.options.name}, level {stage.fixed_level}",
            blocks=partition.size,
            core_hours=work * partition.size,
            read=f"{figures['read'] / 1e12:.3f} TB",
            written=f"{written / 1e12:.3f} TB",
        )
    row(
        "all",
        blocks=total["blocks"],
        files=total["files"],
        read=f"{total['read'] / 1e12:.1f} TB",
        written=f"{total['written'] / 1e12:.1f} TB",
        **{f"hours_on_{cores}": f"{value:.1f}" for cores, value in hours.items()},
        worker=f"{plan.worker_memory() / 1e9:.1f} GB",
    )
