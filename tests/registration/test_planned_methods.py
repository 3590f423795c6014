"""What a kind of stage knows of its method."""

import pytest

import xdreg
from xdreg.engines import elastix
from xdreg.engines.isolated import Isolated
from xdreg.registration.planned_methods import PLANNED, planned_kind
from xdreg.registration.planned_stage import LIMIT_FACTOR
from xdreg.stages import Stage

PAIR = xdreg.datasets.phantom_pair((96, 112))


def method(fixed, moving):
    """Move nothing."""
    return fixed * 0


def planned(stage, **options):
    plan = PAIR.fixed.dreg.plan(PAIR.moving, stages=[stage], **options)
    return plan.stages[0]


def kinds(stage=Stage):
    """Yield the stages that users can name."""
    for kind in stage.__subclasses__():
        if kind.__name__ in xdreg.__all__:
            yield kind
        yield from kinds(kind)


def test_every_stage_is_planned():
    assert set(kinds()) == set(PLANNED)


def test_a_subclass_is_planned_as_its_parent():
    class Mine(xdreg.LocalCorrelation):
        pass

    assert planned_kind(Mine()) is PLANNED[xdreg.LocalCorrelation]


@pytest.mark.parametrize(
    ("stage", "metric", "by_elastix"),
    [
        (xdreg.Affine(), "lncc", False),
        (xdreg.Affine(), "mi", True),
        (xdreg.LocalCorrelation(), "mi", False),
        (xdreg.BSpline(), "lncc", True),
        (xdreg.Consensus(), "lncc", False),
    ],
)
def test_elastix_registers_what_needs_it(stage, metric, by_elastix):
    found = planned(stage, metric=metric)
    assert found.by_elastix is found.isolated is by_elastix
    assert (found.memory_limit is not None) is by_elastix
    assert (found.method in (elastix.linear, elastix.bspline)) is by_elastix


def test_a_limit_of_elastix_is_a_multiple_of_its_estimate_unless_given():
    found = planned(xdreg.BSpline())
    assert found.memory_limit == LIMIT_FACTOR * found.memory
    assert planned(xdreg.BSpline(memory_limit="2 GB")).memory_limit == 2_000_000_000


def test_a_users_method_is_isolated_unless_told_otherwise():
    found = planned(xdreg.Custom(method=method, timeout=3.0))
    assert isinstance(found.isolated_method, Isolated)
    assert found.isolated_method.timeout == 3.0
    thread = planned(xdreg.Custom(method=method, isolated=False))
    assert thread.isolated_method is method
    assert thread.memory < found.memory


def test_only_local_correlation_has_safer_options():
    found = planned(xdreg.LocalCorrelation(step=0.8))
    options = found.engine_options
    safer = found.safer_options(options)
    assert safer["step"] == 0.4
    assert safer["update_sigma"] == [2 * length for length in options["update_sigma"]]
    assert planned(xdreg.BSpline()).safer_options({}) is None


def test_blocks_of_a_stage_come_first_then_those_of_the_run_then_the_default():
    own = xdreg.LocalCorrelation(level=0, block_shape=40, overlap=4)
    assert planned(own, block_shape=60).partition.block_shape == (32, 38)
    free = xdreg.LocalCorrelation(level=0)
    assert planned(free, block_shape=60).partition.counts == (2, 2)
    assert planned(free).partition.counts == (1, 1)
    assert planned(free, block_shape=20).partition.overlap == (10, 10)


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [
        *(("10%", (3, 4)), (0.25, (8, 10)), ([0.1, 6], (3, 6)), (7, (7, 7))),
        *((("50%", "1%"), (16, 1)), ((2, 3), (2, 3)), ("0.1", (3, 4))),
    ],
)
def test_an_overlap_may_be_a_share_of_the_block(overlap, expected):
    stage = xdreg.LocalCorrelation(level=0, block_shape=40, overlap=overlap)
    assert planned(stage).partition.overlap == expected


@pytest.mark.parametrize("block_shape", [40, 1000])
@pytest.mark.parametrize(
    "overlap", ["ten", "60%", "-5%", "0%", 1.5, 8.0, True, ["10%"], [0.1, 0.2, 0.3]]
)
def test_an_overlap_that_is_none_is_refused(overlap, block_shape):
    stage = xdreg.LocalCorrelation(level=0, block_shape=block_shape, overlap=overlap)
    with pytest.raises(xdreg.InputError, match="overlap"):
        planned(stage)
