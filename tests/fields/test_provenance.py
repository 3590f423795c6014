"""The run described by a field's attributes, whole, in part, or damaged."""

import json
from pathlib import Path

import numpy as np
import pytest

import xdreg
from tests.helpers.fields import wavy
from xdreg.fields.diagnostics import (
    DIAGNOSTICS,
    EARLIER,
    block_variables,
    earlier_variable,
)
from xdreg.fields.provenance import (
    last_deformable,
    last_metric,
    manifest_of,
    recorded_image,
    registered_channels,
    selects,
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
    first, last = (
        {name: np.zeros(shape, np.float32) for name in DIAGNOSTICS}
        for shape in ((1, 1), (2, 2))
    )
    field = field.assign(block_variables(last, fixed.dims))
    return field.assign({EARLIER: earlier_variable({0: first})}), fixed


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
    assert recorded_image(field, "fixed") == str(Path("a.zarr").absolute())
    assert recorded_image(field, "moving") is None
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
    assert recorded_image(field, "fixed") is None
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


@pytest.fixture
def named(tmp_path):
    """Return a function that stores a field, and opens it with what it names."""

    def store(source, folder=tmp_path / "a" / "out", **more):
        field, _ = described(fixed={"source": str(source), **more})
        folder.mkdir(parents=True)
        xdreg.save(field, folder / "field.ome.zarr")
        return xdreg.open_field(folder / "field.ome.zarr")

    return store


def test_images_are_found_where_they_were_or_from_the_field(named, tmp_path):
    image = tmp_path / "a" / "fixed.ome.zarr"
    image.mkdir(parents=True)
    field = named(image)
    assert recorded_image(field, "fixed") == str(image)
    moved = (tmp_path / "a").rename(tmp_path / "b")
    again = xdreg.open_field(moved / "out/field.ome.zarr")
    assert recorded_image(again, "fixed") == str(moved / "fixed.ome.zarr")
    # Saved elsewhere, it names the image where it is now.
    xdreg.save(again, tmp_path / "copy.ome.zarr")
    moved.rename(tmp_path / "c")
    copy = xdreg.open_field(tmp_path / "copy.ome.zarr")
    assert recorded_image(copy, "fixed") == str(moved / "fixed.ome.zarr")


def test_a_relative_source_is_recorded_whole(named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fixed.ome.zarr").mkdir()
    field = named("fixed.ome.zarr")
    monkeypatch.chdir("/")
    assert recorded_image(field, "fixed") == str(tmp_path / "fixed.ome.zarr")


@pytest.mark.parametrize(
    "relative",
    ["http://127.0.0.1:9/x", "//server/share/x", "a::b", 5, "/net/server/x", "\0"],
)
def test_what_stands_for_a_relative_path_is_judged_too(named, relative):
    field = named("/gone/fixed.ome.zarr")
    manifest = json.loads(field.attrs["xdreg"])
    manifest["fixed"]["relative"] = relative
    field.attrs["xdreg"] = json.dumps(manifest)
    try:
        found = recorded_image(field, "fixed")
    except xdreg.InputError as error:
        assert error.remedy == {"trust": True}
    else:
        assert found == "/gone/fixed.ome.zarr"


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:9/x.zarr", "reference::http://127.0.0.1:9/x", "//h/s"]
)
def test_an_address_elsewhere_needs_trust(named, address):
    field = named(address)
    with pytest.raises(xdreg.InputError, match=address) as caught:
        recorded_image(field, "fixed")
    assert "fixed image" in str(caught.value)
    assert str(caught.value).endswith("trust=True")
    assert recorded_image(field, "fixed", trust=True) == address
    # A name in memory has no store of its own.
    field.encoding.clear()
    with pytest.raises(xdreg.InputError):
        recorded_image(field, "fixed")


def test_a_device_is_opened_for_nobody(named):
    with pytest.raises(xdreg.InputError, match=r"/dev/zero.*a device") as caught:
        recorded_image(named("/dev/zero"), "fixed", trust=True)
    assert caught.value.remedy == {}


def test_a_store_says_not_itself_where_it_is(named, tmp_path):
    field = named("http://127.0.0.1:9/run/x.zarr")
    claim = "http://127.0.0.1:9/run/field.ome.zarr"
    path = tmp_path / "claim.ome.zarr"
    xdreg.save(field.assign_attrs(source=claim), path)
    opened = xdreg.open_field(path)
    assert opened.encoding["source"] == str(path)
    with pytest.raises(xdreg.InputError):
        recorded_image(opened, "fixed")
