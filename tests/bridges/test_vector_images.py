"""Images of vectors: turned grids, NIfTI's axes."""

import itk
import numpy as np
import pytest

import xdreg
from xdreg.fields.displacement import make_field
from xdreg.grid import Grid
from xdreg.numerics.itk_transforms import displacement_image


def flipped(direction, values, spacing=(0.5, 1.5), origin=(10.0, -4.0)):
    """Return an ITK image of vectors on a turned grid."""
    image = displacement_image(
        values, Grid(("y", "x"), values.shape[1:], spacing[::-1], origin[::-1])
    )
    image.SetDirection(itk.matrix_from_array(np.array(direction, float)))
    return image


@pytest.mark.parametrize(
    "direction", [[[-1, 0], [0, -1]], [[0, -1], [1, 0]], [[0.8, -0.6], [0.6, 0.8]]]
)
def test_turned_grids_keep_vectors_in_space(tmp_path, direction):
    values = np.random.default_rng(0).normal(size=(2, 6, 7)).astype(np.float32)
    image = flipped(direction, values)
    itk.imwrite(image, str(tmp_path / "turned.nrrd"))
    # Within the turned grid, and within the grid of what is read.
    index = itk.ContinuousIndex[itk.D, 2]()
    index[0], index[1] = 3.3, 2.4
    middle = np.array(list(image.TransformContinuousIndexToPhysicalPoint(index)))
    like = Grid(("y", "x"), (2, 2), (0.1, 0.1), tuple(middle[::-1].tolist()), None)
    field = xdreg.open_transform(
        tmp_path / "turned.nrrd",
        like=Grid(like.dims, like.shape, like.spacing, like.origin, "millimeter"),
    )
    transform = itk.DisplacementFieldTransform[itk.D, 2].New()
    transform.SetDisplacementField(doubled(image))
    expected = xdreg.from_itk_transform(transform, like)
    np.testing.assert_allclose(field.displacement, expected.displacement, atol=1e-5)
    own = xdreg.open_transform(tmp_path / "turned.nrrd")
    by_itk = list(transform.TransformPoint(middle.tolist()))[::-1]
    found = own.dreg.transform_points(middle[None, ::-1])
    np.testing.assert_allclose(found[0], by_itk, atol=1e-5)


def doubled(image):
    double = itk.Image[itk.Vector[itk.D, 2], 2].New()
    double.CopyInformation(image)
    double.SetRegions(image.GetLargestPossibleRegion())
    double.Allocate()
    itk.array_view_from_image(double)[...] = itk.array_view_from_image(image)
    return double


def test_nifti_says_which_way_its_vectors_point(tmp_path):
    """The intent code 1006 is for vectors along NIfTI's axes, 1007 along ITK's."""
    values = np.ones((3, 3, 4, 5), np.float32) * np.reshape([1, 2, 3], (3, 1, 1, 1))
    grid = Grid(("z", "y", "x"), (3, 4, 5), (1.0, 1.0, 1.0), (0.0,) * 3, "millimeter")
    path = tmp_path / "warp.nii"
    make_field(values.astype(np.float32), grid).dreg.to_file(path)
    header = bytearray(path.read_bytes())
    assert int.from_bytes(header[68:70], "little") == 1007
    header[68:70] = (1006).to_bytes(2, "little")
    path.write_bytes(header)
    means = xdreg.open_transform(path).displacement.mean(("z", "y", "x"))
    np.testing.assert_allclose(means, [1.0, -2.0, -3.0])


def test_an_image_is_no_field(tmp_path):
    itk.imwrite(
        itk.image_from_array(np.ones((4, 5), np.float32)), str(tmp_path / "i.mha")
    )
    with pytest.raises(xdreg.InputError, match="expected vectors of 2"):
        xdreg.open_transform(tmp_path / "i.mha")
