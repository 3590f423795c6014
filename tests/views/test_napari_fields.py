"""A field as layers of napari, without napari."""

import json

import numpy as np
import pytest
import xarray as xr

import xdreg
from tests.helpers.fields import Known, Watched
from tests.helpers.viewers import by_name
from xdreg.coordinates import coordinates
from xdreg.fields.reader import FieldReader
from xdreg.grid import Grid
from xdreg.views.napari_fields import block_grid, field_layers, read_vectors

DIMS = ("z", "y", "x")


def registered(shape=(60, 70), **options):
    pair = xdreg.datasets.phantom_pair(shape, amplitude=2.0)
    stage = xdreg.LocalCorrelation(level=0, iterations=3)
    options = {"stages": stage, "metric": "lncc", "progress": False} | options
    return pair, pair.fixed.dreg.register(pair.moving, **options)


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
    layers = by_name(field_layers(field))
    assert list(layers) == [
        "field magnitude",
        "field displacement",
        "field deformation × 2",
        "field blocks",
    ]
    assert all(o["metadata"]["field"] is field for _, o, _ in layers.values())
    data, options, _ = layers["field magnitude"]
    expected = np.linalg.norm(field.displacement.values, axis=0)
    np.testing.assert_allclose(np.asarray(data), expected, rtol=1e-5)
    assert options["scale"] == (2.0, 2.0)
    labels, options, kind = layers["field blocks"]
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


def test_vectors_of_a_large_field_are_read_from_its_middle(monkeypatch):
    grid = Grid(DIMS, (64, 64, 64), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    watched = Watched(np.zeros((3, *grid.shape), np.float32))
    whole = read_vectors(FieldReader(watched, grid))
    assert (whole.points.max(axis=0) - whole.points.min(axis=0) > 56).all()
    monkeypatch.setattr("xdreg.views.napari_fields.VECTOR_BYTES", 3 * 4 * 32**3)
    with pytest.warns(UserWarning, match="in its middle only"):
        found = read_vectors(FieldReader(watched, grid))
    assert ((found.points >= 16) & (found.points < 48)).all()
    assert found.points[:, 0].max() - found.points[:, 0].min() > 24
