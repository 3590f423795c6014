"""What a plan derives from images and options."""

import numpy as np
import pytest
import xarray as xr

import xdreg
from xdreg.coordinates import coordinates
from xdreg.grid import Grid


def test_a_plan_tells_what_was_derived():
    grid = Grid(("z", "y", "x"), (40, 80, 80), (4.0, 2.0, 2.0), (0.0,) * 3, "mm")
    image = xr.DataArray(np.zeros(grid.shape), coordinates(grid), grid.dims)
    stages = [
        xdreg.Rigid(metric="mi", iterations=70),
        xdreg.BSpline(level=1),
        xdreg.LocalCorrelation(level=0, field_sigma=3.0),
    ]
    rows = image.dreg.plan(image, stages=stages).table()
    assert [row["iterations"] for row in rows] == ["70", "100", "300"]
    # Six voxels; two mean voxels, of (4 · 2 · 2)^(1/3), at the finest; what was given.
    assert [row["smoothing"] for row in rows] == ["", "24", "5.04 / 3"]


def test_a_b_spline_has_smaller_blocks():
    grid = Grid(("z", "y", "x"), (130,) * 3, (1.0,) * 3, (0.0,) * 3, "mm")
    image = xr.DataArray(np.zeros(grid.shape), coordinates(grid), grid.dims)
    stages = [xdreg.BSpline(level=0), xdreg.LocalCorrelation(level=0)]
    for given, counts in ((None, [3, 1]), (100, [2, 2])):
        planned = image.dreg.plan(image, stages=stages, block_shape=given).stages
        found = [stage.partition.counts for stage in planned]
        assert found == [(count,) * 3 for count in counts]


@pytest.mark.parametrize("stage", [xdreg.BSpline(level=0), xdreg.Affine(metric="mi")])
def test_absurd_ratios_of_spacings_are_refused_for_elastix_alone(stage):
    grid = Grid(("y", "x"), (40, 50), (1e4, 1.0), (0.0, 0.0))
    image = xr.DataArray(np.zeros(grid.shape), coordinates(grid), grid.dims)
    with pytest.raises(xdreg.InputError, match="elastix takes ratios up to 1000"):
        image.dreg.plan(image, stages=[stage])
    assert image.dreg.plan(image, stages=[xdreg.Affine(), xdreg.LocalCorrelation()])
