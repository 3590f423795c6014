"""The verdict on a registration, and the tables of its stages and blocks."""

import json

import numpy as np
import pytest

import xdreg
from xdreg.partition import BlockStatus


@pytest.fixture(scope="module")
def pair():
    return xdreg.datasets.phantom_pair((72, 80), amplitude=2.0)


@pytest.fixture(scope="module")
def field(pair):
    stages = ["rigid", xdreg.LocalCorrelation(level=0, block_shape=24, iterations=5)]
    return pair.fixed.dreg.register(
        pair.moving, stages=stages, metric="lncc", progress=False
    ).load()


def with_status(field, status, count):
    values = field.block_status.copy()
    values.values.ravel()[:count] = status
    return field.assign(block_status=values)


def test_a_good_registration_and_its_tables(field):
    verdict = field.dreg.verdict
    assert (verdict.word, verdict.reasons) == ("good", ())
    assert "verdict" in repr(field.dreg)
    stages, blocks = field.dreg.stages, field.dreg.blocks
    assert stages.stage.tolist() == ["rigid", "local_correlation"]
    assert stages.blocks.tolist() == [1, field.block_status.size]
    assert stages.similarity_after[1] > stages.similarity_before[1]
    last = blocks.loc[1]
    assert (last.status == "success").all()
    assert last.similarity_after[(0, 1)] == field.block_similarity_after[0, 1]
    assert list(last.index.names) == ["y", "x"]
    assert field.dreg.metric == "lncc"
    assert field.dreg.pose["margin"] > 0.125


def test_doubts_and_failures(field):
    size = field.block_status.size
    doubtful = with_status(field, BlockStatus.REJECTED, size // 3).dreg.verdict
    assert doubtful.word == "doubtful"
    assert f"{size // 3} of {size} blocks were not used (rejected)" in str(doubtful)
    failed = with_status(field, BlockStatus.CRASHED, size).dreg.verdict
    assert failed.word == "failed"
    empty = with_status(field, BlockStatus.NO_OVERLAP, size).dreg.verdict
    assert empty.word == "failed"
    assert "share no content" in str(empty)
    pose = json.dumps(field.dreg.pose | {"margin": 0.01})
    assert field.assign_attrs(pose=pose).dreg.verdict.word == "doubtful"
    worse = field.block_similarity_before - 0.1
    verdict = field.assign(block_similarity_after=worse).dreg.verdict
    assert verdict.word == "failed"
    assert "less similar" in str(verdict)
    # What agrees already, or has no content, is no failure.
    same = with_status(field, BlockStatus.NOT_IMPROVED, size - 1).dreg.verdict
    assert same.word == "good"
    some = with_status(field, BlockStatus.EMPTY, size // 2).dreg.verdict
    assert some.word == "good"


def test_a_wrong_start_is_doubtful_and_one_put_right_is_good():
    pair = xdreg.datasets.phantom_pair((160, 192), seed=5, noise=0.02)
    wrong = np.eye(3)
    wrong[0, 2] = 100.0
    field = pair.fixed.dreg.register(pair.moving, initial=wrong, progress=False)
    verdict = field.dreg.verdict
    assert verdict.word == "doubtful"
    assert "where the registration started" in verdict.reasons[0]
    wrong[0, 2] = 40.0
    field = pair.fixed.dreg.register(pair.moving, initial=wrong, progress=False)
    choice = json.loads(field.attrs["xdreg"])["choice"]
    assert max(choice["correlation"], choice["shapes"]) < 0.1
    assert field.dreg.verdict.word == "good"


@pytest.mark.parametrize("choice", [None, [], {"correlation": "0"}, {"shapes": 0.0}])
def test_a_damaged_choice_is_no_reason(field, choice):
    made = json.loads(field.attrs["xdreg"])
    made["stages"] = [stage | {"metric": "mind"} for stage in made["stages"]]
    known = field.assign_attrs(xdreg=json.dumps(made | {"choice": choice}))
    assert known.dreg.verdict.word == "good"
    choice = {"correlation": 0.02, "shapes": 0.01}
    known = field.assign_attrs(xdreg=json.dumps(made | {"choice": choice}))
    assert known.dreg.verdict.word == "doubtful"


def test_a_field_that_records_no_run(field):
    bare = field.drop_attrs().drop_vars([n for n in field if "block" in str(n)])
    assert bare.dreg.verdict.word == "unknown"
    assert bare.dreg.pose is None
    assert bare.dreg.blocks.empty
    damaged = field.assign_attrs(pose="[")
    with pytest.raises(xdreg.StoreError, match="'pose' is damaged"):
        damaged.dreg.verdict  # noqa: B018


def test_images_that_have_nothing_in_common(pair):
    noise = np.random.default_rng(0).random(pair.moving.shape).astype(np.float32)
    moving = pair.moving.copy(data=noise)
    found = pair.fixed.dreg.register(moving, metric="lncc", progress=False)
    assert found.dreg.verdict.word in ("doubtful", "failed")


def test_chunks_that_masks_leave_out_raise_no_doubt(pair, tmp_path):
    mask = pair.foreground.astype("uint8").compute()
    mask[40:] = 0
    path = tmp_path / "mask.ome.zarr"
    xdreg.save(mask, path, chunks=16)
    chunks = [p for p in path.rglob("*") if p.is_file() and p.name.isdecimal()]
    assert len(chunks) < 30  # of 5 × 5 of the finest level, and others
    field = pair.fixed.dreg.register(
        pair.moving,
        fixed_mask=xdreg.open_ome_zarr(path),
        stages=[xdreg.LocalCorrelation(level=0, block_shape=40, iterations=5)],
        metric="lncc",
        progress=False,
    )
    assert not field.block_missing_chunks.fillna(0).any()
    assert field.dreg.verdict.word == "good"
