"""The initial translation chooses what fits."""

import numpy as np
import pytest
import xarray as xr

from xdreg.coordinates import coordinates
from xdreg.errors import InputError
from xdreg.grid import Grid
from xdreg.initialise import initial_translation

GRID = Grid(("z", "y", "x"), (40, 50, 70), (2.0, 1.5, 1.0), (10.0, -30.0, 0.0), "meter")


def blob(grid, centre, mask=None):
    """Return an uneven bright body on a grey background."""
    points = grid.index_to_physical(np.moveaxis(np.indices(grid.shape), 0, -1))
    distance = (points - centre) / ([8.0, 9.0, 10.0][-grid.ndim :])
    body = 5.0 * np.exp(-((distance**2).sum(axis=-1)))
    body += 3.0 * np.exp(-(((distance - 0.8) ** 2).sum(axis=-1)) * 4.0)
    image = xr.DataArray(100.0 + body, coordinates(grid), grid.dims)
    return image if mask is None else image.assign_coords(mask=(grid.dims, mask))


def test_equal_images_stay():
    image = blob(GRID, GRID.centre)
    matrix, name = initial_translation(image, image)
    assert name == "identity"
    np.testing.assert_array_equal(matrix, np.eye(4))


def test_another_field_of_view_is_centred():
    far = Grid(GRID.dims, GRID.shape, GRID.spacing, (500.0, 500.0, 500.0), GRID.units)
    matrix, name = initial_translation(blob(GRID, GRID.centre), blob(far, far.centre))
    assert name == "centres"
    np.testing.assert_allclose(matrix[:3, 3], far.centre - GRID.centre)


@pytest.mark.parametrize("flat", [False, True])
def test_a_body_elsewhere_is_found_by_its_mass(flat):
    grid = GRID
    if flat:
        grid = Grid(("y", "x"), (50, 70), (1.5, 1.0), (-30.0, 0.0), GRID.units)
    shift = np.array([12.0, -14.0, 16.0])[-grid.ndim :]
    centre = grid.centre
    matrix, name = initial_translation(
        blob(grid, centre - shift / 2), blob(grid, centre + shift / 2)
    )
    assert name == "masses"
    np.testing.assert_allclose(matrix[:-1, -1], shift, atol=3.0)


def test_mask_and_nan_do_not_count():
    shift = np.array([12.0, -14.0, 16.0])
    mask = np.ones(GRID.shape, bool)
    mask[:6] = False
    fixed = blob(GRID, GRID.centre - shift / 2, mask)
    fixed[:6] = 1e6
    moving = blob(GRID, GRID.centre + shift / 2)
    moving[0, 0, 0] = np.nan
    matrix, name = initial_translation(fixed, moving)
    assert name == "masses"
    np.testing.assert_allclose(matrix[:3, 3], shift, atol=3.0)


def test_constant_images_stay_where_they_are():
    image = xr.zeros_like(blob(GRID, GRID.centre))
    assert initial_translation(image, image)[1] == "identity"


def test_units_must_agree():
    image = blob(GRID, GRID.centre)
    other = Grid(GRID.dims, GRID.shape, GRID.spacing, GRID.origin, "millimeter")
    with pytest.raises(InputError, match="millimeter"):
        initial_translation(image, blob(other, other.centre))
