"""Warnings at the user's own line, and remedies of errors."""

import pickle
import warnings
from pathlib import Path

import pytest

import xdreg
from xdreg.errors import printable, warn


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


@pytest.mark.parametrize(
    "text", ["\x1b[31m", "\x9b2J", "\u202e", "\ud800", "\r", "\x00", "\u2028", "\ufeff"]
)
def test_text_of_files_steers_no_terminal(text):
    shown = ascii(text)[1:-1]
    assert printable(f"a{text}b") == f"a{shown}b"
    error = xdreg.StoreError(f"no {text}", path=text)
    assert str(error) == f"no {shown}: path={text!r}"
    with pytest.warns(UserWarning) as caught:
        warn(text)
    assert str(caught[0].message) == shown


def test_letters_stay():
    for text in ("µm, Zürich, 北京, ° ± × …", "a\u00a0b\u2009c", "two\n\tlines"):
        assert printable(text) == text
