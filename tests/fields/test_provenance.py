"""The run described by a field's attributes, whole, in part, or damaged."""

import json

import numpy as np
import pytest

import xdreg
from tests.helpers.fields import wavy
from xdreg.fields.diagnostics import DIAGNOSTICS, block_variables
from xdreg.fields.provenance import (
    last_deformable,
    last_metric,
    manifest_of,
    registered_channels,
    selects,
    sources_of,
    stages_of,
    worst_blocks,
)
from xdreg.partition import BlockStatus, Partition


def described(**manifest):
    """Return a field with two stages, described by a manifest."""
    field, fixed = wavy(2)
    stages = [
        {"name": "affine"},
        {
            "name": "local_correlation",
            "metric": "lncc",
            "grid": fixed.to_dict(),
            "block_shape": [12, 13],
            "overlap": [2, 2],
            "field_step": [1, 1],
        },
    ]
    field.attrs["xdreg"] = json.dumps({"stages": stages, **manifest})
    for prefix, shape in (("stage0_", (1, 1)), ("", (2, 2))):
        record = {name: np.zeros(shape, np.float32) for name in DIAGNOSTICS}
        field = field.assign(block_variables(record, fixed.dims, prefix))
    return field, fixed


def test_stages_and_their_partitions():
    field, fixed = described()
    linear, deformable = stages_of(field)
    assert (linear.name, linear.linear, linear.counts) == ("affine", True, (1, 1))
    assert linear.partition is None
    assert deformable.statuses == {"success": 4}
    assert deformable.partition == Partition(fixed, (12, 13), (2, 2), (1, 1))
    assert last_deformable(field).number == 1
    assert last_metric(field) == "lncc"


def test_a_partition_that_contradicts_the_diagnostics_is_left_out():
    field, _ = described()
    manifest = json.loads(field.attrs["xdreg"])
    manifest["stages"][1]["block_shape"] = [5, 5]
    field.attrs["xdreg"] = json.dumps(manifest)
    assert stages_of(field)[1].partition is None


def test_sources_and_channels():
    channels = [[{"c": 1}], [{"c": [0.2, 0.7, 0.1]}]]
    field, _ = described(fixed={"source": "a.zarr"}, moving={}, channels=channels)
    assert sources_of(field) == {"fixed": "a.zarr"}
    fixed, moving = registered_channels(field)
    assert (fixed, moving) == ({"c": 1}, {"c": (0.2, 0.7, 0.1)})
    assert [selects(fixed, n) for n in (1, 2)] == [False, True]
    assert [selects(moving, n) for n in (2, 3)] == [False, True]
    assert not selects({}, 1)


def test_a_field_without_provenance():
    field, _ = wavy(2)
    assert (manifest_of(field), stages_of(field)) == ({}, ())
    assert last_deformable(field) is last_metric(field) is None
    assert registered_channels(field) == [{}, {}]


@pytest.mark.parametrize("text", ["[1]", "{", 3])
def test_a_damaged_description_is_named(text):
    field, _ = wavy(2)
    field.attrs["xdreg"] = text
    with pytest.raises(xdreg.StoreError, match="'xdreg' is damaged"):
        manifest_of(field)


@pytest.mark.parametrize("wrong", [3, [3], [{"grid": 1}], None])
def test_entries_of_other_types_are_ignored(wrong):
    field, _ = described(stages=wrong, channels=wrong, fixed=wrong)
    assert sources_of(field) == {}
    assert registered_channels(field) == [{}, {}]
    assert [stage.partition for stage in stages_of(field)] == [None]


def test_failed_blocks_come_before_the_least_similar():
    field, _ = described()
    field.block_status[0, 1] = BlockStatus.FOLDED
    field.block_status[1, 0] = BlockStatus.EMPTY
    field.block_similarity_after[1, 1] = -0.5
    stage = last_deformable(field)
    assert worst_blocks(stage) == [(0, 1), (1, 1), (0, 0)]
    assert worst_blocks(stage, 1) == [(0, 1)]
