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


def test_stages_by_name():
    pair = xdreg.datasets.phantom_pair((64, 64))

    def names(stages):
        made = xdreg.plan(pair.fixed, pair.moving, stages=stages)
        return [stage.options.name for stage in made.stages]

    assert names("affine") == ["affine"]
    assert names(["rigid", "local_correlation"]) == ["rigid", "local_correlation"]
    assert names([xdreg.Rigid(), "bspline"]) == ["rigid", "bspline"]
    for wrong in ("afine", ["affine", "splines"], ""):
        with pytest.raises(xdreg.InputError, match="name among translation, rigid"):
            names(wrong)


def test_a_plan_fits_a_terminal_and_a_notebook():
    pair = xdreg.datasets.phantom_pair((300, 400, 500))
    made = xdreg.plan(pair.fixed, pair.moving)
    lines = str(made).splitlines()
    assert max(map(len, lines)) <= 80
    for name, value in made.table()[-1].items():
        assert any(name in line for line in lines)
        assert any(value in line for line in lines)
    page = made._repr_html_()
    # A row per stage and per finest level, each below a heading.
    assert page.count("<tr>") == len(made.stages) + 1 + 3 + 1
    assert "the work directory needs" in page
