"""Fields with a known inverse, and arrays that record or refuse reads."""

import dask.array
import numpy as np
import xarray as xr

from xdreg.coordinates import coordinates
from xdreg.fields.displacement import make_field
from xdreg.fields.field import field_grid
from xdreg.grid import Grid
from xdreg.numerics import kernels

DIMS = ("z", "y", "x")


def rotation(degrees, ndim):
    """Return a rotation in the last two axes, with some shear and scale."""
    angle = np.deg2rad(degrees)
    linear = np.eye(ndim)
    linear[-2:, -2:] = [
        [np.cos(angle), -np.sin(angle)],
        [np.sin(angle), np.cos(angle)],
    ]
    linear[0, -1] += 0.1
    linear[-2] *= 1.1
    return linear


class Known:
    """The map ``A (S(x) - c) + c + b``; S shifts each axis by a wave along the next.

    S leaves the last axis alone, so it can be inverted axis by axis.

    Parameters
    ----------
    ndim
        2 or 3.
    degrees
        Angle of the rotation in A.
    """

    def __init__(self, ndim, degrees=0.0, amplitude=1.5):
        self.fixed = Grid(
            DIMS[-ndim:],
            (41, 52, 47)[-ndim:],
            (2.0, 1.0, 1.5)[-ndim:],
            (-7.0, 30.0, 11.0)[-ndim:],
            "micrometer",
        )
        self.linear, self.shift = rotation(degrees, ndim), np.arange(ndim) + 2.5
        self.amplitude = amplitude
        self.grid = self.fixed.every((2,) * ndim)
        points = kernels.grid_points(self.grid)
        values = (self.forth(points) - points).T.reshape(-1, *self.grid.shape)
        self.field = make_field(values.astype(np.float32), self.grid, self.fixed)

    def _wave(self, values):
        return self.amplitude * np.sin(values / 9)

    def forth(self, points):
        """Map fixed points to moving ones."""
        result = points.copy()
        result[:, :-1] += self._wave(points[:, 1:])
        return (result - self.fixed.centre) @ self.linear.T + (
            self.fixed.centre + self.shift
        )

    def back(self, points):
        """Map moving points to fixed ones."""
        turned = np.linalg.solve(
            self.linear, (points - self.shift - self.fixed.centre).T
        )
        result = turned.T + self.fixed.centre
        for axis in range(result.shape[1] - 2, -1, -1):
            result[:, axis] -= self._wave(result[:, axis + 1])
        return result

    def holds(self, points):
        """Return which points are inside the fixed image."""
        lower, upper = self.fixed.bounds
        return ((points >= lower) & (points <= upper)).all(axis=1)


class Watched:
    """An array that records the shape of every window read."""

    def __init__(self, values):
        self._values, self.windows = values, []
        self.shape, self.dtype, self.ndim = values.shape, values.dtype, values.ndim

    def __getitem__(self, index):
        """Read a window and record its shape."""
        part = self._values[index]
        self.windows.append(part.shape)
        return part


def image(grid):
    """Return an image of zeros on a grid."""
    values = np.zeros(grid.shape, np.uint8)
    return xr.DataArray(values, dims=grid.dims, coords=coordinates(grid))


def moving_like(known, spacing=(1.2, 0.9, 1.0)):
    """Return an image of zeros that covers the mapped fixed image."""
    ndim = known.fixed.ndim
    reached = known.forth(kernels.grid_points(known.grid))
    lower, upper = reached.min(axis=0) - 5, reached.max(axis=0) + 5
    spacing = spacing[-ndim:]
    shape = np.ceil((upper - lower) / spacing).astype(int)
    return image(
        Grid(
            known.fixed.dims,
            tuple(shape.tolist()),
            spacing,
            tuple(lower.tolist()),
            known.fixed.units,
        )
    )


def field_and_moving(ndim=3, channels=None, dtype="uint16"):
    """Return a known field and a smooth moving image."""
    known = Known(ndim, 12)
    like = moving_like(known)
    axes = np.meshgrid(*(like[d].values / 7 for d in like.dims), indexing="ij")
    values = 1000 + 900 * np.prod([np.sin(a) for a in axes], axis=0)
    moving = like.copy(data=values.astype(dtype))
    if channels:
        moving = xr.concat([moving // (i + 1) for i in range(channels)], "c")
        moving = moving.assign_coords(c=[f"dye {i}" for i in range(channels)])
    return known.field, moving


def noisy_moving(known):
    """Return an image of random values that covers the mapped fixed image."""
    moving = moving_like(known)
    values = np.random.default_rng(1).integers(0, 255, moving.shape)
    return moving.copy(data=values.astype(np.uint8))


def folding(shape=(600, 90), where=(40, 45)):
    """Return a field that folds at one place."""
    grid = Grid(("y", "x"), shape, (1.0, 1.0), (0.0, 0.0))
    points = kernels.grid_points(grid).T.reshape(2, *shape)
    distance = np.square(points - np.reshape(where, (2, 1, 1))).sum(axis=0)
    values = np.zeros((2, *shape), np.float32)
    values[0] = 12 * np.exp(-distance / 60)
    return make_field(values, grid)


def unreadable(field):
    """Return a field of the same layout whose values cannot be read."""
    data = field["displacement"].data
    lazy = dask.array.map_blocks(
        _refuse, dtype=np.float32, chunks=dask.array.asarray(data).chunks,
        meta=np.empty((0,) * data.ndim, np.float32),
    )  # fmt: skip
    return field.assign(displacement=field["displacement"].copy(data=lazy))


def _refuse():
    raise AssertionError


def wavy(ndim=3):
    """Return a field of waves on every second voxel, and the fixed grid."""
    dims = ("z", "y", "x")[-ndim:]
    fixed = Grid(
        dims,
        (17, 22, 25)[-ndim:],
        (2.0, 1.0, 0.5)[-ndim:],
        (-7.0, 3.0, 11.0)[-ndim:],
        "millimeter",
    )
    grid = fixed.every((2,) * ndim)
    points = np.stack(np.meshgrid(*(grid.axis(d) for d in dims), indexing="ij"))
    waves = [0.7 * np.sin(points[(i + 1) % ndim] / 4 + i) for i in range(ndim)]
    return make_field(np.stack(waves).astype(np.float32), grid, fixed), fixed


def noise(grid, seed=0):
    """Return an image of noise on a grid."""
    values = np.random.default_rng(seed).random(grid.shape, np.float32)
    return xr.DataArray(values, dims=grid.dims, coords=coordinates(grid))


def points_of(known, count=40):
    """Return fixed points well within the image, off the grid."""
    lower, upper = (np.asarray(b) for b in known.fixed.bounds)
    share = np.random.default_rng(2).uniform(0.15, 0.85, (count, len(lower)))
    return lower + share * (upper - lower)


def difference(one, other):
    """Return the largest difference of two fields on one grid."""
    assert field_grid(one) == field_grid(other)
    return float(np.abs(one.displacement.values - other.displacement.values).max())
