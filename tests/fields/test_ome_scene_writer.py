"""Fields as scenes of OME-Zarr 0.6: valid, exact, and applied by ngff-zarr."""

import ngff_zarr as nz
import numpy as np
import pytest
import xarray as xr
import zarr

import xdreg
from tests.helpers.fields import Known, difference, moving_like
from xdreg.coordinates import coordinates
from xdreg.fields.displacement import make_field
from xdreg.fields.field import field_grid
from xdreg.grid import Grid


@pytest.fixture(scope="module", params=[2, 3])
def pair(request):
    """Return a field that turns and bends, and its inverse."""
    known = Known(request.param, 8.0)
    inverse = known.field.dreg.inverse(moving_like(known), step=4).load()
    return known.field, inverse


def test_a_bijection_of_sequences_is_valid_and_read_both_ways(tmp_path, pair):
    field, inverse = pair
    path = tmp_path / "field.ome.zarr"
    field.dreg.to_ome_zarr(path, inverse=inverse, affine=True)
    scene = nz.from_ome_zarr(str(path), kind="scene", validate=True)
    (transform,) = scene.coordinateTransformations
    assert (transform.type, transform.input.name) == ("bijection", "fixed")
    for side in (transform.forward, transform.inverse):
        assert [step.type for step in side.transformations] == [
            "displacements",
            "affine",
        ]
        stored = nz.from_ome_zarr(str(path / side.transformations[0].path))
        assert stored.images[0].axes_types["c"] == "displacement"
        assert stored.images[0].axes_units["x"] == "micrometer"
        # Nothing was smoothed: a lone level tells of no method.
        assert stored.metadata.type is None
    # Beyond what bends, nothing is left to the displacements.
    rest = zarr.open_group(path)["coordinateTransformations/displacement"]
    assert np.abs(rest["scale0/displacement"][...]).max() < 2 * 1.5 + 1
    assert difference(xdreg.open_field(path), field) < 1e-5
    back = xdreg.open_field(path, inverse=True)
    assert difference(back, inverse) < 1e-5
    np.testing.assert_array_equal(back.block_status, inverse.block_status)


def test_without_an_inverse_there_is_none(tmp_path):
    field = Known(2, 8.0).field
    field.dreg.to_ome_zarr(tmp_path / "field.ome.zarr")
    with pytest.raises(xdreg.StoreError, match=r"invert it: xdreg\.inverse"):
        xdreg.open_field(tmp_path / "field.ome.zarr", inverse=True)
    elsewhere = Grid(("y", "x"), (3, 3), (2.0, 0.5), (10.0, -3.0), "nanometer")
    other = make_field(np.zeros((2, 3, 3), np.float32), elsewhere)
    with pytest.raises(xdreg.InputError, match="the inverse is in"):
        field.dreg.to_ome_zarr(tmp_path / "b.ome.zarr", inverse=other)
    assert not (tmp_path / "b.ome.zarr").exists()


@pytest.mark.parametrize("affine", [False, True])
def test_ngff_zarr_applies_what_was_written(tmp_path, affine):
    field = Known(3, 8.0).field
    path = tmp_path / "field.ome.zarr"
    field.dreg.to_ome_zarr(path, affine=affine)
    scene = nz.from_ome_zarr(str(path), kind="scene", validate=True)
    (transform,) = scene.coordinateTransformations
    own = field_grid(field)
    image = nz.to_ngff_image(
        np.random.default_rng(0).random(own.shape).astype(np.float32),
        dims=own.dims,
        scale=dict(zip(own.dims, own.spacing, strict=True)),
        translation=dict(zip(own.dims, own.origin, strict=True)),
    )
    steps = transform.transformations if affine else [transform]
    stored = {
        step.path: nz.from_ome_zarr(str(path / step.path)).images[0]
        for step in steps
        if step.type == "displacements"
    }
    assert len(stored) == 1
    if affine:
        # It refuses displacements in a sequence, and takes each step by itself. Of a
        # list, ITK applies the last one first.
        transform = [
            entry
            for step in reversed(steps)
            for entry in nz.ngff_transform_to_itk_transform(
                step, own.dims, fields=stored
            )
        ]
    theirs = nz.resample(transform, image, image, fields=stored)
    moving = xr.DataArray(
        np.asarray(image.data), dims=own.dims, coords=coordinates(own)
    )
    ours = field.dreg.warp(moving, like=moving)
    inside = (slice(3, -3),) * 3
    np.testing.assert_allclose(
        np.asarray(theirs.data)[inside], ours.values[inside], atol=1e-3
    )
