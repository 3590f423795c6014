"""Blur that gives two images the same resolution."""

import numpy as np
import pytest
from scipy import ndimage

from xdreg.numerics.resolution import blurred, blurs

TURNED = np.array([[0.0, 0, -1], [0, 1, 0], [1, 0, 0]])


def test_images_of_like_voxels_are_not_blurred():
    fixed, moving = blurs((1.0, 1, 1), (1.5, 1, 0.7), np.eye(3))
    assert not fixed.any()
    assert not moving.any()


@pytest.mark.parametrize("jacobian", [np.eye(3), TURNED, 0.5 * np.eye(3)])
def test_the_finer_image_is_blurred_along_the_other_s_axis(jacobian):
    spacing = np.array([4.0, 1, 1])
    fixed, moving = blurs(
        (1.0, 1, 1), np.linalg.norm(jacobian, axis=0)[0] * spacing, jacobian
    )
    axis = int(np.argmax(np.abs(np.linalg.inv(jacobian))[:, 0]))
    assert np.flatnonzero(fixed).tolist() == [axis]
    assert fixed[axis] == pytest.approx(np.sqrt(15 / 12))
    assert not moving.any()
    # The other way round.
    other, same = blurs(spacing, (1.0, 1, 1), np.eye(3))
    assert np.flatnonzero(same).tolist() == [0]
    assert not other.any()


def test_blur_has_the_variance_of_a_longer_voxel():
    point = np.zeros((41, 5), np.float32)
    point[20, 2] = 1
    found = blurred(point, np.array([np.sqrt(15 / 12), 0]))
    place = np.arange(41) - 20
    assert (found[:, 2] * place**2).sum() == pytest.approx(15 / 12, rel=0.02)
    assert found[:, [0, 1, 3, 4]].max() == 0


def test_what_is_unknown_has_no_weight_and_remains():
    rng = np.random.default_rng(0)
    values = ndimage.gaussian_filter(rng.standard_normal((30, 20)), 2).astype(
        np.float32
    )
    values[:, 12:] = np.nan
    found = blurred(values, np.array([1.1, 1.1]))
    assert np.isnan(found[:, 12:]).all()
    assert np.isfinite(found[:, :12]).all()
    constant = np.where(np.isnan(values), values, np.float32(3))
    np.testing.assert_allclose(
        blurred(constant, np.array([2.0, 2]))[:, :12], 3, rtol=1e-5
    )
