"""Layers of napari given to functions in place of images."""

import dask.array
import numpy as np
import pytest
import xarray as xr

import xdreg
from xdreg.coordinates import grid_of

layers = pytest.importorskip("napari.layers")

VALUES = np.random.default_rng(0).random((48, 56))
PLACE = {"scale": (2.0, 0.5), "translate": (3.0, -7.0), "units": ("um", "um")}


def test_layers_are_registered_where_they_lie():
    pair = xdreg.datasets.phantom_pair((64, 72), amplitude=2.0)
    place = {"scale": (2.0, 2.0), "translate": (5.0, 6.0), "units": ("um", "um")}
    fixed, moving = (
        layers.Image(image.values, **place) for image in (pair.fixed, pair.moving)
    )
    field = xdreg.register(fixed, moving, progress=False, stages="local_correlation")
    images = [
        xdreg.make_image(image.values, 2.0, (5.0, 6.0), "um")
        for image in (pair.fixed, pair.moving)
    ]
    same = xdreg.register(*images, progress=False, stages="local_correlation")
    xr.testing.assert_equal(field.displacement, same.displacement)
    xr.testing.assert_equal(field.dreg.warp(moving), same.dreg.warp(images[1]))


@pytest.mark.parametrize(
    ("data", "options", "units"),
    [
        (VALUES, PLACE, "micrometer"),
        (dask.array.from_array(VALUES, chunks=16), PLACE, "micrometer"),
        ([VALUES, VALUES[::2, ::2]], PLACE | {"multiscale": True}, "micrometer"),
        (VALUES, PLACE | {"units": None}, None),
    ],
)
def test_the_place_and_the_unit_of_a_layer(data, options, units):
    image = xdreg.make_image(layers.Image(data, **options))
    (level,) = xdreg.image_levels(image, "image")
    grid = grid_of(level)
    assert (grid.spacing, grid.origin) == ((2.0, 0.5), (3.0, -7.0))
    assert grid.units == units
    np.testing.assert_array_equal(level, VALUES)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((48, 56), {"rotate": 20}, "rotated.*Plugins › Register"),
        ((48, 56), {"affine": np.diag([2.0, 1, 1])}, "affine"),
        ((2, 48, 56), {"axis_labels": ("c", "y", "x")}, "one layer per .*channel"),
        ((2, 48, 56), {"axis_labels": ("T", "y", "x")}, "one layer per time point"),
        ((48, 56), {"units": ("um", "mm")}, "different units"),
    ],
)
def test_a_layer_that_is_no_image(shape, options, message):
    layer = layers.Image(np.zeros(shape), **options)
    with pytest.raises(xdreg.InputError, match=message):
        xdreg.plan(layer, layer)


def test_attributes_of_an_array_make_no_layer():
    image = xdreg.make_image(VALUES, 1.0, units="um")
    names = ("scale", "translate", "axis_labels", "data_to_world")
    odd = image.assign_attrs(dict.fromkeys(names, 1))
    assert len(xdreg.image_levels(odd, "image")) == 1
