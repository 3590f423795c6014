"""Small images for the engines: texture, bodies of blobs, and known motions."""

import itertools

import numpy as np
import scipy.ndimage
import xarray as xr

from xdreg.coordinates import coordinates
from xdreg.grid import SPATIAL_DIMS, Grid
from xdreg.numerics import kernels

FLAT = Grid(("y", "x"), (90, 110), (1.5, 1.0), (-30.0, 200.0), "meter")
SOLID = Grid(
    ("z", "y", "x"), (40, 44, 52), (2.0, 1.5, 1.0), (10.0, -30.0, 0.0), "meter"
)


def unit_grid(shape, spacing=None, units=None):
    """Return a grid from the origin, by default of voxels of length one."""
    ndim = len(shape)
    return Grid(
        SPATIAL_DIMS[-ndim:], shape, spacing or (1.0,) * ndim, (0.0,) * ndim, units
    )


def texture(shape, sigma=1.5, seed=0):
    """Return smooth noise of standard deviation one; flat axes are not smoothed."""
    if np.isscalar(sigma):
        sigma = [sigma if n > 1 else 0 for n in shape]
    white = np.random.default_rng(seed).standard_normal(shape)
    smooth = scipy.ndimage.gaussian_filter(white, sigma)
    return (smooth / smooth.std()).astype(np.float32)


def image(values, grid=None, mask=None):
    """Return values as an image, by default of voxels of length one."""
    grid = grid or unit_grid(values.shape)
    array = xr.DataArray(values.astype(np.float32), coordinates(grid), grid.dims)
    return array if mask is None else array.assign_coords(mask=(grid.dims, mask))


def body(grid, seed=0):
    """Return an uneven body of blobs on a dark background."""
    rng = np.random.default_rng(seed)
    points = np.moveaxis(np.indices(grid.shape), 0, -1) * grid.spacing
    extent = np.multiply(grid.shape, grid.spacing)
    values = np.zeros(grid.shape)
    for _ in range(25):
        centre = extent * rng.uniform(0.25, 0.75, grid.ndim)
        width = extent.min() * rng.uniform(0.03, 0.09)
        distance = ((points - centre) ** 2).sum(axis=-1)
        values += rng.uniform(0.5, 2.0) * np.exp(-0.5 * distance / width**2)
    return image(values, grid)


def about_centre(grid, rotation, shift):
    """Return the matrix of a linear map about the middle of a grid, then a shift."""
    matrix = np.eye(grid.ndim + 1)
    matrix[:-1, :-1] = rotation
    matrix[:-1, -1] = grid.centre - rotation @ grid.centre + shift
    return matrix


def moved(fixed, matrix, fill=0.0):
    """Return the image that ``matrix`` maps the fixed one onto."""
    grid = Grid(
        FLAT.dims if fixed.ndim == 2 else SOLID.dims,
        fixed.shape,
        (FLAT if fixed.ndim == 2 else SOLID).spacing,
        (FLAT if fixed.ndim == 2 else SOLID).origin,
        "meter",
    )
    inverse = np.linalg.inv(matrix)
    values = kernels.warp_array(
        fixed.values, grid, *kernels.affine_displacement(inverse, grid), grid, fill=fill
    )
    return image(values, grid)


def rotation(ndim, degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    result = np.eye(ndim)
    result[-2:, -2:] = [[c, -s], [s, c]]
    return result


def corner_error(one, other, grid):
    """Return the largest distance in voxels between where corners are mapped."""
    low, high = (np.asarray(b) for b in grid.bounds)
    corners = np.array(list(itertools.product(*zip(low, high, strict=True))))
    gap = (one - other)[:-1]
    away = corners @ gap[:, :-1].T + gap[:, -1]
    return np.abs(away / grid.spacing).max()


def geometry(ndim):
    """Return grids of an image, of a field, and of a target, and the field."""
    cut = slice(3 - ndim, None)
    image = Grid(
        SPATIAL_DIMS[cut], (20, 33, 41)[cut], (2.0, 1.0, 1.5)[cut], (5, -3, 2.0)[cut]
    )
    target = Grid(
        SPATIAL_DIMS[cut], (15, 20, 25)[cut], (1.7, 1.2, 1.9)[cut], (7, 0, 5.0)[cut]
    )
    points = image.every((4,) * ndim)
    values = np.random.default_rng(0).normal(size=(ndim, *points.shape))
    return image, points, target, values.astype(np.float32)


def places(points, target, field):
    """Return where the target lies in physical space."""
    centres = kernels.grid_points(target)
    return centres + kernels.sample(field, points, centres).T
