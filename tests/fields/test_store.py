"""The field's own operations and its ways out: points, ITK, OME-Zarr."""

import itk
import ngff_zarr
import numpy as np
import pytest
import xarray as xr

import xdreg
from xdreg.coordinates import coordinates, grid_of
from xdreg.fields.field import field_grid, make_field
from xdreg.grid import Grid


def _field(ndim=3):
    dims = ("z", "y", "x")[-ndim:]
    fixed = Grid(
        dims,
        (17, 22, 25)[-ndim:],
        (2.0, 1.0, 0.5)[-ndim:],
        (-7.0, 3.0, 11.0)[-ndim:],
        "millimeter",
    )
    grid = fixed.every((2,) * ndim)
    points = np.stack(np.meshgrid(*(grid.axis(d) for d in dims), indexing="ij"))
    waves = [0.7 * np.sin(points[(i + 1) % ndim] / 4 + i) for i in range(ndim)]
    return make_field(np.stack(waves).astype(np.float32), grid, fixed), fixed


def _image(grid, seed=0):
    values = np.random.default_rng(seed).random(grid.shape, np.float32)
    return xr.DataArray(values, dims=grid.dims, coords=coordinates(grid))


@pytest.mark.parametrize("ndim", [2, 3])
def test_itk_round_trip_and_points(ndim):
    field, fixed = _field(ndim)
    transform = field.dreg.to_itk_transform()
    back = xdreg.from_itk_transform(transform, field_grid(field))
    np.testing.assert_array_equal(back.displacement, field.displacement)
    lower, upper = fixed.bounds
    points = lower + np.random.default_rng(1).uniform(0.1, 0.9, (40, ndim)) * (
        upper - lower
    )
    theirs = [list(transform.TransformPoint(list(p[::-1])))[::-1] for p in points]
    np.testing.assert_allclose(field.dreg.transform_points(points), theirs, atol=1e-5)


@pytest.mark.parametrize("ndim", [2, 3])
def test_warp_equals_itk(ndim):
    field, fixed = _field(ndim)
    moving = _image(fixed)
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
    field, fixed = _field()
    moving = xr.concat([_image(fixed, s) for s in range(2)], "c").assign_coords(
        c=["a", "b"]
    )
    whole = field.dreg.warp(moving)
    like = _image(fixed).chunk(z=5, y=7, x=6)
    chunked = field.dreg.warp(moving.chunk(4), like=like)
    assert whole.dims == ("c", "z", "y", "x")
    assert list(whole.c.values) == ["a", "b"]
    np.testing.assert_array_equal(whole.values, chunked.values)
    single = field.dreg.warp(moving.isel(c=1))
    np.testing.assert_array_equal(whole.isel(c=1).values, single.values)


def test_warp_of_labels_invents_none():
    field, fixed = _field()
    labels = (_image(fixed) * 5).astype("uint16") * 100
    moved = field.dreg.warp(labels, order=0)
    assert moved.dtype == np.uint16
    assert set(np.unique(moved.values)) <= set(np.unique(labels.values)) | {0}


@pytest.mark.parametrize("ndim", [2, 3])
def test_store_round_trip_is_exact_and_valid(ndim, tmp_path):
    field, _ = _field(ndim)
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
    field, fixed = _field()
    path = tmp_path / "field.ome.zarr"
    field.dreg.to_ome_zarr(path)
    scene = ngff_zarr.from_ome_zarr(str(path), kind="scene", validate=True)
    transform = scene.coordinateTransformations[0]
    stored = ngff_zarr.from_ome_zarr(str(path / transform.path)).images[0]
    moving = _image(fixed)
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


def test_points_outside_are_nan_and_wrong_shapes_refused():
    field, _ = _field()
    assert np.isnan(field.dreg.transform_points([[1e6, 0, 0]])).all()
    with pytest.raises(xdreg.InputError, match=r"\(n, 3\)"):
        field.dreg.transform_points([[1.0, 2.0]])


def test_jacobian_is_the_same_for_any_chunking():
    field, _ = _field()
    whole = field.dreg.jacobian_determinant()
    chunked = field.chunk(z=4, y=5, x=6).dreg.jacobian_determinant()
    np.testing.assert_array_equal(whole.values, chunked.values)
    assert float(whole.min()) > 0


def test_components_are_known_by_name(tmp_path):
    values = np.stack([np.full((3, 4), 1.0), np.full((3, 4), 2.0)]).astype(np.float32)
    grid = Grid(("y", "x"), (3, 4), (1.0, 1.0), (0.0, 0.0))
    field = make_field(values, grid)
    turned = field.isel(component=[1, 0])
    point = [[1.0, 1.0]]
    np.testing.assert_array_equal(turned.dreg.transform_points(point), [[2.0, 3.0]])
    turned.dreg.to_ome_zarr(tmp_path / "field.ome.zarr")
    again = xdreg.open_field(tmp_path / "field.ome.zarr")
    np.testing.assert_array_equal(again.displacement, field.displacement)


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


def test_small_chunks_of_like_are_joined_and_change_nothing():
    """Each chunk of the result reads all source chunks that it touches."""
    field, fixed = _field(2)
    wide = Grid(("y", "x"), (2100, 30), (0.01, 0.4), fixed.origin, fixed.units)
    like, moving = _image(wide), _image(fixed, seed=1)
    whole = field.dreg.warp(moving, like=like.chunk({"y": 2100}))
    joined = field.dreg.warp(moving, like=like.chunk({"y": 300, "x": 16}))
    assert whole.chunksizes == {"y": (2100,), "x": (30,)}
    assert joined.chunksizes == {"y": (900, 900, 300), "x": (30,)}
    np.testing.assert_array_equal(joined, whole)
