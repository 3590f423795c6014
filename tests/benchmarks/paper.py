"""The plan of a terabyte pair that is never read: blocks, hours, bytes and files."""

import math

import dask.array
import numpy as np
import xarray as xr

import xdreg
from tests.benchmarks.common import row
from xdreg.registration.mapping import MOST_TASKS

#: Voxels per axis of a uint16 image of a terabyte.
SIZE = 8192

#: Measured by ``engine`` and ``machinery``: voxel-iterations per second and core,
#: iterations until a block is at rest, and what a block's other work adds.
RATE, ITERATIONS, BESIDE = 15e6, 21, 1.05

CORES = (1, 64, 1000)


def paper():
    """Print blocks, hours, bytes and files of the default stages on a terabyte pair."""
    data = dask.array.zeros((SIZE,) * 3, chunks=128, dtype=np.uint16)
    axis = 0.5 * np.arange(SIZE)
    image = xr.DataArray(data, dict.fromkeys("zyx", axis), ("z", "y", "x"))
    plan = xdreg.plan(image, image, metric="lncc")
    hours = dict.fromkeys(CORES, 0.0)
    total = {"read": 0, "written": 0, "files": 0, "blocks": 0}
    for stage in plan.stages:
        partition = stage.partition
        work = math.prod(partition.window_shape) * ITERATIONS * BESIDE / RATE / 3600
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
