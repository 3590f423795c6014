"""The foreground of images of many kinds."""

import numpy as np
import pytest
import scipy.ndimage

from xdreg.numerics.foreground import MARGIN, foreground, padding

SHAPE = (48, 52, 56)
RNG = np.random.default_rng(0)
PLACE = np.indices(SHAPE)


def texture(shape=SHAPE, sigma=2.0):
    values = scipy.ndimage.gaussian_filter(RNG.standard_normal(shape), sigma)
    return values / values.std()


def ball(radius, centre=(24, 26, 28)):
    centre = np.reshape(centre, (3, 1, 1, 1))
    return ((PLACE - centre) ** 2).sum(axis=0) < radius**2


BALL = ball(12)
NOISE = RNG.standard_normal(SHAPE)
RICE = np.abs(NOISE + 1j * RNG.standard_normal(SHAPE))
CONE = ((PLACE[1:] - np.array([26, 28])[:, None, None, None]) ** 2).sum(axis=0) < 24**2
LUNG = ((PLACE[1:] - np.array([26, 28])[:, None, None, None]) ** 2).sum(axis=0) < 6**2
BODY = ((PLACE[1:] - np.array([26, 28])[:, None, None, None]) ** 2).sum(axis=0) < 13**2
IMAGES = {
    "magnetic resonance": (np.where(BALL, 300 + 60 * texture(), 0) + 20 * RICE, BALL),
    "fluorescence": (
        100 + 5 * NOISE + ball(5) * (200 + 50 * texture()),
        ball(5),
    ),
    "bright field": (240 + 2 * NOISE - BALL * (90 + 30 * texture()), BALL),
    "padding": (np.where(BALL, texture(), -5.0), BALL),
    "no noise": (BALL.astype(float), BALL),
    # The lung reaches the first and the last plane.
    "scanner": (
        np.where(
            CONE, np.where(BODY & ~LUNG, 40 + 30 * texture(), -1000) + 15 * NOISE, -2048
        ),
        BODY,
    ),
    "specks": (
        100 + 5 * NOISE + BALL * (200 + 50 * texture()) + 500 * ball(2, (5, 5, 5)),
        BALL,
    ),
}


FILLED = {
    "texture": texture(),
    "fine texture": texture(sigma=0.7),
    "noise": NOISE,
    "hot voxel": 100 + 5 * NOISE + 6e4 * ball(1),
    "slope": 100 + PLACE[2] + 3 * NOISE,
    "tissue to the border": np.where(BODY, -850, 40)
    + 100 * ball(3, (24, 3, 28)) * 9
    + 30 * NOISE,
    "plane": texture((200, 220), 4.0),
    "constant": np.ones(SHAPE),
}


@pytest.mark.parametrize("name", IMAGES)
def test_the_content_is_inside_and_the_background_is_not(name):
    values, content = IMAGES[name]
    mask = foreground(values.astype(np.float32))
    assert mask[content].all()
    near = scipy.ndimage.binary_dilation(content, np.ones((3, 3, 3)), MARGIN[3] + 3)
    assert (mask & ~near).sum() < 0.01 * mask.size
    # The edge is inside, with a margin.
    edge = scipy.ndimage.binary_dilation(content, np.ones((3, 3, 3)), MARGIN[3])
    assert mask[edge].mean() > 0.99


@pytest.mark.parametrize("name", FILLED)
def test_a_filled_image_counts_all_over(name):
    assert foreground(FILLED[name].astype(np.float32)).all()


def test_dim_structure_is_mostly_kept():
    assert foreground(np.exp(texture()).astype(np.float32)).mean() > 0.8


def test_what_is_not_finite_is_no_content():
    values, content = IMAGES["magnetic resonance"]
    values = values.astype(np.float32)
    values[:8] = np.nan
    mask = foreground(values)
    assert mask[content].all()
    assert not mask[:8].any()


WEDGE = PLACE[1] < 0.5 * PLACE[0]
HALF = PLACE[2] < 20


@pytest.mark.parametrize("value", [0.0, -2048.0, 65535.0])
@pytest.mark.parametrize("padded", [WEDGE, HALF, ~CONE | np.zeros(SHAPE, bool)])
def test_padding_is_found_with_the_voxels_next_to_it(value, padded):
    image = np.where(padded, value, 100 + texture()).astype(np.float32)
    found = padding(image)
    assert found[padded].mean() > 0.99
    beyond = found & ~padded
    near = scipy.ndimage.binary_dilation(padded, np.ones((3, 3, 3)), 2)
    assert not (beyond & ~near).any()


def test_two_values_are_padding():
    image = np.where(WEDGE, 0.0, np.where(PLACE[2] > 50, 9.0, 100 + texture()))
    found = padding(image.astype(np.float32))
    assert found[WEDGE | (PLACE[2] > 50)].mean() > 0.99


@pytest.mark.parametrize("value", [-1.0, 65535.0])
def test_padding_around_the_background_of_an_object_leaves_its_outline(value):
    image = np.where(WEDGE, value, np.where(BALL, 5 + texture(), 0)).astype(np.float32)
    found = padding(image)
    assert found[WEDGE].mean() > 0.99
    assert (~found & (image == 0)).sum() > 0.3 * (image == 0).sum()


NO_PADDING = {
    "texture": texture(),
    "an object in zeros": np.where(BALL, 5 + texture(), 0),
    "a constant": np.full(SHAPE, 3.0),
    "zeros within noise": np.maximum(NOISE, 0),
    "a hole": np.where(BALL, 0, 5 + texture()),
    "nearly all padding": np.where(PLACE.sum(axis=0) < 8, texture(), 0),
    "unknown": np.full(SHAPE, np.nan),
    "one grey level left": np.where(HALF, 0.0, 7.0),
}


@pytest.mark.parametrize("name", NO_PADDING)
def test_what_counts_is_no_padding(name):
    assert padding(NO_PADDING[name].astype(np.float32)) is None


def test_padding_of_a_plane():
    plane = np.where(np.tri(60, 50, -10) > 0, 0.0, 50 + texture((60, 50)))
    found = padding(plane.astype(np.float32))
    assert found[np.tri(60, 50, -10) > 0].mean() > 0.99
    assert found.mean() < 0.5
