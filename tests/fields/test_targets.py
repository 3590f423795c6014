"""Grids on which results are computed."""

import xdreg
from tests.helpers.fields import (
    Known,
    field_and_moving,
)
from xdreg.coordinates import grid_of
from xdreg.grid import Grid


def test_a_grid_is_covered_by_any_spacing():
    field, _ = field_and_moving(2)
    for step in (0.7, 3.0, 1e4):
        grid = xdreg.warp(field, field_and_moving(2)[1], spacing=step)
        assert isinstance(grid_of(grid), Grid)
        assert grid_of(grid).bounds[1][0] >= Known(2).fixed.bounds[1][0] - 1e-6
