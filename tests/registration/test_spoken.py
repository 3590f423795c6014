"""The log of a run: compiling, and each stage."""

import importlib.util
import logging
import re

import pytest

import xdreg
from xdreg.registration.spoken import COMPILING, announced_compiling

KERNEL = """
import numba

@numba.njit(cache=True)
def {name}(a):
    return a + 1
"""


def kernel(folder, name):
    """Return a kernel that belongs to the package by its name, and lies in a folder."""
    file = folder / f"{name}.py"
    file.write_text(KERNEL.format(name=name), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"xdreg.numerics.{name}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def test_compiling_is_said_once_and_only_with_an_empty_cache(tmp_path, caplog):
    said = []
    caplog.set_level(logging.INFO, "xdreg")
    with announced_compiling(said.append):
        kernel(tmp_path, "one")(1)
        kernel(tmp_path, "two")(1)
    assert said == caplog.messages == [COMPILING]
    with announced_compiling(said.append):
        kernel(tmp_path, "one")(1)  # from the cache
        kernel(tmp_path, "three")(1)  # new, among others that are there
    assert len(said) == 1


@pytest.mark.parametrize("shape", [(48, 56), (24, 28, 32)])
def test_each_stage_is_logged(shape, caplog):
    caplog.set_level(logging.INFO, "xdreg")
    pair = xdreg.datasets.phantom_pair(shape, amplitude=1.0)
    stages = ["translation", xdreg.LocalCorrelation(level=0, block_shape=24)]
    field = pair.fixed.dreg.register(
        pair.moving, stages=stages, metric="lncc", progress=False
    )
    lines = [m for m in caplog.messages if m.startswith("stage")]
    count = field.block_status.size
    assert lines[0] == "stage 0 (translation, level 0) begins: 1 block"
    assert lines[2] == f"stage 1 (local_correlation, level 0) begins: {count} blocks"
    ended = re.fullmatch(
        r"stage 1 \(local_correlation, level 0\) ended after [\d.]+ s: (.*)", lines[3]
    )
    counts = xdreg.status_counts(field)
    assert ended[1] == ", ".join(f"{n} {name}" for name, n in counts.items())
