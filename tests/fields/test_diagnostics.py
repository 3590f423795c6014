"""Names of statuses, and diagnostics as variables."""

import numpy as np

from tests.helpers.fields import wavy
from xdreg.fields.diagnostics import (
    DIAGNOSTICS,
    HARMLESS,
    SEVERITY,
    block_variables,
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
    field = field.assign(block_variables(record, ("y", "x"), ""))
    assert field.block_status.dtype == np.int8
    assert "folded" in field.block_status.attrs["flag_meanings"].split()
    assert status_counts(field) == {"success": 2, "folded": 1, "status 99": 1}
    assert status_name(99.0) == "status 99"
