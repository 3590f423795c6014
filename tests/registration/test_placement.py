"""Where a registration starts when the images do not overlap."""

import numpy as np
import pytest
import xarray as xr

import xdreg


def moved(image, by, units=None):
    """Return an image with other coordinates, and another name of their unit."""
    places = {dim: image[dim].values + step for dim, step in zip("yx", by, strict=True)}
    found = image.assign_coords(places)
    for dim in "yx":
        found[dim].attrs["units"] = units or image[dim].attrs["units"]
    return found


@pytest.fixture(scope="module")
def pair():
    return xdreg.datasets.phantom_pair((64, 72), amplitude=2.0, units="micrometer")


AFFINE = {"stages": xdreg.Affine(), "metric": "lncc", "progress": False}


@pytest.mark.parametrize("by", [(5e4, -3e4), (0.0, 900.0), (-70.0, 0.0)])
def test_images_that_do_not_overlap_start_centre_on_centre(pair, by, capsys):
    moving = moved(pair.moving, by)
    field = pair.fixed.dreg.register(moving, **AFFINE)
    errors = field.dreg.transform_points(pair.fixed_points) - by - pair.moving_points
    assert np.linalg.norm(errors, axis=1).mean() < 1.5
    assert "do not overlap; started centre on centre" in field.attrs["start"]
    assert "start" in repr(field.dreg)
    assert len(pair.fixed.dreg.plan(moving).stages) == 2


def test_the_start_is_not_said_where_images_overlap(pair):
    field = pair.fixed.dreg.register(pair.moving, **AFFINE)
    assert "start" not in field.attrs


def test_without_a_linear_stage(pair):
    moving = moved(pair.moving, (0.0, 900.0))
    stages = xdreg.LocalCorrelation(level=0, iterations=3)
    field = pair.fixed.dreg.register(moving, **AFFINE | {"stages": stages})
    assert abs(float(field.displacement.sel(component="x").mean()) - 900) < 5


def blob(at, shape=(60, 60), background=0.0, sign=1.0):
    grid = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    squares = sum((g - c) ** 2 for g, c in zip(grid, at, strict=True))
    values = background + sign * 100 * np.exp(-squares / 50)
    noise = np.random.default_rng(0).normal(0, 1, shape)
    coords = {d: np.arange(float(n)) for d, n in zip("yx", shape, strict=True)}
    return xr.DataArray((values + noise).astype(np.float32), coords, ("y", "x"))


@pytest.mark.parametrize(("background", "sign"), [(0.0, 1.0), (240.0, -1.0)])
def test_centers_of_mass(background, sign):
    look = {"background": background, "sign": sign}
    fixed, moving = blob((20, 40), **look), blob((35, 22), **look)
    stage = xdreg.LocalCorrelation(level=0, iterations=1)
    found = {}
    for name in ("centers", "centers_of_mass"):
        field = fixed.dreg.register(moving, initial=name, **AFFINE | {"stages": stage})
        found[name] = field.displacement.mean(("y", "x")).values
        assert "pose" not in field.attrs
    np.testing.assert_allclose(found["centers"], 0, atol=1)
    np.testing.assert_allclose(found["centers_of_mass"], [15, -18], atol=2)


def test_other_names_and_wrong_units_are_refused(pair):
    with pytest.raises(xdreg.InputError, match="'centers' or 'centers_of_mass'"):
        xdreg.plan(pair.fixed, pair.moving, initial="centres")
    for units in ("millimeter", "nanometer"):
        for function in (xdreg.plan, xdreg.register):
            with pytest.raises(xdreg.InputError, match="Is the unit of one of them"):
                function(pair.fixed, moved(pair.moving, (0, 0), units))
    # A matrix that mends it is taken.
    scale = np.diag([1e-3, 1e-3, 1.0])
    xdreg.plan(pair.fixed, moved(pair.moving, (0, 0), "nanometer"), initial=scale)
    # A small piece of a large image is no mistake.
    piece = pair.moving[:12, :12]
    assert xdreg.plan(pair.fixed, piece).stages
