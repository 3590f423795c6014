"""Images as layers of napari, without napari."""

import types

import numpy as np
import pytest
import xarray as xr

import xdreg
from tests.helpers.fields import Known, noisy_moving
from tests.helpers.viewers import by_name
from xdreg.coordinates import coordinates, grid_of
from xdreg.grid import Grid
from xdreg.stores.napari_layers import layer_image, placement
from xdreg.views.napari_images import image_layers, scene_layers
from xdreg.views.scene import make_scene

DIMS = ("z", "y", "x")


def test_placement():
    grid = Grid(DIMS, (2, 3, 4), (3.0, 2.0, 1.0), (9.0, 0.0, -4.0), "millimeter")
    assert placement(grid) == {
        "scale": (3.0, 2.0, 1.0),
        "translate": (9.0, 0.0, -4.0),
        "units": ("millimeter",) * 3,
        "axis_labels": DIMS,
    }
    bare = Grid(DIMS, (2, 3, 4), (3.0, 2.0, 1.0), (9.0, 0.0, -4.0), "furlong")
    assert placement(bare)["units"] == ("pixel",) * 3


def test_channels_and_time_become_layers_and_an_axis():
    values = np.arange(2 * 3 * 6 * 8, dtype=np.uint16).reshape(2, 3, 6, 8)
    grid = Grid(("y", "x"), (6, 8), (2.0, 1.0), (1.0, 0.0), "micrometer")
    image = xr.DataArray(
        values, dims=("c", "t", "y", "x"), coords=coordinates(grid)
    ).assign_coords(c=["dapi", "gfp"], t=[5.0, 5.5, 6.0])
    image["t"].attrs["units"] = "second"
    layers = by_name(image_layers(image, "cells"))
    assert list(layers) == ["cells dapi", "cells gfp"]
    for i, (data, options, kind) in enumerate(layers.values()):
        np.testing.assert_array_equal(np.asarray(data), values[i])
        assert kind == "image"
        assert options["scale"] == (0.5, 2.0, 1.0)
        assert options["translate"] == (5.0, 1.0, 0.0)
        assert options["units"] == ("second", "micrometer", "micrometer")
        assert options["visible"] == (i == 0)


def test_rgb_is_one_layer():
    values = np.arange(3 * 6 * 8, dtype=np.uint8).reshape(3, 6, 8)
    grid = Grid(("y", "x"), (6, 8), (2.0, 1.0), (1.0, 0.0))
    image = xr.DataArray(values, dims=("c", "y", "x"), coords=coordinates(grid))
    ((data, options, _),) = image_layers(image, "slide")
    assert options["rgb"]
    np.testing.assert_array_equal(np.asarray(data), np.moveaxis(values, 0, -1))


def test_levels_stay_lazy(tmp_path):
    pair = xdreg.datasets.phantom_pair((130, 150))
    xdreg.save(pair.fixed, tmp_path / "fixed.ome.zarr")
    tree = xdreg.open_ome_zarr(tmp_path / "fixed.ome.zarr")
    ((data, options, _),) = image_layers(tree, "fixed", "magenta")
    assert options["multiscale"]
    assert [level.shape for level in data] == [(130, 150), (65, 75), (32, 37)]
    assert all(level.dask for level in data)
    assert options["colormap"] == "magenta"
    assert options["metadata"]["grids"][2].spacing == (4.0, 4.0)


def test_scene_layers_share_one_space():
    known = Known(3, 10)
    moving = noisy_moving(known)
    fixed = moving.isel(z=slice(4, None))
    layers = by_name(scene_layers(make_scene(known.field, fixed, moving)))
    assert list(layers) == ["fixed", "moving", "warped"]
    for name, image in (("fixed", fixed), ("warped", fixed), ("moving", moving)):
        grid = grid_of(image)
        data, options, _ = layers[name]
        assert options["scale"] == grid.spacing
        assert options["translate"] == grid.origin
        assert options["units"] == ("micrometer",) * 3
        assert data.shape == grid.shape
    assert not layers["moving"][1]["visible"]


def layer(data, **options):
    """Return what `layer_image` looks at, as napari has it."""
    ndim = np.ndim(data) if not isinstance(data, list) else np.ndim(data[0])
    fields = {
        "data": data,
        "ndim": ndim,
        "name": "cells",
        "axis_labels": DIMS[-ndim:],
        "scale": np.ones(ndim),
        "translate": np.zeros(ndim),
        "units": ("micrometer",) * ndim,
        "multiscale": isinstance(data, list),
        "metadata": {},
    }
    return types.SimpleNamespace(**(fields | options))


def test_layer_image():
    values = np.random.default_rng(0).random((5, 6, 7))
    place = {"scale": (3.0, 2.0, 1.0), "translate": (1.0, 0.0, -2.0)}
    image = layer_image(layer(values, **place), "fixed")
    expected = Grid(DIMS, values.shape, *place.values(), "micrometer")
    assert grid_of(image) == expected
    bare = layer_image(layer(values, units=("pixel",) * 3), "fixed")
    assert grid_of(bare).units is None
    levels = [values, values[:, ::2, ::2]]
    finest = layer_image(layer(levels, **place), "fixed")
    assert grid_of(finest) == expected
    known = {"grids": (expected, expected.coarsen((1, 2, 2)))}
    tree = layer_image(layer([values, values[:, :3, :3]], metadata=known, **place), "a")
    assert grid_of(tree["scale1/image"]) == known["grids"][1]
    moved = layer([values, values[:, :3, :3]], metadata=known)
    assert grid_of(layer_image(moved, "a")).spacing == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"axis_labels": ("t", "y", "x")}, "per time point"),
        ({"units": ("second", "pixel", "pixel")}, "different units"),
    ],
)
def test_layers_that_are_no_plain_image(options, message):
    with pytest.raises(xdreg.InputError, match=message):
        layer_image(layer(np.zeros((3, 4, 5)), **options), "moving")
