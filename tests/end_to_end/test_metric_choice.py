"""Registrations that choose the metric."""

import json
import logging

import numpy as np
import pytest

import xdreg
from tests.helpers.contrasts import FIXED, MOVING, PAIR, classes, like

OPTIONS = {"block_shape": 128, "progress": False}


def test_the_choice_is_told_and_gives_what_naming_it_gives(caplog):
    moving = like(classes([3, 0, 5, 1, 4, 2]))
    with caplog.at_level(logging.INFO, "xdreg"):
        field = FIXED.dreg.register(moving, **OPTIONS)
    assert field.attrs["metric"].startswith("mind, chosen: ")
    assert field.attrs["metric"] in caplog.text
    made = json.loads(field.attrs["xdreg"])
    assert {stage["metric"] for stage in made["stages"]} == {"mind"}
    assert made["choice"]["metric"] == "mind"
    named = FIXED.dreg.register(moving, metric="mind", **OPTIONS)
    np.testing.assert_array_equal(field.displacement, named.displacement)
    assert "metric" not in named.attrs


@pytest.mark.parametrize(
    "options",
    [
        {"initial": np.eye(3)},
        {"initial": "field"},
        {"stages": [xdreg.LocalCorrelation(level=0)]},
        {"stages": [xdreg.Translation(), xdreg.Rigid()]},
        {"fixed_mask": PAIR.foreground},
    ],
    ids=["matrix", "field", "local", "translation", "mask"],
)
def test_any_run_may_be_left_to_choose(options):
    if isinstance(options.get("initial"), str):
        stages = [xdreg.LocalCorrelation(level=1, iterations=3)]
        field = FIXED.dreg.register(MOVING, stages=stages, metric="lncc", **OPTIONS)
        options = {"initial": field}
    options = {"stages": [xdreg.LocalCorrelation(level=1, iterations=3)]} | options
    field = FIXED.dreg.register(MOVING, **options, **OPTIONS)
    assert {s["metric"] for s in json.loads(field.attrs["xdreg"])["stages"]} == {"lncc"}
    assert field.attrs["metric"].startswith("lncc")


def test_a_run_that_is_resumed_does_not_choose_again(tmp_path, monkeypatch):
    options = OPTIONS | {"workdir": tmp_path / "run"}
    options["stages"] = [xdreg.LocalCorrelation(level=1, iterations=3)]
    first = FIXED.dreg.register(MOVING, **options)

    def never(*_, **__):
        raise AssertionError

    monkeypatch.setattr("xdreg.engines.metric_choice.choose_metric", never)
    again = FIXED.dreg.register(MOVING, **options)
    assert again.attrs == first.attrs
    np.testing.assert_array_equal(again.displacement, first.displacement)


def test_the_pose_is_looked_for_once(monkeypatch):
    def never(*_, **__):
        raise AssertionError

    monkeypatch.setattr("xdreg.registration.linear_stage.find_pose", never)
    field = FIXED.dreg.register(MOVING, stages=[xdreg.Affine()], **OPTIONS)
    assert json.loads(field.attrs["pose"])["score"] > 0.5


def test_a_stage_with_a_metric_of_its_own_keeps_it():
    stages = [xdreg.LocalCorrelation(level=1, metric="mind", iterations=3)]
    field = FIXED.dreg.register(MOVING, stages=stages, **OPTIONS)
    assert "metric" not in field.attrs
    assert json.loads(field.attrs["xdreg"])["stages"][0]["metric"] == "mind"


def test_a_plan_leaves_it_open_and_reads_nothing():
    lazy = PAIR.fixed.copy(data=PAIR.fixed.data.map_blocks(_fails, dtype="uint16"))
    plan = lazy.dreg.plan(lazy)
    assert {row["metric"] for row in plan.table()} == {"auto"}
    assert "chosen when the run starts" in str(plan)
    assert {s.metric for s in plan.decided("mind").stages} == {"mind"}
    assert "chosen when" not in str(plan.decided("mind"))
    nearest = lazy.dreg.plan(lazy, stages=[xdreg.BSpline()]).decided("mind")
    assert nearest.stages[0].metric == "mi"


def _fails(block):
    raise AssertionError


def test_samples_need_a_metric_of_elastix():
    stages = [xdreg.Affine(samples=500)]
    with pytest.raises(xdreg.InputError, match="'auto' takes every voxel"):
        FIXED.dreg.plan(MOVING, stages=stages)
