"""Large motion: real images moved by known lengths.

Each image gets noise of its own. Errors are in voxels (the geometric mean of the axes),
where the image is brighter than a quarter of its range.
"""

import numpy as np
import scipy.ndimage
import xarray as xr

from tests.benchmarks.common import opened, peer_field, row, timed
from xdreg.coordinates import coordinates, grid_of
from xdreg.fields.field import fixed_grid
from xdreg.numerics import kernels

#: Standard deviation of the noise, as a share of the image's.
NOISE = 0.05


def motion():
    """Print errors where a part of an image moves far, with those of the peers."""
    for name, image in _images():
        grid = grid_of(image)
        for label, truth in motions(grid):
            fixed, moving, inside = moved_pair(image, truth)
            runs = {"xdreg": timed(fixed.dreg.register, moving, progress=False)}
            for tool in ("greedy", "syn") if grid.ndim == 3 else ():
                if (found := peer_field(tool, fixed, moving)) is not None:
                    runs[tool] = found[0], float(found[1][0, 0])
            largest = float(np.abs(truth).max() / _voxel(grid))
            for tool, (field, seconds) in runs.items():
                error = errors(field, truth, inside)
                row(
                    f"{name} {label} {tool}",
                    largest_motion=largest,
                    median=float(np.median(error)),
                    p95=float(np.percentile(error, 95)),
                    largest=float(error.max()),
                    seconds=seconds,
                )


def _images():
    """Yield moving images of the pairs, as floats."""
    for name, level in (("lung_ct", 1), ("mouse_brain", 0)):
        image = opened(name, "moving")[f"scale{level}/image"].astype("float32")
        # Outside the scanner's cone the lung's voxels are far below air.
        yield name, image.clip(min=-1000) if name == "lung_ct" else image
    image = opened("histology_kidney", "moving")["scale0/image"].astype("float32")
    # The glass is bright, not the tissue.
    yield "histology_kidney", 255 - image.mean("c")


def motions(grid):
    """Yield displacements (ndim, *shape) along the last axis, in physical units."""
    extent = np.multiply(grid.shape, grid.spacing)
    place = np.moveaxis(np.indices(grid.shape), 0, -1) * grid.spacing
    for share in (0.1, 0.16):
        length = share * extent.min()
        gaps = ((place - extent / 2) ** 2).sum(axis=-1)
        yield f"spot {share}", _along(length * np.exp(-0.7 * gaps / length**2), grid)
    length = 0.1 * extent[0]
    edges = (0.33 * extent[0], 0.67 * extent[0])
    low, high = (1 / (1 + np.exp((e - place[..., 0]) / (0.3 * length))) for e in edges)
    yield "band 0.1", _along(length * (low - high), grid)
    coarse = np.random.default_rng(5).normal(size=(grid.ndim, *(5,) * grid.ndim))
    zoom = np.array(grid.shape) / 5
    waves = np.stack([scipy.ndimage.zoom(part, zoom, order=3) for part in coarse])
    waves *= 0.08 * extent.min() / np.linalg.norm(waves, axis=0).max()
    yield "waves 0.08", waves.astype(np.float32)


def _along(lengths, grid):
    truth = np.zeros((grid.ndim, *grid.shape), np.float32)
    truth[-1] = lengths
    return truth


def errors(field, truth, inside):
    """Return the errors of a field in voxels at some places inside."""
    grid = fixed_grid(field)
    voxels = np.argwhere(inside)[::50]
    expected = truth[(slice(None), *voxels.T)].T
    points = voxels * grid.spacing + np.array(grid.origin)
    off = field.dreg.transform_points(points) - points - expected
    return np.linalg.norm(off, axis=1) / _voxel(grid)


def _voxel(grid):
    return np.exp(np.mean(np.log(grid.spacing)))


def moved_pair(image, truth):
    """Return the image pulled through a field, the image, and a mask."""
    grid, values = grid_of(image), image.values.astype(float)
    least = float(values.min())
    pulled = kernels.warp_array(values, grid, truth, grid, grid, fill=least)
    rng = np.random.default_rng(0)
    images = [
        xr.DataArray(
            (v + rng.normal(size=v.shape) * NOISE * values.std()).astype(np.float32),
            coordinates(grid),
            grid.dims,
        )
        for v in (pulled, values)
    ]
    bright = least + 0.25 * (np.percentile(values, 99) - least)
    return *images, scipy.ndimage.gaussian_filter(pulled, 1) > bright
