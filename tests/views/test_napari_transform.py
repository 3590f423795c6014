"""Layers for napari, without napari: what they hold, and where they lie."""

import json
import types

import numpy as np
import pytest
import xarray as xr

import xdreg
from tests.helpers.fields import Known, Watched, noisy_moving
from xdreg.coordinates import coordinates, grid_of
from xdreg.fields.reader import FieldReader
from xdreg.grid import Grid
from xdreg.views.napari_fields import block_grid, field_layers, read_vectors
from xdreg.views.napari_images import image_layers, layer_image, placement, scene_layers
from xdreg.views.scene import make_scene

DIMS = ("z", "y", "x")


def by_name(layers):
    return {options["name"]: (data, options, kind) for data, options, kind in layers}


def registered(shape=(60, 70), **options):
    pair = xdreg.datasets.phantom_pair(shape, amplitude=2.0)
    stage = xdreg.LocalCorrelation(level=0, iterations=3)
    options = {"stages": stage, "metric": "lncc", "progress": False} | options
    return pair, pair.fixed.dreg.register(pair.moving, **options)


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


def test_blocks_lie_where_they_were_registered():
    for shape, size in (((60, 70), 32), ((61, 75), 20), ((40, 44, 36), 24)):
        _, field = registered(shape, block_shape=size)
        stage = json.loads(field.attrs["xdreg"])["stages"][-1]["block_shape"]
        found = block_grid(field)
        assert found.spacing == tuple(float(n) for n in stage)
        np.testing.assert_allclose(found.bounds[0], -0.5)
        assert found.shape == field.block_status.shape
        assert (np.asarray(found.bounds[1]) >= np.asarray(shape) - 0.5).all()


def test_blocks_of_an_inverse(tmp_path):
    known = Known(2, 10)
    assert block_grid(known.field) is None
    large = known.field.assign_attrs(
        fixed_grid=json.dumps(
            Grid(("y", "x"), (700, 600), (1.0, 1.0), (0.0, 0.0)).to_dict()
        )
    )
    moving = Grid(("y", "x"), (700, 600), (1.0, 1.5), (-10.0, 4.0), "micrometer")
    image = xr.DataArray(
        np.zeros(moving.shape, np.uint8), dims=moving.dims, coords=coordinates(moving)
    )
    inverse = large.dreg.inverse(like=image, step=1)
    blocks = block_grid(inverse)
    assert blocks.shape == inverse.block_status.shape == (2, 2)
    assert blocks.spacing == (512.0, 768.0)
    np.testing.assert_allclose(blocks.bounds[0], moving.bounds[0])


def test_field_layers():
    _, field = registered(block_shape=32)
    status = field.block_status.copy(data=field.block_status.values)
    status[0, 1] = xdreg.partition.BlockStatus.CRASHED
    field["block_status"] = status
    layers = by_name(field_layers(field, "run"))
    assert list(layers) == [
        "run magnitude",
        "run displacement",
        "run deformation × 2",
        "run blocks",
    ]
    assert all(o["metadata"]["field"] is field for _, o, _ in layers.values())
    data, options, _ = layers["run magnitude"]
    expected = np.linalg.norm(field.displacement.values, axis=0)
    np.testing.assert_allclose(np.asarray(data), expected, rtol=1e-5)
    assert options["scale"] == (2.0, 2.0)
    labels, options, kind = layers["run blocks"]
    assert kind == "labels"
    names = options["features"]["status"]
    assert [[names[v] for v in row] for row in labels] == [
        ["success", "crashed", "success"],
        ["success", "success", "success"],
    ]
    # Neighbours differ, so that blocks can be told apart.
    assert all(len(set(pair)) == 2 for pair in zip(labels[0], labels[1], strict=True))
    assert {int(v) for v in labels.ravel()} <= set(options["colormap"])


@pytest.mark.parametrize("ndim", [2, 3])
def test_vectors_point_where_the_field_does(ndim):
    known = Known(ndim, 25)
    data, options, kind = by_name(field_layers(known.field))["field displacement"]
    assert kind == "vectors"
    scale, translate = np.array(options["scale"]), np.array(options["translate"])
    start = data[:, 0] * scale + translate
    end = start + data[:, 1] * scale
    np.testing.assert_allclose(end, known.forth(start), atol=1e-4)
    longest = max(n * s for n, s in zip(known.grid.shape, scale, strict=True))
    along = np.unique(start[:, -1])
    assert np.diff(along).min() > longest / 40
    np.testing.assert_allclose(
        options["features"]["length"], np.linalg.norm(end - start, axis=1)
    )
    rest, _, _ = by_name(field_layers(known.field))["field deformation"]
    lengths = np.linalg.norm(rest[:, 1] * scale, axis=1)
    assert lengths.mean() < 3 < np.linalg.norm(end - start, axis=1).mean()


def test_vectors_of_a_large_field_are_read_from_its_middle():
    grid = Grid(DIMS, (64, 64, 64), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    watched = Watched(np.zeros((3, *grid.shape), np.float32))
    with pytest.warns(UserWarning, match="in its middle only"):
        found = read_vectors(FieldReader(watched, grid), most=3 * 4 * 32**3)
    assert ((found.points >= 16) & (found.points < 48)).all()
    assert found.points[:, 0].max() - found.points[:, 0].min() > 24
    whole = read_vectors(FieldReader(watched, grid))
    assert (whole.points.max(axis=0) - whole.points.min(axis=0) > 56).all()


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
        "rotate": np.eye(ndim),
        "shear": np.zeros(ndim),
        "affine": types.SimpleNamespace(affine_matrix=np.eye(ndim + 1)),
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
        ({"rotate": np.eye(3)[::-1]}, "turned, sheared"),
        ({"shear": np.ones(3)}, "turned, sheared"),
        ({"affine": types.SimpleNamespace(affine_matrix=2 * np.eye(4))}, "turned"),
        ({"axis_labels": ("t", "y", "x")}, "per time point"),
        ({"units": ("second", "pixel", "pixel")}, "different units"),
    ],
)
def test_layers_that_are_no_plain_image(options, message):
    with pytest.raises(xdreg.InputError, match=message):
        layer_image(layer(np.zeros((3, 4, 5)), **options), "moving")
