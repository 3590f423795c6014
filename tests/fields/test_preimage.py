"""The part of a field that maps onto a region."""

import numpy as np
import pytest

import xdreg
from tests.helpers.fields import (
    Known,
    Watched,
    moving_like,
)
from xdreg.fields.preimage import Preimage, affine_part
from xdreg.fields.reader import FieldReader
from xdreg.grid import Grid


def test_points_back_read_what_they_need():
    grid = Grid(("y", "x"), (2000, 2000), (1.0, 1.0), (0.0, 0.0))
    wave = 5 * np.sin(np.arange(2000) / 30)
    values = np.broadcast_to(wave.astype(np.float32), (2, 2000, 2000))
    source = Watched(values)
    reader = FieldReader(source, grid)
    preimage = Preimage(reader, grid, affine_part(reader))
    solution = preimage.window((500.0, 500.0), (510.0, 510.0)).solve_points(
        np.array([[500.0, 500.0], [510.0, 510.0]])
    )
    assert (solution.flags == 0).all()
    assert max(np.prod(w) for w in source.windows) < 2 * 100**2


def test_a_field_with_nan_is_named():
    known = Known(2)
    broken = known.field.copy(deep=True)
    broken.displacement[0, 10, 10] = np.nan
    with pytest.raises(xdreg.InputError, match="NaN"):
        broken.dreg.inverse(like=moving_like(known)).compute()
