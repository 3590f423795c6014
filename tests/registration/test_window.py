"""The window of a block: what is read for it, or why nothing is."""

from dataclasses import replace

import numpy as np
import pytest

from tests.helpers.images import texture
from tests.helpers.windows import GRID, inputs, reader
from xdreg.partition import BlockStatus
from xdreg.registration.window import masked_image, read_window

PART = (slice(8, 40), slice(10, 50))
MARGIN = [4.0, 4.0]


def test_both_images_are_read_on_the_window():
    values = texture(GRID.shape)
    window = read_window(inputs(values, values), PART, MARGIN)
    assert window.grid == GRID.window(PART)
    np.testing.assert_array_equal(window.fixed, values[PART])
    np.testing.assert_allclose(window.moving, values[PART], atol=1e-5)
    assert window.fixed_mask.all()


def test_a_mask_and_nan_do_not_count():
    values, mask = texture(GRID.shape), np.ones(GRID.shape, np.uint8)
    mask[:, :20] = 0
    holed = values.copy()
    holed[30] = np.nan
    window = read_window(inputs(holed, values, fixed_mask=mask), PART, MARGIN)
    assert not window.fixed_mask[:, :10].any()
    assert not window.fixed_mask[22].any()
    fixed, moving = window.images()
    assert np.isfinite(fixed).all()
    assert not fixed["mask"][22].any()
    assert moving["mask"].all()


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_constant_window_is_empty(value):
    constant = np.full(GRID.shape, value, np.float32)
    found = read_window(inputs(constant, texture(GRID.shape)), PART, MARGIN)
    assert found is BlockStatus.EMPTY


def test_a_moving_image_elsewhere_does_not_overlap():
    away = replace(GRID, origin=(500.0, 0.0))
    found = read_window(
        inputs(texture(GRID.shape), texture(GRID.shape), away), PART, MARGIN
    )
    assert found is BlockStatus.NO_OVERLAP


def test_a_moving_mask_of_nothing_does_not_overlap():
    nothing = np.zeros(GRID.shape, np.uint8)
    pair = inputs(texture(GRID.shape), texture(GRID.shape), moving_mask=nothing)
    assert read_window(pair, PART, MARGIN) is BlockStatus.NO_OVERLAP


def test_a_few_voxels_are_too_few():
    few = np.zeros(GRID.shape, np.uint8)
    few[10:14, 12:16] = 1
    pair = inputs(texture(GRID.shape), texture(GRID.shape), fixed_mask=few)
    assert read_window(pair, PART, MARGIN) is BlockStatus.TOO_FEW_SAMPLES


def test_further_channels_are_stacked_for_the_method():
    values = texture(GRID.shape)
    other = reader(values**2)
    pair = replace(inputs(values, values), others=((other, other),))
    fixed, moving = read_window(pair, PART, MARGIN).images()
    assert fixed.dims == moving.dims == ("c", "y", "x")
    np.testing.assert_array_equal(fixed[1], values[PART] ** 2)


def test_voxels_without_a_value_take_the_smallest_one():
    values = texture(GRID.shape)
    values[5, 5] = np.nan
    image = masked_image(values, np.isfinite(values), GRID)
    assert float(image[5, 5]) == np.nanmin(values)
