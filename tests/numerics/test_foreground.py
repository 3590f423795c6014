"""Automatic masks: what counts of images of many kinds, and what a run makes of it."""

import json

import numpy as np
import pytest
import scipy.ndimage
import xarray as xr

import xdreg
from xdreg.coordinates import coordinates
from xdreg.grid import Grid
from xdreg.numerics.foreground import MARGIN, foreground
from xdreg.partition import BlockStatus

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


def noisy_pair(shape=(48, 96, 96)):
    """Return a phantom in the corner of a volume of noise, both images."""
    small = xdreg.datasets.phantom_pair((40, 44, 44), amplitude=2.0, noise=0.0)
    grid = Grid(("z", "y", "x"), shape, (1.0,) * 3, (0.0,) * 3, "micrometer")
    rng = np.random.default_rng(3)
    images = []
    for part in (small.fixed, small.moving):
        values = 500 + 300 * rng.standard_normal(shape).astype(np.float32)
        values[4:44, 4:48, 4:48] += part.values
        images.append(xr.DataArray(values, dims=grid.dims, coords=coordinates(grid)))
    return images


def test_blocks_of_background_are_skipped_and_the_mask_is_told(tmp_path):
    fixed, moving = noisy_pair()
    options = {
        "fixed_mask": "auto",
        "stages": [xdreg.LocalCorrelation(level=0, iterations=10)],
        "block_shape": 32,
        "workdir": tmp_path / "run",
        "progress": False,
    }
    field = fixed.dreg.register(moving, **options)
    status = field.block_status.values
    assert (status[:, -1, -1] == BlockStatus.EMPTY).all()
    assert (status[:, 0, 0] == BlockStatus.SUCCESS).all()
    made = json.loads(field.attrs["xdreg"])
    assert made["fixed_mask"]["auto"] is True
    assert 0.1 < made["fixed_mask"]["share"] < 0.5
    assert made["moving_mask"] is None
    # Where nothing counts, nothing moves.
    assert float(np.abs(field.displacement[:, :, -6:, -6:]).max()) == 0
    again = fixed.dreg.register(moving, **options)
    np.testing.assert_array_equal(again.displacement, field.displacement)
    assert again.attrs == field.attrs
    with pytest.raises(xdreg.InputError, match="What differs: fixed_mask"):
        fixed.dreg.register(moving, **options | {"fixed_mask": None})


def test_a_mask_is_no_narrower_than_its_image():
    """A coarse level ends up to a voxel before its image."""
    seen = []

    def look(fixed, moving):
        seen.append(fixed.mask.values)
        return xr.DataArray(
            np.zeros((2, *fixed.shape), np.float32), dims=("component", "y", "x")
        )

    values = np.zeros((1031, 1031), np.float32)
    values[300:, 300:] = 1 + RNG.random((731, 731))
    grid = Grid(("y", "x"), values.shape, (1.0, 1.0), (0.0, 0.0), "micrometer")
    image = xr.DataArray(values, dims=grid.dims, coords=coordinates(grid))
    stages = [xdreg.Custom(method=look, level=0, isolated=False)]
    image.dreg.register(
        image, stages=stages, fixed_mask="auto", block_shape=2048, progress=False
    )
    assert seen[0][300:, 300:].all()
    assert not seen[0][:250, :250].any()


def test_linear_stages_see_the_outline(monkeypatch):
    seen = {}

    def look(name, result):
        def method(inputs, *arguments, **options):
            seen[name] = inputs.fixed_mask
            return result(inputs, *arguments, **options)

        return method

    linear = xdreg.registration.linear_stage.register_linear
    monkeypatch.setattr(
        xdreg.registration.linear_stage, "register_linear", look("linear", linear)
    )
    window = xdreg.registration.register_block.read_window
    monkeypatch.setattr(
        xdreg.registration.register_block, "read_window", look("blocks", window)
    )
    pair = xdreg.datasets.phantom_pair((120, 140), amplitude=2.0)
    stages = [xdreg.Translation(), xdreg.LocalCorrelation(level=0, iterations=2)]
    pair.fixed.dreg.register(
        pair.moving, stages=stages, fixed_mask="auto", progress=False
    )
    assert seen["linear"] is None
    assert seen["blocks"] is not None


@pytest.mark.filterwarnings("ignore:no block of stage")
def test_a_mask_that_says_nothing_is_doubted():
    pair = xdreg.datasets.phantom_pair((96, 112))
    filled = pair.fixed.copy(data=texture((96, 112)).astype(np.float32))
    stages = [xdreg.LocalCorrelation(level=0, iterations=1)]
    with pytest.warns(UserWarning, match="fixed_mask='auto' found no background"):
        filled.dreg.register(filled, stages=stages, fixed_mask="auto", progress=False)
    pair = xdreg.datasets.phantom_pair((196, 212))
    tiny = pair.moving.copy(data=np.zeros((196, 212), np.float32))
    tiny[50, 50] = 1.0
    with pytest.warns(UserWarning, match="moving_mask='auto' leaves"):
        filled.dreg.register(tiny, stages=stages, moving_mask="auto", progress=False)
    with pytest.raises(xdreg.InputError, match="fixed_mask must be an image or 'auto'"):
        filled.dreg.register(filled, fixed_mask="otsu", progress=False)
