"""ITK images in and out: every voxel keeps its physical place."""

import itertools
import os

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


def test_an_oblique_image_keeps_its_direction():
    turned = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    image = itk_image(2, turned)
    back = xdreg.to_itk_image(xdreg.from_itk_image(image))
    np.testing.assert_allclose(itk.array_from_matrix(back.GetDirection()), turned)
    np.testing.assert_allclose(list(back.GetOrigin()), list(image.GetOrigin()))
    with pytest.raises(xdreg.InputError, match="right angles"):
        xdreg.from_itk_image(itk_image(2, [[1, 0.3], [0, 0.9539392]]))


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
    with pytest.raises(xdreg.InputError, match=r"no size of a voxel.*spacing"):
        xdreg.open_image(tmp_path / "rgb.png")
    opened = xdreg.open_image(tmp_path / "rgb.png", spacing=2.0, units="um")
    assert grid_of(opened).spacing == (2.0, 2.0)
    assert grid_of(opened).units == "micrometer"
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


META = "NDims = 2\nDimSize = 4 3\nElementType = MET_UCHAR\nElementDataFile = {}\n"
NRRD = "NRRD0004\ntype: uchar\ndimension: 2\nsizes: 4 3\nencoding: raw\ndata file: {}\n"


@pytest.mark.parametrize(("suffix", "header"), [("mhd", META), ("nhdr", NRRD)])
def test_a_header_names_voxels_in_its_own_folder(tmp_path, suffix, header):
    folder = tmp_path / "a"
    folder.mkdir()
    for place in (folder, tmp_path):
        (place / "voxels.raw").write_bytes(bytes(range(12)))
    # As git-annex leaves files: the voxels are a link.
    (folder / "link.raw").symlink_to(tmp_path / "voxels.raw")
    os.mkfifo(folder / "pipe.raw")
    path = folder / f"image.{suffix}"
    for name in ("voxels.raw", "link.raw"):
        path.write_text(header.format(name))
        found = xdreg.open_image(path)
        np.testing.assert_array_equal(found.values.ravel(), np.arange(12))
    for name in (
        *("../voxels.raw", str(tmp_path / "voxels.raw"), "pipe.raw", "/dev/zero"),
        *("http://127.0.0.1:9/v.raw", "//server/share/v.raw", "LIST\n../voxels.raw"),
        *("LIST\nvoxels.raw\n/dev/zero", "../v%03d.raw 1 3 1"),
    ):
        path.write_text(header.format(name))
        with pytest.raises(xdreg.StoreError, match="for its voxels"):
            xdreg.open_image(path)
        # ITK ends lines at carriage returns, too, and looks at no suffix of NRRD.
        path.write_text(header.format(name).replace("\n", "\r"), newline="")
        with pytest.raises(xdreg.StoreError):
            xdreg.open_image(path)
    path.write_text(header.format("/dev/zero").replace("\n", "\n" + "# x" * 10**6, 1))
    with pytest.raises(xdreg.StoreError, match=r"for its voxels|a header of over"):
        xdreg.open_image(path)


def test_an_image_that_is_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.nrrd")
    with pytest.raises(xdreg.StoreError, match="a pipe"):
        xdreg.open_image(tmp_path / "a.nrrd")


def test_an_image_without_voxels_is_refused(tmp_path):
    image = itk.image_from_array(np.ones((4, 5, 6), np.float32))
    itk.imwrite(image, str(tmp_path / "a.mha"))
    reader = itk.ImageFileReader.New(FileName=str(tmp_path / "a.mha"))
    for look in (lambda: None, reader.UpdateOutputInformation):
        look()
        with pytest.raises(xdreg.InputError, match=r"reader\.Update"):
            xdreg.from_itk_image(reader.GetOutput())
    reader.Update()
    assert xdreg.from_itk_image(reader.GetOutput()).shape == (4, 5, 6)
