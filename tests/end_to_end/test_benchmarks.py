"""Benchmarks, as far as they name parts of the package."""

import sys

import xdreg
from tests.benchmarks.__main__ import BENCHMARKS, main
from tests.benchmarks.machinery import Clock, run_timed


def test_every_part_of_a_block_is_timed():
    pair = xdreg.datasets.phantom_pair((48, 56), amplitude=1.0)
    stage = xdreg.LocalCorrelation(level=0, iterations=2, metric="lncc")
    field, spent = run_timed(pair, stages=[stage], block_shape=28)
    assert field.block_status.size == 4
    assert len(spent) == len(Clock.places)
    assert all(seconds > 0 for seconds in spent.values())


def test_benchmarks_say_what_they_print():
    assert len(BENCHMARKS) > 15
    assert all(benchmark.__doc__ for benchmark in BENCHMARKS.values())


def test_without_a_gpu_its_benchmark_says_so(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)
    main(["gpu"])
    assert capsys.readouterr().out.startswith("no GPU: CuPy cannot be imported")
