"""Warnings at the user's own line, and remedies of errors."""

import pickle
import warnings
from pathlib import Path

import pytest

import xdreg
from xdreg.errors import warn


def test_a_warning_names_the_line_outside_the_package():
    phantom = xdreg.datasets.phantom_pair((64, 72))
    fixed = phantom.fixed.astype("float32").compute()
    fixed[:8] = float("nan")
    with pytest.warns(UserWarning, match="not finite") as caught:
        fixed.dreg.register(
            phantom.moving,
            stages=[xdreg.Translation()],
            metric="lncc",
            progress=False,
        )
    (found,) = (w for w in caught if "not finite" in str(w.message))
    assert Path(found.filename) == Path(__file__)


def test_a_direct_call_names_its_caller():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn("careful")
    assert [Path(w.filename) for w in caught] == [Path(__file__)]


def test_code_without_a_module_is_outside_the_package():
    with pytest.warns(UserWarning, match="careful"):
        exec(compile("warn('careful')", "<text>", "exec"), {"warn": warn})


def test_a_remedy_follows_the_message_and_survives_a_process():
    error = xdreg.StoreError("it is there already", overwrite=True, path=...)
    assert str(error) == "it is there already: overwrite=True, path=..."
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert again.remedy == error.remedy
