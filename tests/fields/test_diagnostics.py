"""Names of statuses, and diagnostics as variables."""

import numpy as np
import pytest
import xarray as xr

import xdreg
from tests.helpers.fields import wavy
from xdreg.fields.diagnostics import (
    DIAGNOSTICS,
    HARMLESS,
    SEVERITY,
    block_variables,
    earlier_variable,
    of_earlier,
    status_counts,
    status_name,
)
from xdreg.partition import BlockStatus


def test_every_status_has_a_rank():
    ended = set(BlockStatus) - {BlockStatus.PENDING}
    assert {*SEVERITY, *HARMLESS, BlockStatus.SUCCESS} == ended


def test_statuses_are_counted_by_name():
    field, _ = wavy(2)
    assert status_counts(field) == {}
    record = {name: np.zeros((2, 2), np.float32) for name in DIAGNOSTICS}
    record["status"][0] = BlockStatus.FOLDED, 99
    field = field.assign(block_variables(record, ("y", "x")))
    assert field.block_status.dtype == np.int8
    assert "folded" in field.block_status.attrs["flag_meanings"].split()
    assert status_counts(field) == {"success": 2, "folded": 1, "status 99": 1}
    assert status_name(99.0) == "status 99"


def earlier():
    """Return the diagnostics of stages 0 and 2, and the variable that holds both."""
    records = {
        number: {
            name: np.arange(rows * 3, dtype=np.float32).reshape(rows, 3) + place
            for place, name in enumerate(DIAGNOSTICS)
        }
        for number, rows in ((0, 1), (2, 4))
    }
    return records, xr.DataArray(earlier_variable(records))


def test_the_diagnostics_of_other_stages_are_one_variable():
    records, variable = earlier()
    for number, record in records.items():
        found = of_earlier(variable, number)
        assert found["status"].dtype == np.int8
        assert list(found) == list(record)
        for name in DIAGNOSTICS:
            np.testing.assert_array_equal(found[name], record[name])
    assert of_earlier(variable, 1) == {}


@pytest.mark.parametrize(
    "damage",
    [
        {"stages": []},
        {"stages": None},
        {"stages": [0, "two"]},
        {"counts": [1, 3, 4]},
        {"counts": [1, 3, -4, -3]},
        {"counts": [1, 3, float("inf"), 3]},
        {"counts": [10**30] * 4},
        {"measures": "status"},
    ],
)
def test_damaged_diagnostics_of_other_stages_are_left_out(damage):
    _, variable = earlier()
    assert of_earlier(variable.assign_attrs(damage), 0) == {}
    del variable.attrs[next(iter(damage))]
    assert of_earlier(variable, 0) == {}


def test_a_field_of_five_stages_is_shown_in_few_lines(tmp_path):
    pair = xdreg.datasets.phantom_pair((16, 24, 24), amplitude=1.0)
    stages = [*["translation"] * 4, "local_correlation"]
    field = pair.fixed.dreg.register(
        pair.moving, stages=stages, metric="ncc", progress=False
    )
    xdreg.save(field, tmp_path / "field.ome.zarr")
    opened = xdreg.open_field(tmp_path / "field.ome.zarr")
    assert len(repr(field).splitlines()) == len(repr(opened).splitlines()) <= 36
    assert opened.dreg.blocks.equals(field.dreg.blocks)
    assert opened.dreg.stages["blocks"].tolist() == [1] * 5
