"""Blocks that crash, hang or exhaust memory: only they are lost."""

import threading
import time

import numpy as np
import pytest
import xarray as xr

import xdreg
from tests.helpers.hostile import hostile, shift
from tests.helpers.pairs import SHAPE, shifted_pair
from xdreg import partition as blocks
from xdreg.coordinates import grid_of
from xdreg.engines import processes
from xdreg.engines.isolated import Isolated
from xdreg.errors import Interrupted
from xdreg.fields.diagnostics import status_counts


def run(kind, workdir=None, **limits):
    """Register in twelve blocks, of which two fail."""
    stage = xdreg.Custom(method=hostile, level=0, options={"kind": kind}, **limits)
    options = {"block_shape": 24, "overlap": 8, "metric": "ncc", "workdir": workdir}
    fixed, moving = shifted_pair()
    return fixed.dreg.register(moving, stages=[stage], progress=False, **options)


@pytest.fixture(scope="module")
def expected():
    """Return the field of a run whose bad blocks raise an exception."""
    field = run("raise")
    assert status_counts(field) == {"success": 10, "crashed": 2}
    return field


def check(field, expected, status):
    """Check the status of bad blocks, and that all else is as expected."""
    code = blocks.BlockStatus[status.upper()]
    bad = expected.block_status == 7
    assert (field.block_status.values[bad] == code).all()
    assert (field.block_status.values[~bad] == 0).all()
    np.testing.assert_array_equal(field.displacement, expected.displacement)


@pytest.mark.parametrize(
    ("kind", "limits", "status", "text"),
    [
        ("segfault", {}, "crashed", "SIGSEGV"),
        ("abort", {}, "crashed", "SIGABRT"),
        ("kill", {}, "crashed", "SIGKILL, perhaps for lack of memory"),
        ("sleep", {"timeout": 1}, "timeout", "after 1 s"),
        ("hang", {"timeout": 1}, "timeout", "after 1 s"),
        ("memory", {"memory_limit": "500 MiB"}, "crashed", "limit of 500.00 MiB"),
    ],
)
def test_harm_costs_its_block_only(kind, limits, status, text, expected, tmp_path):
    field = run(kind, workdir=tmp_path / "run", **limits)
    check(field, expected, status)
    errors = list((tmp_path / "run" / "stage_00" / "errors").glob("*.txt"))
    assert len(errors) == 2
    assert all(text in file.read_text("utf-8") for file in errors)


def test_functions_of_a_script_and_itk_transforms_travel():
    import itk

    amount = 2.0

    def local(fixed, moving):
        transform = itk.TranslationTransform[itk.D, 2].New()
        transform.SetOffset([amount, 0.0])
        return transform

    grid = grid_of(shifted_pair()[0])
    found = Isolated.of(local, None, None)(*shifted_pair())
    assert grid_of(found.isel(component=0)) == grid
    np.testing.assert_allclose(found.sel(component=1), 2.0)


def raises(fixed, moving):
    msg = "my own message"
    raise ValueError(msg)


class Holder:
    """A method that holds what cannot be sent to a process."""

    def __init__(self):
        self.lock = threading.Lock()

    def __call__(self, fixed, moving):
        return xr.zeros_like(fixed).expand_dims(component=2)


def test_a_run_in_which_all_blocks_fail_says_why():
    fixed, moving = shifted_pair()
    stage = xdreg.Custom(method=raises, level=0)
    with pytest.raises(xdreg.MethodError, match="said: ValueError: my own message"):
        fixed.dreg.register(moving, stages=[stage], progress=False)


def test_a_method_that_does_not_pickle_is_refused_with_a_remedy_that_works():
    fixed, moving = shifted_pair()
    stage = xdreg.Custom(method=Holder(), level=0)
    with pytest.raises(xdreg.InputError, match=r"Holder.*isolated=False"):
        fixed.dreg.register(moving, stages=[stage], progress=False)
    threads = xdreg.Custom(method=Holder(), level=0, isolated=False)
    field = fixed.dreg.register(moving, stages=[threads], progress=False)
    assert not field.displacement.values.any()


def test_a_method_in_threads_sees_what_it_changes():
    seen = []

    def look(fixed, moving):
        seen.append(fixed.shape)
        return shift(fixed, moving)

    fixed, moving = shifted_pair()
    stage = xdreg.Custom(method=look, isolated=False)
    fixed.dreg.register(moving, stages=[stage], metric="ncc", progress=False)
    assert seen == [SHAPE]
    for limit in ({"timeout": 1.0}, {"memory_limit": "1 GB"}):
        with pytest.raises(xdreg.InputError, match="thread"):
            xdreg.Custom(method=look, isolated=False, **limit)
    for limit in ("much", "", " ", "1e400 GB", -1):
        with pytest.raises(xdreg.InputError, match="memory_limit"):
            xdreg.Custom(method=look, memory_limit=limit)


def test_a_process_stopped_with_its_owner_leaves_no_record(tmp_path):
    """A worker that leaves kills its processes; their blocks have not failed."""
    fixed, moving = shifted_pair()

    (tmp_path / "log").mkdir()
    options = {"kind": "sleep", "share": 1, "log": str(tmp_path / "log")}
    stage = xdreg.Custom(method=hostile, level=0, options=options)

    def shut_down():
        while not list((tmp_path / "log").iterdir()):
            time.sleep(0.05)
        processes.shutdown()

    threading.Thread(target=shut_down, daemon=True).start()
    with pytest.raises(Interrupted):
        fixed.dreg.register(
            moving,
            stages=[stage],
            metric="ncc",
            workdir=tmp_path / "run",
            progress=False,
        )
    assert not list((tmp_path / "run" / "stage_00" / "records").glob("[0-9]*"))
    assert not list((tmp_path / "run" / "stage_00" / "errors").glob("*"))
