"""Small images and pairs of images with known motions."""

import numpy as np
import xarray as xr

from tests.helpers.matrices import applied, turn
from xdreg.coordinates import coordinates
from xdreg.fields.displacement import make_field
from xdreg.grid import Grid

SHAPE = (72, 96)


def shifted_pair():
    """Return two images that are two voxels apart along x."""
    rng = np.random.default_rng(0)
    values = rng.random((SHAPE[0], SHAPE[1] + 2)).astype(np.float32)
    grid = Grid(("y", "x"), SHAPE, (1.0, 1.0), (0.0, 0.0))
    return [
        xr.DataArray(part, dims=grid.dims, coords=coordinates(grid))
        for part in (values[:, 2:], values[:, :-2])
    ]


def textured(degrees=0.0, shape=(150, 170)):
    """Return an image of blobs, the rotated image, and the matrix between them."""
    rng = np.random.default_rng(5)
    centres = rng.uniform(-20, 200, (260, 2))
    heights = rng.uniform(0.3, 1, 260)
    matrix = turn(2, degrees)
    centre = np.array(shape) / 2
    matrix[:2, 2] = centre + np.array([2.0, -1.5]) - matrix[:2, :2] @ centre

    def image(places):
        y, x = (
            np.exp(-((np.arange(n) - place[:, None]) ** 2) / 18)
            for n, place in zip(shape, places.T, strict=True)
        )
        values = ((heights * y.T) @ x).astype(np.float32)
        coords = {d: np.arange(float(n)) for d, n in zip("yx", shape, strict=True)}
        return xr.DataArray(values, coords, ("y", "x"))

    return image(centres), image(applied(matrix, centres)), matrix


def noise(shape=(40, 48), *, units="micrometer", origin=0.0, seed=0):
    """Return an image of random values in [0, 1)."""
    ndim = len(shape)
    grid = Grid(("z", "y", "x")[-ndim:], shape, (1.0,) * ndim, (origin,) * ndim, units)
    values = np.random.default_rng(seed).random(shape).astype(np.float32)
    return xr.DataArray(values, dims=grid.dims, coords=coordinates(grid))


def zero_field(shape):
    """Return a field of zeros with a point every 48 micrometers."""
    ndim = len(shape)
    dims = ("z", "y", "x")[-ndim:]
    grid = Grid(dims, shape, (48.0,) * ndim, (0.0,) * ndim, "micrometer")
    return make_field(np.zeros((ndim, *shape), np.float32), grid)


def never(*_, **__):
    """Fail: a function that must not be called."""
    raise AssertionError
