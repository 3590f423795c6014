"""Speed of warped pyramids, and the memory of a worker.

Images are tiles of one piece of uint16 noise, since only their size matters. The field
turns, shifts and bends them.
"""

import contextlib
import os
import tempfile
import time
from pathlib import Path

import dask
import dask.array
import numpy as np
import scipy.ndimage
import xarray as xr

import xdreg
from tests.benchmarks.common import row, timed
from tests.benchmarks.large import alone, peak_memory
from xdreg.coordinates import coordinates, grid_of
from xdreg.fields.displacement import make_field
from xdreg.grid import Grid
from xdreg.stores.pyramid import image_levels

TILE = 128
FIELD_STEP = 4

#: Voxels per axis whose default pyramid has four levels, and of the large target.
FOUR_LEVELS, LARGE = 512, 1024

#: Functions of this module whose memory is measured.
PARTS = ("linear", "cubic", "labels", "inverted", "composed", "points", "measured")


def cube(size):
    """Return the grid of a cube."""
    dims = ("z", "y", "x")
    return Grid(dims, (size,) * 3, (1.0,) * 3, (0.0,) * 3, "micrometer")


def write_image(path, size, smooth=1.5, values=8000):
    """Write a cube of noise up to a maximum with its pyramid, unless it exists."""
    if path.exists():
        return
    rng = np.random.default_rng(0)
    noise = scipy.ndimage.gaussian_filter(
        rng.normal(size=(TILE,) * 3), smooth, mode="wrap"
    )
    tile = (values * (0.25 + 0.75 * noise / np.abs(noise).max())).clip(0)
    tile = tile.astype(np.uint16)
    data = dask.array.tile(dask.array.from_array(tile), [size // TILE] * 3)
    image = xr.DataArray(data, dims=("z", "y", "x")).assign_coords(
        coordinates(cube(size))
    )
    xdreg.save(image, path)


def write_field(path, size):
    """Write a field that turns by three degrees and bends, unless it exists."""
    if path.exists():
        return
    grid = cube(size)
    own = grid.every((FIELD_STEP,) * 3)
    z, y, x = (own.axis(dim).astype(np.float32) for dim in own.dims)
    angle = np.deg2rad(3.0)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)],
                     [0, np.sin(angle), np.cos(angle)]]) - np.eye(3)  # fmt: skip
    values = np.zeros((3, *own.shape), np.float32)
    for i in range(3):
        for j, axis in enumerate((z, y, x)):
            shape = [1, 1, 1]
            shape[j] = -1
            values[i] += (turn[i, j] * (axis - size / 2)).reshape(shape)
        waves = 4 * np.sin(z / 40)[:, None, None] * np.sin(y / 50 + i)[:, None]
        values[i] += waves * np.cos(x / 45)
    make_field(values, own, grid, grid).dreg.to_ome_zarr(path)


@contextlib.contextmanager
def stores(size):
    """Yield paths of an image, a field, labels, and a result to write."""
    kept = os.environ.get("XDREG_SCRATCH")
    with tempfile.TemporaryDirectory(dir=kept) as fresh:
        folder = Path(kept or fresh)
        names = ("noise", "bend", "regions")
        image, field, regions = (folder / f"{n}_{size}.ome.zarr" for n in names)
        write_image(image, size)
        # Seven labels, whose regions are about twenty voxels wide.
        write_image(regions, size, smooth=10, values=7)
        write_field(field, size)
        result = Path(fresh) / "result.ome.zarr"
        yield tuple(map(str, (image, field, regions, result)))


def throughput():
    """Print megavoxels a second, Zarr to Zarr, of one level and of a whole pyramid."""
    with stores(FOUR_LEVELS) as (image, field, _, result):
        field, moving = xdreg.open_field(field), xdreg.open_ome_zarr(image)
        field.dreg.warp_to(moving, result, levels=1)  # compiled, and read once
        runs = {
            "one level": {"levels": 1},
            "four levels, resampled": {"levels_from": "moving"},
            "four levels, built": {"levels_from": "finest"},
            "one level, cubic": {"levels": 1, "order": 3},
            "four levels, cubic": {"order": 3},
        }
        speeds = {}
        for name, options in runs.items():
            seconds = min(
                timed(field.dreg.warp_to, moving, result, overwrite=True, **options)[1]
                for _ in range(3)
            )
            levels = image_levels(xdreg.open_ome_zarr(result), "result")
            speeds[name] = sum(level.size for level in levels) / seconds / 1e6
            alike = "one level, cubic" if "cubic" in name else "one level"
            row(
                f"warp {FOUR_LEVELS}³, {name}",
                levels=len(levels),
                seconds=seconds,
                megavoxels_per_second=speeds[name],
                of_one_level=speeds[name] / speeds[alike],
            )


def peaks():
    """Print the peak memory of one worker for targets of 1024³, where asked to."""
    if "XDREG_SCRATCH" not in os.environ:
        print(f"memory at {LARGE}³: skipped, XDREG_SCRATCH names no folder")
        return
    with stores(LARGE) as paths:
        for part in PARTS:
            figures = alone("one_part", part, *paths, module="warped")
            row(
                f"{part} at {LARGE}³, one worker",
                peak=f"{figures['peak'] / 1e9:.2f} GB",
                seconds=figures["seconds"],
            )


def one_part(name, image, field, regions, result):
    """Run a part, one task after the other; return its peak memory and seconds."""
    opened = xdreg.open_field(field)
    moving = xdreg.open_ome_zarr(regions if name == "labels" else image)
    found = {}
    began = time.perf_counter()
    with dask.config.set(scheduler="synchronous"), peak_memory(found):
        globals()[name](opened, moving, result)
    return {"peak": found["peak"], "seconds": time.perf_counter() - began}


def linear(field, moving, result):
    """Warp all levels."""
    field.dreg.warp_to(moving, result, overwrite=True)


def cubic(field, moving, result):
    """Warp all levels, by B-splines."""
    field.dreg.warp_to(moving, result, order=3, overwrite=True)


def labels(field, moving, result):
    """Warp all levels by Gaussian votes."""
    field.dreg.warp_to(moving, result, labels="gaussian", overwrite=True)


def inverted(field, moving, result):
    """Invert onto every second voxel."""
    inverse = field.dreg.inverse(like=moving, step=2)
    inverse.dreg.to_ome_zarr(result, overwrite=True)


def composed(field, moving, result):
    """Apply the field twice, on its own grid."""
    xdreg.compose(field, field).dreg.to_ome_zarr(result, overwrite=True)


def points(field, moving, result):
    """Map a hundred thousand points there and back."""
    grid = grid_of(moving["scale0/image"])
    places = np.random.default_rng(0).uniform(*grid.bounds, (100_000, 3))
    there = field.dreg.transform_points(places)
    field.dreg.transform_points(there, inverse=True)


def measured(field, moving, result):
    """Measure it, block by block."""
    field.dreg.statistics(block_shape=128).compute()
