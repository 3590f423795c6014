"""The moving image on the fixed grid: against ITK, whole and in parts."""

import itk
import numpy as np
import pytest
import xarray as xr

from tests.helpers.fields import (
    field_and_moving,
    noise,
    wavy,
)
from xdreg.fields import warp as resampling
from xdreg.grid import Grid


@pytest.mark.parametrize("ndim", [2, 3])
def test_warp_equals_itk(ndim):
    field, fixed = wavy(ndim)
    moving = noise(fixed)
    moved = field.dreg.warp(moving.chunk(8))
    assert moved.chunks is not None
    theirs = itk.resample_image_filter(
        moving.dreg.to_itk_image(),
        transform=field.dreg.to_itk_transform(),
        use_reference_image=True,
        reference_image=moving.dreg.to_itk_image(),
    )
    inner = (slice(2, -2),) * ndim
    np.testing.assert_allclose(
        moved.values[inner], np.asarray(theirs)[inner], atol=1e-3
    )


def test_warp_does_not_depend_on_chunks_and_loops_over_channels():
    field, fixed = wavy()
    moving = xr.concat([noise(fixed, s) for s in range(2)], "c").assign_coords(
        c=["a", "b"]
    )
    whole = field.dreg.warp(moving)
    like = noise(fixed).chunk(z=5, y=7, x=6)
    chunked = field.dreg.warp(moving.chunk(4), like=like)
    assert whole.dims == ("c", "z", "y", "x")
    assert list(whole.c.values) == ["a", "b"]
    np.testing.assert_array_equal(whole.values, chunked.values)
    single = field.dreg.warp(moving.isel(c=1))
    np.testing.assert_array_equal(whole.isel(c=1).values, single.values)


def test_warp_of_labels_invents_none():
    field, fixed = wavy()
    labels = (noise(fixed) * 5).astype("uint16") * 100
    moved = field.dreg.warp(labels, order=0)
    assert moved.dtype == np.uint16
    assert set(np.unique(moved.values)) <= set(np.unique(labels.values)) | {0}


def test_small_chunks_of_like_are_joined_and_change_nothing():
    """Each chunk of the result reads all source chunks that it touches."""
    field, fixed = wavy(2)
    wide = Grid(("y", "x"), (2100, 30), (0.01, 0.4), fixed.origin, fixed.units)
    like, moving = noise(wide), noise(fixed, seed=1)
    whole = field.dreg.warp(moving, like=like.chunk({"y": 2100}))
    joined = field.dreg.warp(moving, like=like.chunk({"y": 300, "x": 16}))
    assert whole.chunksizes == {"y": (2100,), "x": (30,)}
    assert joined.chunksizes == {"y": (900, 900, 300), "x": (30,)}
    np.testing.assert_array_equal(joined, whole)


def test_what_is_pressed_together_is_made_in_halves(monkeypatch):
    field, moving = field_and_moving(dtype="float32")
    for options in ({}, {"spacing": 20.0}, {"order": 3}):
        whole = field.dreg.warp(moving, **options).compute(scheduler="synchronous")
        with monkeypatch.context() as patch:
            patch.setattr(resampling, "MOST_VOXELS", 60_000)
            patch.setattr(resampling, "MOST_POINTS", 5_000)
            halves = field.dreg.warp(moving, **options).compute()
        np.testing.assert_allclose(halves, whole, atol=2e-2)
