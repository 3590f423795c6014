"""Coordinates of images, and what is checked of them."""

import numpy as np
import pytest
import xarray as xr

from xdreg.coordinates import coordinates, grid_of
from xdreg.errors import InputError
from xdreg.grid import Grid

GRID = Grid(("z", "y", "x"), (5, 7, 9), (2.5, 1.366, 1.366), (-1434.5, 3.0, 0.1), "mm")


def test_coordinates_carry_exact_numbers():
    grid = GRID.to_units("millimeter")
    image = xr.DataArray(np.zeros(grid.shape), dims=grid.dims, coords=coordinates(grid))
    assert grid_of(image) == grid
    part = image.isel(z=slice(1, 4), x=slice(2, 3))
    window = (slice(1, 4), slice(0, 7), slice(2, 3))
    assert grid_of(part).spacing == grid.spacing
    np.testing.assert_allclose(grid_of(part).origin, grid.window(window).origin)


@pytest.mark.parametrize(
    ("coords", "text"),
    [
        ({"y": [0.0, 1.0, 2.0], "x": [2.0, 1.0, 0.0]}, "descends"),
        ({"y": [0.0, 1.0, 3.0], "x": [0.0, 1.0, 2.0]}, "not uniform"),
        ({"y": [0.0, 1.0, 2.0]}, "no coordinate 'x'"),
        ({"y": [0.0, np.nan, 2.0], "x": [0.0, 1.0, 2.0]}, "NaN"),
    ],
)
def test_unusable_coordinates_are_named(coords, text):
    image = xr.DataArray(np.zeros((3, 3)), dims=("y", "x"), coords=coords)
    with pytest.raises(InputError, match=text):
        grid_of(image, "fixed")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("start", [0.0, 1200.5, -103456.75])
def test_uniform_coordinates_are_so_within_their_precision(dtype, start):
    step = 0.108
    axis = (start + step * np.arange(200)).astype(dtype)
    grid = grid_of(xr.DataArray(np.zeros((200, 3)), [("y", axis), ("x", [0, 1, 2])]))
    last = grid.origin[0] + 199 * grid.spacing[0]
    np.testing.assert_allclose([grid.origin[0], last], axis[[0, -1]], atol=0.01)
    assert grid.spacing[0] == pytest.approx(step, rel=1e-3)


def test_coordinates_that_rounding_has_ruined_are_refused():
    axis = (1e6 + 0.108 * np.arange(200)).astype(np.float32)
    image = xr.DataArray(np.zeros((200, 3)), [("y", axis), ("x", [0, 1, 2])])
    with pytest.raises(InputError, match="not uniform"):
        grid_of(image)


def test_other_dimensions_are_refused():
    with pytest.raises(InputError, match="Rename"):
        grid_of(xr.DataArray(np.zeros((3, 3)), dims=("row", "col")))
    with pytest.raises(InputError, match="expected"):
        grid_of(xr.DataArray(np.zeros(3), dims="x", coords={"x": [0.0, 1.0, 2.0]}))
