"""Registrations with masks found automatically."""

import json

import numpy as np
import pytest
import xarray as xr

import xdreg
from tests.helpers.images import (
    texture,
)
from xdreg.coordinates import coordinates
from xdreg.grid import Grid
from xdreg.partition import BlockStatus

RNG = np.random.default_rng(0)


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
    # Next to the constant part coarse voxels mix both.
    assert seen[0][320:, 320:].all()
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
    filled = pair.fixed.copy(data=texture((96, 112), 2.0).astype(np.float32))
    stages = [xdreg.LocalCorrelation(level=0, iterations=1)]
    with pytest.warns(UserWarning, match="fixed_mask='auto' found no background"):
        filled.dreg.register(filled, stages=stages, fixed_mask="auto", progress=False)
    pair = xdreg.datasets.phantom_pair((196, 212))
    tiny = pair.moving.copy(data=np.zeros((196, 212), np.float32))
    tiny[50, 50] = 1.0
    with pytest.warns(UserWarning, match="moving_mask='auto' leaves"):
        filled.dreg.register(tiny, stages=stages, moving_mask="auto", progress=False)
    with pytest.raises(
        xdreg.InputError, match="fixed_mask must be an image, False or 'auto'"
    ):
        filled.dreg.register(filled, fixed_mask="otsu", progress=False)
