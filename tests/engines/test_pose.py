"""Search for the initial pose."""

import numpy as np
import pytest
from scipy import ndimage

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
from xdreg.engines import pose
from xdreg.engines.pose import Pose, find_pose
from xdreg.engines.pose_text import DOUBTFUL, pose_text
from xdreg.grid import Grid


@pytest.mark.parametrize(
    ("grid", "degrees"), [(FLAT, 170.0), (FLAT, -75.0), (SOLID, 40.0)]
)
def test_a_pose_far_away_is_found(grid, degrees):
    truth = about_centre(
        grid, rotation(grid.ndim, degrees), 0.15 * np.multiply(grid.shape, grid.spacing)
    )
    fixed = body(grid)
    start = find_pose(fixed, moved(fixed, truth), kind="rigid").matrix
    assert corner_error(start, truth, grid) < 4


@pytest.mark.parametrize("seed", [0, 2])
def test_any_turn_of_a_volume_is_found(seed):
    turn, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    truth = about_centre(SOLID, turn, [3.0, -2.0, 4.0])
    fixed = body(SOLID)
    found = find_pose(fixed, moved(fixed, truth))
    assert corner_error(found.matrix, truth, SOLID) < 4


@pytest.mark.parametrize("axis", [0, 2])
def test_an_upside_down_volume_is_found(axis):
    turn = -np.eye(3)
    turn[axis, axis] = 1
    truth = about_centre(SOLID, turn, [3.0, -2.0, 4.0])
    fixed = body(SOLID)
    found = find_pose(fixed, moved(fixed, truth), kind="rigid")
    assert corner_error(found.matrix, truth, SOLID) < 4
    assert found.turn == pytest.approx(180, abs=5)


#: In place of a thorough search, which takes seconds.
LITTLE = pose.Effort(looked=4, scaled=2, refined=1, finalists=3)
FEW = pose._all_turns()[:24]


@pytest.fixture
def searched_once(monkeypatch):
    """Keep the poses of a pair of images, which is the same in all of a test."""
    found, best = {}, pose._Search.best

    def once(self, effort, *, mirrored=False):
        key = mirrored, effort
        if key not in found:
            found[key] = best(self, effort, mirrored=mirrored)
        return found[key]

    monkeypatch.setattr(pose._Search, "best", once)


@pytest.mark.usefixtures("searched_once")
@pytest.mark.parametrize(("grid", "degrees"), [(FLAT, 100.0), (SOLID, 30.0)])
@pytest.mark.parametrize("metric", ["lncc", "mind"])
def test_a_mirrored_image_is_seen(grid, degrees, metric):
    mirror = np.diag([-1.0] + [1.0] * (grid.ndim - 1))
    truth = about_centre(grid, rotation(grid.ndim, degrees) @ mirror, [3.0] * grid.ndim)
    fixed = body(grid)
    moving = moved(fixed, truth)
    told = find_pose(fixed, moving, metric=metric)
    assert np.linalg.det(told.matrix) > 0
    assert corner_error(told.mirrored.matrix, truth, grid) < 4
    assert Pose.from_json(told.to_json()).mirrored.score > told.score
    taken = find_pose(fixed, moving, metric=metric, allow_mirror=True)
    assert corner_error(taken.matrix, truth, grid) < 4
    assert taken.mirrored is None
    assert "a mirror and a turn" in pose_text(taken.to_dict(), None)


@pytest.mark.parametrize("grid", [FLAT, SOLID])
def test_images_that_are_not_mirrored_stay_so(grid, monkeypatch):
    truth = about_centre(grid, rotation(grid.ndim, 100.0), [3.0] * grid.ndim)
    fixed = body(grid)
    found = find_pose(fixed, moved(fixed, truth), allow_mirror=True)
    assert corner_error(found.matrix, truth, grid) < 4
    monkeypatch.setitem(pose.USUAL, grid.ndim, LITTLE)
    monkeypatch.setattr(pose, "THOROUGH", LITTLE)
    monkeypatch.setattr(pose, "_all_turns", lambda: FEW)
    small = grid.every((2,) * grid.ndim)
    nothing = image(np.random.default_rng(1).standard_normal(small.shape), small)
    assert find_pose(body(small), nothing).mirrored is None


def test_where_images_lie_already_wins_over_equals():
    rng = np.random.default_rng(0)
    tile = rng.standard_normal((30, 22))
    fixed = image(np.tile(tile, (3, 5)), FLAT)
    found = find_pose(fixed, fixed, kind="rigid").matrix
    np.testing.assert_allclose(found, np.eye(3), atol=1e-6)


def test_a_doubtful_pose_of_a_volume_is_searched_for_again(monkeypatch):
    efforts, best = [], pose._Search.best

    def seen(self, effort, *, mirrored=False):
        efforts.append(effort)
        return best(self, effort, mirrored=mirrored)

    monkeypatch.setattr(pose._Search, "best", seen)
    some = pose.Effort(looked=5, scaled=2, refined=1, finalists=4)
    monkeypatch.setitem(pose.USUAL, 3, some)
    monkeypatch.setattr(pose, "_all_turns", lambda: FEW)
    monkeypatch.setattr(pose, "THOROUGH", LITTLE)
    small = Grid(("z", "y", "x"), (20, 22, 24), (1.0,) * 3, (0.0,) * 3)
    noise = np.random.default_rng(0).standard_normal((2, *small.shape))
    find_pose(*(image(values, small) for values in noise), kind="rigid")
    assert efforts == [some, some.less(), LITTLE]
    efforts.clear()
    fixed = image(ndimage.gaussian_filter(noise[0], 2), small)
    find_pose(fixed, fixed, kind="rigid")
    assert LITTLE not in efforts


def test_a_cropped_and_turned_image_is_found():
    truth = about_centre(SOLID, 0.9 * rotation(3, 33.0), [8.0, -9.0, 6.0])
    fixed = body(SOLID)
    moving = moved(fixed, truth).isel(y=slice(0, 34), x=slice(9, None))
    found = find_pose(fixed, moving)
    assert corner_error(found.matrix, truth, SOLID) < 4
    assert found.margin > DOUBTFUL
    assert found.origin == "search"
    assert found.scale == pytest.approx(0.9, abs=0.03)
    low, high = (np.asarray(b) for b in SOLID.bounds)
    centre = (low + high) / 2
    mapped = found.matrix[:-1, :-1] @ centre + found.matrix[:-1, -1]
    np.testing.assert_allclose(found.shift, mapped - centre)
