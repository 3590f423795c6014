"""Layout of the field Dataset."""

import numpy as np

import xdreg
from xdreg.fields.field import (
    make_field,
)
from xdreg.grid import Grid


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
