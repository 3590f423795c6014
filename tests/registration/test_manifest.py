"""The description by which a work directory recognises its run."""

import functools

import pytest

import xdreg
from xdreg.registration.manifest import describe_limits, describe_stage

PAIR = xdreg.datasets.phantom_pair((96, 112))


def method(fixed, moving, weight=1.0):
    """Move nothing."""
    return weight * 0 * fixed


def another(fixed, moving, weight=1.0):
    """Move nothing, in another way."""
    return 0 * fixed


def described(stage):
    plan = PAIR.fixed.dreg.plan(PAIR.moving, stages=[stage], metric="lncc")
    return describe_stage(plan.stages[0]), describe_limits(plan.stages[0])


CUSTOM = {"method": method, "level": 0, "options": {"weight": 1.0}}


def test_equal_stages_have_equal_descriptions():
    assert described(xdreg.Custom(**CUSTOM)) == described(xdreg.Custom(**CUSTOM))


@pytest.mark.parametrize(
    "changed",
    [
        {"method": another},
        {"method": functools.partial(method, weight=2.0)},
        {"options": {"weight": 2.0}},
        {"level": 1},
        {"reduction": "rigid"},
        {"block_shape": 40},
    ],
)
def test_a_change_of_an_option_changes_it(changed):
    before, _ = described(xdreg.Custom(**CUSTOM))
    after, _ = described(xdreg.Custom(**CUSTOM | changed))
    assert before != after


@pytest.mark.parametrize("limit", [{"timeout": 3.0}, {"memory_limit": "2 GB"}])
def test_a_limit_is_described_apart(limit):
    before, limits = described(xdreg.Custom(**CUSTOM))
    after, changed = described(xdreg.Custom(**CUSTOM | limit))
    assert before == after
    assert limits != changed
