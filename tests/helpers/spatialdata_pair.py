"""Register elements of spatialdata in memory; print the error in voxels.

Run by an interpreter that has both libraries.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import scipy.ndimage
from spatialdata.models import Image2DModel
from spatialdata.transformations import Scale, Sequence, Translation

import xdreg
from tests.helpers.writers import ORIGIN, SPACING, VALUES, element_of_spatialdata
from xdreg.coordinates import grid_of


def lies_where_its_transformation_says(scale_factors):
    element = element_of_spatialdata(scale_factors)
    image = xdreg.make_image(element, coordinate_system="microns")
    level = xdreg.image_levels(image, "image")[0].squeeze("c")
    grid = grid_of(level)
    assert np.array_equal(level.values, VALUES)
    assert np.allclose((grid.spacing, grid.origin), (SPACING, ORIGIN))


def element(values, step, corner):
    place = Sequence([Scale([step, step], ("y", "x")), Translation(corner, ("y", "x"))])
    return Image2DModel.parse(
        values[None], dims=("c", "y", "x"), transformations={"global": place}
    )


lies_where_its_transformation_says(None)
lies_where_its_transformation_says([2])
noise = np.random.default_rng(0).standard_normal((80, 96))
values = scipy.ndimage.gaussian_filter(noise, 2).astype(np.float32)
# The same pixels, a third larger and elsewhere.
fixed, moving = element(values, 0.5, [0, 0]), element(values, 0.75, [7.0, -4.0])
field = xdreg.register(fixed, moving, channel=0, stages="affine", progress=False)
points = np.random.default_rng(1).uniform((5, 5), (35, 43), (200, 2))
error = field.dreg.transform_points(points) - (1.5 * points + (7.0, -4.0))
print(float(np.abs(error).max() / 0.75))
