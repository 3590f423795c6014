"""The verdict on a block."""

import numpy as np
import pytest

from tests.helpers.images import texture
from tests.helpers.windows import GRID, inputs
from xdreg.partition import BlockStatus
from xdreg.registration.judge import RECORD, judge
from xdreg.registration.window import read_window

WHOLE = (slice(0, 48), slice(0, 56))


@pytest.fixture(scope="module")
def window():
    """Return a pair whose moving image lies two voxels to the right."""
    fixed = texture(GRID.shape)
    return read_window(inputs(fixed, np.roll(fixed, 2, axis=1)), WHOLE, [4.0, 4.0])


def shift(voxels):
    update = np.zeros((2, *GRID.shape), np.float32)
    update[1] = voxels
    return update


def test_a_true_update_succeeds_and_its_numbers_are_told(window):
    status, patch, verdict = judge(window, shift(2.0), GRID, "lncc")
    assert status is BlockStatus.SUCCESS
    np.testing.assert_allclose(patch, shift(2.0), atol=1e-5)
    assert verdict["similarity_after"] > verdict["similarity_before"]
    assert verdict["max_update"] == pytest.approx(2.0, abs=1e-5)
    assert verdict.keys() <= set(RECORD)


def test_an_update_that_makes_it_worse_is_not_used(window):
    status, *_ = judge(window, shift(-3.0), GRID, "lncc")
    assert status is BlockStatus.NOT_IMPROVED


def test_an_update_farther_than_half_of_the_window_is_rejected(window):
    status, *_ = judge(window, shift(0.6 * GRID.shape[1]), GRID, "lncc")
    assert status is BlockStatus.REJECTED


def test_an_update_off_the_moving_image_is_rejected(window):
    update = np.zeros((2, *GRID.shape), np.float32)
    update[0], update[1] = 20.0, 26.0
    status, *_ = judge(window, update, GRID, "lncc")
    assert status is BlockStatus.REJECTED


@pytest.mark.parametrize("metric", ["lncc", "mind", "ncc", "mi"])
def test_any_metric_sees_the_true_update(window, metric):
    *_, before = judge(window, shift(0.0), GRID, metric)
    *_, after = judge(window, shift(2.0), GRID, metric)
    assert after["similarity_after"] > before["similarity_after"]
