"""CPU time outside the engine: warping, blending, and the rest of a block's work.

Times are of the CPU, so that they are valid on a loaded machine; wall times are added
where threads share the work.
"""

import tempfile
import time
from pathlib import Path
from typing import ClassVar

import dask
import dask.array
import itk
import numpy as np
import xarray as xr

import xdreg
from tests.benchmarks.common import row
from xdreg.coordinates import coordinates
from xdreg.fields.displacement import make_field
from xdreg.grid import Grid
from xdreg.numerics import kernels
from xdreg.registration import blockwise, outcome, register_block

REPEATS = 3


def machinery():
    """Print all figures of the machinery."""
    warp_kernel()
    warp_stores()
    overhead()
    reduction()


def _cube(size, spacing=1.0):
    return Grid(("z", "y", "x"), (size,) * 3, (spacing,) * 3, (0.0,) * 3)


def _wavy(grid):
    """Return a smooth displacement of up to five voxels on every eighth voxel."""
    coarse = grid.every((8,) * 3)
    waves = [np.sin(6 * coarse.axis(d) / coarse.axis(d)[-1]) for d in coarse.dims]
    field = [
        np.broadcast_to(
            5 * wave.reshape([-1 if i == k else 1 for k in range(3)]), coarse.shape
        )
        for i, wave in zip((1, 2, 0), waves, strict=True)
    ]
    return np.stack(field).astype(np.float32), coarse


def _median(function):
    """Return the median of the thread's own seconds, after a first call."""
    function()
    spent = []
    for _ in range(REPEATS):
        began = time.thread_time()
        function()
        spent.append(time.thread_time() - began)
    return float(np.median(spent))


def warp_kernel():
    """Print voxels per second of 256³ float32 through a coarse field, and of ITK."""
    grid = _cube(256)
    field, coarse = _wavy(grid)
    image = np.random.default_rng(0).random(grid.shape, np.float32)
    ours = _median(lambda: kernels.warp_array(image, grid, field, coarse, grid))
    itk.MultiThreaderBase.SetGlobalMaximumNumberOfThreads(1)
    array = xr.DataArray(image, coordinates(grid), grid.dims)
    picture = array.dreg.to_itk_image()
    transform = make_field(field, coarse, grid).dreg.to_itk_transform()

    def theirs():
        itk.resample_image_filter(
            picture,
            transform=transform,
            use_reference_image=True,
            reference_image=picture,
        )

    itks = _median(theirs)
    row(
        "warp 256³, one thread",
        xdreg=f"{grid.size / ours / 1e6:.0f} Mvoxel/s",
        itk=f"{grid.size / itks / 1e6:.0f} Mvoxel/s",
        faster=f"{itks / ours:.1f} x",
    )


def warp_stores():
    """Print voxels per second of 512³ from store to store, a thread per core."""
    grid = _cube(512)
    field = make_field(*_wavy(grid), grid)
    tile = xdreg.datasets.phantom_pair((128,) * 3, dtype="float32").moving.values
    image = xr.DataArray(np.tile(tile, (4, 4, 4)), coordinates(grid), grid.dims)
    with tempfile.TemporaryDirectory() as folder:
        image.dreg.to_ome_zarr(f"{folder}/moving.ome.zarr", levels=1)
        moving = xdreg.open_ome_zarr(f"{folder}/moving.ome.zarr")
        wall, processor = [], []
        for _ in range(REPEATS):
            began, spent = time.perf_counter(), time.process_time()
            field.dreg.warp_to(
                moving, f"{folder}/moved.ome.zarr", levels=1, overwrite=True
            )
            wall.append(time.perf_counter() - began)
            processor.append(time.process_time() - spent)
    row(
        "warp 512³, store to store",
        wall=f"{grid.size / np.median(wall) / 1e6:.0f} Mvoxel/s",
        processor=f"{grid.size / np.median(processor) / 1e6:.0f} Mvoxel/s a core",
    )


class Clock:
    """The thread's own time inside the functions of a block, by name."""

    places: ClassVar = {
        "register_block": blockwise,
        "compare_block": outcome,
        "blend_block": blockwise,
        "_run_method": register_block,
    }

    def __enter__(self):
        self.spent = dict.fromkeys(self.places, 0.0)
        self._original = {n: getattr(place, n) for n, place in self.places.items()}
        for name, place in self.places.items():
            setattr(place, name, self._timed(name))
        return self

    def __exit__(self, *_):
        for name, function in self._original.items():
            setattr(self.places[name], name, function)

    def _timed(self, name):
        function = self._original[name]

        def timed(*arguments):
            began = time.thread_time()
            try:
                return function(*arguments)
            finally:
                self.spent[name] += time.thread_time() - began

        timed.__name__ = name
        return timed


def run_timed(pair, **options):
    """Register stores of a pair in one thread; return the field and times of parts."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("fixed", "moving"):
            getattr(pair, name).dreg.to_ome_zarr(f"{folder}/{name}.ome.zarr", levels=1)
        fixed, moving = (
            xdreg.open_ome_zarr(Path(folder) / f"{name}.ome.zarr")
            for name in ("fixed", "moving")
        )
        with dask.config.set(scheduler="synchronous"), Clock() as clock:
            field = fixed.dreg.register(moving, progress=False, **options)
    return field, clock.spent


def overhead():
    """Print the time of the rest of a block as a share of the engine's, at 96³."""
    pair = xdreg.datasets.phantom_pair((288, 288, 288), amplitude=6.0)
    options = {
        "stages": [xdreg.LocalCorrelation(level=0)],
        "metric": "lncc",
        "block_shape": 96,
    }
    _, spent = run_timed(pair, **options)
    engine = spent["_run_method"]
    row(
        "beside the engine, 96³",
        engine=engine,
        read_judge_write=f"{100 * (spent['register_block'] / engine - 1):.1f} %",
        compare=f"{100 * spent['compare_block'] / engine:.1f} %",
        blend=f"{100 * spent['blend_block'] / engine:.1f} %",
    )


def _nothing(fixed, moving):
    shape = (3, *fixed.shape)
    return xr.DataArray(np.zeros(shape, np.float32), dims=("component", *fixed.dims))


def reduction():
    """Print CPU microseconds per field point of the reduction, over block counts."""
    for count in (2, 3, 4, 6):
        pair = xdreg.datasets.phantom_pair((48 * count,) * 3, amplitude=2.0)
        options = {"stages": [_nothing], "metric": "lncc", "block_shape": 48}
        field, spent = run_timed(pair, **options)
        points = field.displacement[0].size
        row(
            f"reduction, {count**3} blocks",
            compare=f"{1e6 * spent['compare_block'] / points:.2f} us",
            blend=f"{1e6 * spent['blend_block'] / points:.2f} us",
        )
