"""The fit of linear transforms."""

import numpy as np
import pytest

from tests.helpers.images import (
    FLAT,
    SOLID,
    about_centre,
    body,
    corner_error,
    image,
    moved,
    rotation,
)
from xdreg.engines.linear import Volume, fit, levels, linear
from xdreg.engines.pose import find_pose
from xdreg.errors import MethodTimeout
from xdreg.grid import Grid


@pytest.mark.parametrize("grid", [FLAT, SOLID])
@pytest.mark.parametrize("metric", ["lncc", "mind"])
def test_a_small_affine_is_found(grid, metric):
    shear = rotation(grid.ndim, 4.0) @ np.diag([1.03, 0.97, 1.0][: grid.ndim])
    truth = about_centre(grid, shear, np.array([2.0, -1.5, 1.0])[: grid.ndim])
    fixed = body(grid)
    found = linear(fixed, moved(fixed, truth), kind="affine", metric=metric)
    assert corner_error(found, truth, grid) < 0.6


@pytest.mark.parametrize("kind", ["translation", "rigid", "similarity"])
def test_a_kind_allows_no_more_than_it_says(kind):
    truth = about_centre(SOLID, 1.04 * rotation(3, 5.0), [1.0, 2.0, -1.0])
    fixed = body(SOLID)
    part = linear(fixed, moved(fixed, truth), kind=kind)[:-1, :-1]
    size = np.cbrt(np.linalg.det(part))
    if kind == "translation":
        np.testing.assert_allclose(part, np.eye(3), atol=1e-12)
    else:
        np.testing.assert_allclose(part @ part.T, size**2 * np.eye(3), atol=1e-9)
    assert size == pytest.approx(1.04 if kind == "similarity" else 1.0, abs=0.01)


def test_levels_start_by_their_size():
    """An axis that is short makes no level coarser than it needs to be."""
    dims, origin = ("z", "y", "x"), (0.0, 0.0, 0.0)
    for shape, coarsest in (((64, 40, 30), 2.0), ((96, 96, 96), 4.0)):
        grid = Grid(dims, shape, (1.0, 1.0, 1.0), origin)
        first = levels(Volume(np.zeros(shape, np.float32), grid))[0]
        assert first == (coarsest,) * 3


def test_what_is_masked_does_not_count():
    truth = about_centre(SOLID, rotation(3, 6.0), [3.0, -3.0, 2.0])
    fixed = body(SOLID)
    moving = moved(fixed, truth)
    keep = np.ones(SOLID.shape, bool)
    keep[:, :10] = False
    values = np.where(keep, fixed.values, 50.0)
    found = linear(image(values, SOLID, keep), moving, kind="rigid")
    assert corner_error(found, truth, SOLID) < 0.6


def test_nothing_to_see_leaves_the_start():
    flat = image(np.ones(FLAT.shape), FLAT)
    start = about_centre(FLAT, np.eye(2), [1.0, 2.0])
    np.testing.assert_array_equal(linear(flat, flat, initial=start), start)
    np.testing.assert_array_equal(find_pose(flat, flat).matrix, np.eye(3))


def test_timeout():
    fixed = body(SOLID)
    with pytest.raises(MethodTimeout, match="allow more time"):
        linear(fixed, moved(fixed, about_centre(SOLID, np.eye(3), 2.0)), timeout=1e-9)


def test_a_fit_never_ends_below_its_start():
    fixed, other = (Volume.of(body(SOLID, seed), "image") for seed in (0, 1))
    still = fit(fixed, other, np.eye(4), kind="affine", iterations=0)[1]
    assert fit(fixed, other, np.eye(4), kind="affine")[1] >= still
