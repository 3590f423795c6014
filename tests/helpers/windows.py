"""Readers of two small images in memory, as a block is given them."""

import numpy as np

from tests.helpers.images import unit_grid
from xdreg.fields.reader import FieldReader
from xdreg.numerics import kernels
from xdreg.registration.window import Inputs
from xdreg.stores.readers import ImageReader

GRID = unit_grid((48, 56))


def reader(values, grid=GRID):
    """Return a reader of an array."""
    return ImageReader(values, grid, grid.dims)


def inputs(fixed, moving, moving_grid=GRID, **masks):
    """Return readers of a pair, with the identity as the displacement so far."""
    identity = FieldReader(*kernels.affine_displacement(np.eye(3), GRID))
    names = "fixed_mask", "moving_mask"
    found = {name: reader(masks[name]) if name in masks else None for name in names}
    return Inputs(reader(fixed), reader(moving, moving_grid), before=identity, **found)
