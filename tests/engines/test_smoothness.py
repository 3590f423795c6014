"""The choice between a smooth and a rough field."""

import numpy as np
import pytest

import xdreg
from xdreg.coordinates import grid_of
from xdreg.engines import local_correlation as engine
from xdreg.engines.local_correlation import local_correlation

#: The finest level of a run.
FINEST = {"update_sigma": 2.0, "field_sigma": 0.72}


@pytest.fixture(scope="module")
def seen_twice():
    """Return one object seen twice with noise, and the motion between."""
    pair = xdreg.datasets.phantom_pair((56, 56, 56), amplitude=1.5)
    rng = np.random.default_rng(0)

    def noisy(image):
        noise = rng.normal(0, 0.1 * float(image.std()), image.shape)
        return (image.compute() + noise).astype("float32")

    return noisy(pair.fixed), noisy(pair.moving), pair


def error(displacement, pair):
    inside = pair.foreground.values
    gap = displacement.values - pair.displacement.values
    return float(np.sqrt((gap**2).sum(axis=0))[inside].mean())


def test_one_object_seen_twice_is_given_a_smooth_field(seen_twice):
    fixed, moving, pair = seen_twice
    rough = local_correlation(fixed, moving, **FINEST).displacement
    chosen = local_correlation(fixed, moving, rougher=1.4, **FINEST).displacement
    assert error(chosen, pair) < 0.7 * error(rough, pair)


def test_a_rough_field_is_that_of_the_given_settings(seen_twice):
    fixed, moving, _ = seen_twice
    rough = local_correlation(fixed, moving, **FINEST).displacement
    # The comparison leaves no trace in its bits.
    chosen = local_correlation(fixed, moving, rougher=1e-9, **FINEST).displacement
    np.testing.assert_array_equal(chosen, rough)


def test_the_choice_has_equal_bits_for_any_number_of_threads(seen_twice):
    fixed, moving, _ = seen_twice
    one, three = (
        local_correlation(fixed, moving, rougher=1.4, threads=n, **FINEST).displacement
        for n in (1, 3)
    )
    np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize("rougher", [1e-9, 1e9], ids=["rough", "smooth"])
@pytest.mark.parametrize("iterations", [1, 2, 4, 5, 9])
def test_few_iterations_are_not_exceeded(seen_twice, iterations, rougher):
    fixed, moving, _ = seen_twice
    options = {"iterations": iterations, "step": 0.1, "rougher": rougher, **FINEST}
    found = local_correlation(fixed, moving, **options).displacement.values
    longest = float(np.sqrt((found**2).sum(axis=0)).max())
    assert 0 < longest <= 1.001 * 0.1 * iterations


@pytest.mark.parametrize("option", ["radius", "update_sigma", "field_sigma"])
def test_settings_that_a_user_gives_are_kept(seen_twice, option):
    grid = grid_of(seen_twice[0], "fixed")
    options = {"metric": "lncc", "search": False}
    for finest in (True, False):
        free = engine.by_level(options, grid, finest=finest)
        given = engine.by_level({**options, option: 2.0}, grid, finest=finest)
        assert free["rougher"] > 0
        assert not given.get("rougher")


def test_a_second_attempt_is_not_made_smoother_and_rougher_at_once(seen_twice):
    grid = grid_of(seen_twice[0], "fixed")
    options = engine.by_level({"metric": "lncc", "search": False}, grid, finest=True)
    assert engine.safer(options, grid)["rougher"] == 0
