"""A slow factor of brightness between two images is found and removed."""

import numpy as np
import pytest
from scipy import ndimage

from xdreg.numerics.brightness import matched_brightness


def texture(shape):
    noise = np.random.default_rng(0).normal(size=shape)
    smooth = ndimage.gaussian_filter(noise, 1.5)
    return (100 + 30 * smooth / smooth.std()).astype(np.float32)


@pytest.mark.parametrize("shape", [(40, 48, 44), (1, 90, 120), (3, 64, 72)])
@pytest.mark.parametrize("offsets", [(0, 0), (500, -300)])
def test_light_from_opposite_sides_is_evened_out(shape, offsets):
    moving = texture(shape)
    along = np.linspace(0, 1, shape[1], dtype=np.float32)[:, None]
    fixed = moving * np.exp(-along) + offsets[0]
    other = moving * np.exp(along - 1) + offsets[1]
    found = matched_brightness(fixed, other, tuple(6 if n > 1 else 0 for n in shape))
    before, after = (
        np.ptp(
            [
                np.polyfit(other[:, rows].ravel(), image[:, rows].ravel(), 1)[0]
                for rows in (slice(8, 20), slice(-20, -8))
            ]
        )
        for image in (fixed, found)
    )
    assert after < 0.15 * before


def test_what_is_unknown_stays_unknown_and_does_not_count():
    moving = texture((40, 48, 44))
    fixed = moving * np.linspace(1, 3, 40, dtype=np.float32)[:, None, None]
    fixed[:, :12] = np.nan
    moving[:, 20:24] = np.nan
    found = matched_brightness(fixed, moving, (6, 6, 6))
    assert (np.isnan(found) == np.isnan(fixed)).all()
    # Both ends of the ramp are as bright as each other, relative to moving.
    low, high = (
        np.polyfit(moving[part].ravel(), found[part].ravel(), 1)[0]
        for part in (np.s_[:10, 24:], np.s_[30:, 24:])
    )
    assert 0.85 < low / high < 1.15


def test_other_images_are_returned_as_they_are():
    moving = texture((40, 48, 44))
    other = texture((40, 48, 45))[..., 1:]
    ramp = np.linspace(1, 3, 40, dtype=np.float32)[:, None, None]
    for fixed, against in (
        (1.5 * moving + 20, moving),
        (ramp * other, moving),
        (np.full_like(moving, np.nan), moving),
        (np.zeros_like(moving), moving),
        (ramp[:2] * moving[:2, :3], moving[:2, :3]),
    ):
        assert matched_brightness(fixed, against, (6, 6, 6)) is fixed
