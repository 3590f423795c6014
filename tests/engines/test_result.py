"""What methods may return."""

import numpy as np
import pytest

from tests.helpers.images import unit_grid
from xdreg.engines.result import as_displacement
from xdreg.errors import XdregError


@pytest.mark.parametrize("shape", [(6, 7), (5, 6, 7)])
def test_an_array_without_dims_is_not_taken_for_a_matrix(shape):
    grid = unit_grid(shape)
    for result in (np.zeros((len(shape), *shape)), np.zeros((*shape, len(shape)))):
        with pytest.raises(XdregError, match=r"a DataArray with dims \('component'"):
            as_displacement(result, grid)
    moved = as_displacement(np.eye(len(shape) + 1), grid)
    assert not moved.any()
