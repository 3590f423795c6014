"""ITK images in and out: every voxel keeps its physical place."""

import itertools

import itk
import numpy as np
import pytest
import xarray as xr

import xdreg
from xdreg.coordinates import grid_of
from xdreg.errors import InputError


def itk_image(ndim, direction):
    values = np.random.default_rng(0).random((5, 6, 7)[-ndim:]).astype(np.float32)
    image = itk.image_from_array(values)
    image.SetSpacing([0.5, 1.0, 2.5][:ndim])
    image.SetOrigin([11.0, -3.0, 7.0][:ndim])
    image.SetDirection(itk.matrix_from_array(np.array(direction, float)))
    return image


def signed_permutations(ndim):
    for order in itertools.permutations(range(ndim)):
        for signs in itertools.product((1, -1), repeat=ndim):
            matrix = np.zeros((ndim, ndim))
            matrix[order, range(ndim)] = signs
            yield matrix


@pytest.mark.parametrize(
    "direction", [*signed_permutations(2), *signed_permutations(3)]
)
def test_flips_and_permutations_keep_every_voxel_in_place(direction):
    ndim = len(direction)
    image = itk_image(ndim, direction)
    array = xdreg.from_itk_image(image)
    grid = grid_of(array)
    for index in np.random.default_rng(1).integers(0, 5, (6, ndim)):
        point = image.TransformIndexToPhysicalPoint([int(i) for i in index])
        ours = np.rint(grid.physical_to_index(list(point)[::-1])).astype(int)
        np.testing.assert_allclose(grid.index_to_physical(ours), list(point)[::-1])
        value = image.GetPixel([int(i) for i in index])
        assert float(array.values[tuple(ours)]) == value


def test_an_oblique_image_is_refused():
    turned = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    with pytest.raises(xdreg.InputError, match="oblique"):
        xdreg.from_itk_image(itk_image(2, turned))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "float64"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_round_trip_keeps_values_and_geometry(dtype, ndim):
    array = xdreg.from_itk_image(itk_image(ndim, np.eye(ndim))) * 100
    array = array.astype(dtype)
    back = xdreg.from_itk_image(array.dreg.to_itk_image())
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
    np.testing.assert_allclose(grid_of(back).origin, grid_of(array).origin)


def test_files_that_itk_reads(tmp_path):
    image = itk_image(3, np.eye(3))
    itk.imwrite(image, str(tmp_path / "image.nrrd"))
    opened = xdreg.open_image(tmp_path / "image.nrrd")
    np.testing.assert_array_equal(opened, itk.array_from_image(image))
    with pytest.raises(xdreg.StoreError, match="does not exist"):
        xdreg.open_image(tmp_path / "none.nrrd")
    (tmp_path / "text.nrrd").write_text("not an image")
    with pytest.raises(xdreg.StoreError, match="cannot read"):
        xdreg.open_image(tmp_path / "text.nrrd")
    colour = np.random.default_rng(0).integers(0, 255, (8, 9, 3)).astype(np.uint8)
    itk.imwrite(itk.image_from_array(colour, is_vector=True), str(tmp_path / "rgb.png"))
    opened = xdreg.open_image(tmp_path / "rgb.png", units=None)
    assert opened.dims == ("c", "y", "x")
    np.testing.assert_array_equal(opened.transpose("y", "x", "c"), colour)


@pytest.mark.parametrize("dtype", ["int8", "int64", "float16", "bool", ">i4", "uint64"])
def test_every_dtype_becomes_one_that_itk_has(dtype):
    values = np.arange(12).reshape(3, 4).astype(dtype)
    axis = [0.0, 1.0, 2.0, 3.0]
    image = xr.DataArray(values, {"y": axis[:3], "x": axis}, ("y", "x"))
    again = xdreg.from_itk_image(image.dreg.to_itk_image())
    np.testing.assert_array_equal(again.values.astype(dtype), values)


def test_values_beyond_32_bits_are_refused():
    axis = [0.0, 1.0]
    image = xr.DataArray(np.full((2, 2), 2**40), {"y": axis, "x": axis}, ("y", "x"))
    with pytest.raises(InputError, match="astype\\('float64'\\)"):
        image.dreg.to_itk_image()
