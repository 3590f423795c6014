"""Images of other libraries in memory, and arrays with a geometry."""

import dask.array
import numpy as np
import pytest
import xarray as xr

import xdreg
from xdreg.coordinates import grid_of

VALUES = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)


class Transformation:
    """What xdreg uses of a transformation of spatialdata."""

    def __init__(self, scale, shift):
        self.scale, self.shift = scale, shift

    def to_affine_matrix(self, input_axes, output_axes):
        assert input_axes == output_axes
        matrix = np.diag([*([self.scale] * len(input_axes)), 1.0])
        matrix[:-1, -1] = self.shift
        return matrix


def test_make_image():
    image = xdreg.make_image(VALUES, (2, 1, 0.5), (10, 0, 0), "um")
    grid = grid_of(image)
    assert (grid.spacing, grid.origin) == ((2.0, 1.0, 0.5), (10.0, 0.0, 0.0))
    assert grid.units == "micrometer"
    lazy = xdreg.make_image(dask.array.from_array(VALUES), 1, dims="yxc")
    assert lazy.dims == ("c", "y", "x")
    assert lazy.chunks is not None
    with pytest.raises(xdreg.InputError, match="spacing="):
        xdreg.make_image(VALUES)
    with pytest.raises(xdreg.InputError, match="dims='czyx'"):
        xdreg.make_image(VALUES[None], 1)
    with pytest.raises(xdreg.InputError, match="make_image"):
        xdreg.register(VALUES, VALUES)


def test_elements_of_spatialdata():
    element = xr.DataArray(VALUES, dims=("c", "y", "x"), name="cells")
    element.attrs["transform"] = {
        "global": Transformation(0.5, 3.0),
        "pixels": Transformation(1.0, 0.0),
    }
    with pytest.raises(xdreg.InputError, match="coordinate_system='global'"):
        xdreg.image_levels(element, "fixed")
    image = xdreg.make_image(element, coordinate_system="global")
    assert (grid_of(image).spacing, grid_of(image).origin) == ((0.5, 0.5), (3.25, 3.25))
    assert "transform" not in image.attrs
    del element.attrs["transform"]["pixels"]
    (level,) = xdreg.image_levels(element, "fixed")
    assert grid_of(level).spacing == (0.5, 0.5)


def test_an_image_of_simpleitk():
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(VALUES)
    image.SetSpacing((0.5, 1.0, 2.0))
    image.SetDirection((-1, 0, 0, 0, 1, 0, 0, 0, 1))
    opened = xdreg.image_levels(image, "fixed")[0]
    for index in [(0, 0, 0), (5, 2, 3)]:
        x, y, z = image.TransformIndexToPhysicalPoint(index)
        found = opened.sel({"x": x, "y": y, "z": z}, method="nearest")
        assert float(found) == image.GetPixel(index)
        np.testing.assert_allclose([found.x, found.y, found.z], [x, y, z])
