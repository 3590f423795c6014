"""The field's own operations and its ways out: points, ITK, OME-Zarr."""

import ngff_zarr
import numpy as np
import pytest
import xarray as xr

import xdreg
from tests.helpers.fields import noise, wavy
from xdreg.coordinates import grid_of
from xdreg.fields.displacement import make_field
from xdreg.grid import Grid


@pytest.mark.parametrize("ndim", [2, 3])
def test_store_round_trip_is_exact_and_valid(ndim, tmp_path):
    field, _ = wavy(ndim)
    path = tmp_path / "field.ome.zarr"
    field.dreg.to_ome_zarr(path)
    assert xdreg.open_field(path).identical(field)
    scene = ngff_zarr.from_ome_zarr(str(path), kind="scene", validate=True)
    (transform,) = scene.coordinateTransformations
    assert transform.type == "displacements"
    with pytest.raises(xdreg.StoreError, match="overwrite"):
        field.dreg.to_ome_zarr(path)
    field.dreg.to_ome_zarr(path, overwrite=True)


def test_ngff_zarr_applies_the_written_field(tmp_path):
    field, fixed = wavy()
    path = tmp_path / "field.ome.zarr"
    field.dreg.to_ome_zarr(path)
    scene = ngff_zarr.from_ome_zarr(str(path), kind="scene", validate=True)
    transform = scene.coordinateTransformations[0]
    stored = ngff_zarr.from_ome_zarr(str(path / transform.path)).images[0]
    moving = noise(fixed)
    theirs = ngff_zarr.resample(
        transform, _ngff(moving), _ngff(moving), fields={transform.path: stored}
    )
    inner = (slice(2, -2),) * 3
    ours = field.dreg.warp(moving).values
    np.testing.assert_allclose(np.asarray(theirs.data)[inner], ours[inner], atol=1e-3)
    assert stored.axes_units["x"] == fixed.units


def _ngff(image):
    grid = grid_of(image)
    return ngff_zarr.to_ngff_image(
        image.chunk(12).data,
        dims=grid.dims,
        scale=dict(zip(grid.dims, grid.spacing, strict=True)),
        translation=dict(zip(grid.dims, grid.origin, strict=True)),
    )


def test_a_unit_without_a_word_in_the_standard_is_kept(tmp_path):
    grid = Grid(("y", "x"), (3, 4), (1.0, 1.0), (0.0, 0.0), "pixel")
    field = make_field(np.ones((2, 3, 4), np.float32), grid)
    field.dreg.to_ome_zarr(tmp_path / "field.ome.zarr")
    again = xdreg.open_field(tmp_path / "field.ome.zarr")
    xr.testing.assert_identical(again.load(), field.load())
    assert again.x.attrs["units"] == "pixel"


def test_a_url_that_cannot_be_written_is_a_store_error():
    grid = Grid(("y", "x"), (3, 4), (1.0, 1.0), (0.0, 0.0))
    field = make_field(np.ones((2, 3, 4), np.float32), grid)
    with pytest.raises(xdreg.StoreError, match="Protocol not known"):
        field.dreg.to_ome_zarr("unheard-of://bucket/field.ome.zarr")


def test_a_field_in_memory_is_stored_in_chunks(tmp_path):
    grid = Grid(("y", "x"), (900, 40), (1.0, 1.0), (0.0, 0.0))
    values = np.random.default_rng(0).normal(size=(2, 900, 40)).astype(np.float32)
    field = make_field(values, grid)
    field.dreg.to_ome_zarr(tmp_path / "field.zarr")
    found = xdreg.open_field(tmp_path / "field.zarr").displacement
    assert found.data.chunksize == (2, 512, 40)
    np.testing.assert_array_equal(found, values)


def test_a_lost_chunk_of_a_field_is_not_a_displacement_of_zero(tmp_path):
    field, _ = wavy(2)
    path = tmp_path / "field.zarr"
    xdreg.save(field.chunk(x=5), path)
    chunks = sorted(path.rglob("c/0/0/*"))
    assert len(chunks) > 1
    chunks[1].unlink()
    values = xdreg.open_field(path).displacement.values
    assert np.isnan(values[..., 5:10]).all()
    np.testing.assert_array_equal(values[..., :5], field.displacement.values[..., :5])
