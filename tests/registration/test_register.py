"""Calls of `register` that return without or before a run."""

import dask
import numpy as np
import pytest

import xdreg
from tests.helpers.methods import nothing


def test_compute_false_returns_a_delayed_field():
    pair = xdreg.datasets.phantom_pair((40, 48))
    delayed = pair.fixed.dreg.register(
        pair.moving,
        stages=[xdreg.Custom(method=nothing)],
        progress=False,
        compute=False,
    )
    (field,) = dask.compute(delayed)
    assert float(np.abs(field.displacement).max()) == 0


def test_a_delayed_run_outlives_the_process_that_ran_it():
    pair = xdreg.datasets.phantom_pair((40, 48), amplitude=2.0)
    options = {"stages": [xdreg.LocalCorrelation(iterations=5)], "progress": False}
    delayed = xdreg.register(pair.fixed, pair.moving, compute=False, **options)
    with dask.config.set(scheduler="processes", num_workers=1):
        field = delayed.compute()
    direct = xdreg.register(pair.fixed, pair.moving, **options)
    np.testing.assert_array_equal(field.displacement, direct.displacement)


def test_a_delayed_run_is_checked_at_once():
    image = xdreg.datasets.phantom_pair((40, 48)).fixed
    with pytest.raises(xdreg.InputError, match="initial is a matrix"):
        xdreg.register(image, image, initial=np.eye(4), compute=False)
