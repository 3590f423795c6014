"""Programs that watch a run, and stop it."""

import threading
import time

import numpy as np
import pytest

import xdreg
from xdreg.engines.local_correlation import local_correlation
from xdreg.registration.progress import Advance

SHAPE = (96, 96)


STAGES = [
    xdreg.Affine(iterations=5),
    xdreg.LocalCorrelation(level=0, iterations=5),
]


OPTIONS = {"stages": STAGES, "metric": "lncc", "block_shape": 24}


class Stop(Exception):
    """Raised by a listener."""


@pytest.fixture(scope="module")
def pair():
    return xdreg.datasets.phantom_pair(SHAPE, amplitude=2.0)


def blocks_done(workdir):
    return len(list((workdir / "stage_00" / "records").glob("[0-9]*")))


def test_listener_hears_all(pair):
    heard = []
    pair.fixed.dreg.register(pair.moving, progress=heard.append, **OPTIONS)
    assert all(isinstance(a, Advance) for a in heard)
    stages = list(dict.fromkeys(a.stage for a in heard))
    assert len(stages) == 2
    for name, total in zip(stages, (1, 16), strict=True):
        counts = [a.done for a in heard if a.stage == name]
        assert counts == sorted(counts)
        assert (counts[0], counts[-1]) == (0, total)
        assert {a.total for a in heard if a.stage == name} == {total}
    for advance in heard:
        # Known from the first block on.
        if advance.total > 1:
            assert (advance.left >= 0) == (advance.done > 0)


def test_listener_stops_a_run_that_goes_on(pair, tmp_path):
    # Files, as a method that fills a list is another one each time.
    folder = tmp_path / "calls"
    folder.mkdir()

    def calls():
        return len(list(folder.iterdir()))

    def method(fixed, moving):
        (folder / f"{threading.get_ident()}-{time.monotonic_ns()}").touch()
        time.sleep(0.1)
        return local_correlation(fixed, moving, iterations=3).displacement

    stage = xdreg.Custom(method=method, isolated=False, level=0)
    options = {"stages": stage, "metric": "lncc", "block_shape": 24}
    whole = pair.fixed.dreg.register(pair.moving, progress=False, **options)
    assert calls() == 16
    for file in folder.iterdir():
        file.unlink()

    def listener(advance):
        if advance.done:
            raise Stop

    work = tmp_path / "run"
    with pytest.raises(Stop):
        pair.fixed.dreg.register(
            pair.moving, progress=listener, workdir=work, **options
        )
    stopped_after = calls()
    assert 0 < stopped_after < 12
    time.sleep(0.4)  # what was under way ends, and nothing begins
    assert blocks_done(work) <= calls() < 12
    again = pair.fixed.dreg.register(
        pair.moving, progress=False, workdir=work, **options
    )
    assert calls() <= 16 + 2
    np.testing.assert_array_equal(again.displacement, whole.displacement)


def test_listener_stops_before_the_first_stage(pair):
    def listener(advance):
        raise Stop

    before = threading.active_count()
    with pytest.raises(Stop):
        pair.fixed.dreg.register(pair.moving, progress=listener, **OPTIONS)
    assert threading.active_count() <= before + 1


def test_an_engine_process_is_stopped_at_once(pair, tmp_path):
    stage = xdreg.Custom(method=time_out, level=0)
    began = time.monotonic()

    def listener(advance):
        if time.monotonic() - began > 1.5:
            raise Stop

    with pytest.raises(Stop):
        pair.fixed.dreg.register(
            pair.moving, stages=stage, metric="lncc", progress=listener
        )
    assert time.monotonic() - began < 20


def time_out(fixed, moving):
    """Take a minute."""
    time.sleep(60)


def test_a_file_is_no_terminal_whatever_force_color_says(pair, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    pair.fixed.dreg.register(pair.moving, progress=True, **OPTIONS)
    assert capsys.readouterr().err == ""
