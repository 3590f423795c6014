"""The files of machine code: of the right types, never stale, never in the way."""

import errno
import importlib.util
import pkgutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numba.core import caching
from numba.core.dispatcher import Dispatcher

import xdreg.engines
import xdreg.numerics
from xdreg.numerics.kernel_files import is_stored

HEAD = "from xdreg.numerics.kernel_files import kernel\n"

TOTAL = """
@kernel({options})
def total(a):
    s = 0.0
    for k in range(a.size):
        s += term(a[k])
    return s
"""

TERM = """
@kernel()
def term(x):
    return {term}
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Return a function that writes and loads two modules; returns kernel ``total``."""
    monkeypatch.syspath_prepend(tmp_path)

    def load(term="2 * x", above="", options=""):
        (tmp_path / "terms.py").write_text(HEAD + TERM.format(term=term))
        (tmp_path / "totals.py").write_text(
            above + HEAD + "from terms import term\n" + TOTAL.format(options=options)
        )
        for name in ("terms", "totals"):
            spec = importlib.util.spec_from_file_location(name, tmp_path / f"{name}.py")
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            # The sources change within the resolution of a file's time.
            exec(
                compile(Path(spec.origin).read_text(), spec.origin, "exec"),
                vars(module),
            )
        return module.total

    yield load
    for name in ("terms", "totals"):
        sys.modules.pop(name, None)


def hits(kernel):
    return sum(kernel.stats.cache_hits.values())


def files(folder):
    return sorted(folder.rglob("totals.total*"))


def test_code_is_kept_and_found(load):
    first = load()
    assert not is_stored(first)
    assert first(np.ones(3)) == 6
    assert is_stored(first)
    again = load(above="# A comment that moves the lines.\n\n")
    assert (again(np.ones(3)), hits(again)) == (6, 1)


def test_a_change_of_a_called_kernel_in_another_file_is_seen(load, tmp_path):
    load()(np.ones(3))
    stale = files(tmp_path)
    changed = load(term="5 * x")
    assert not is_stored(changed)
    assert (changed(np.ones(3)), hits(changed)) == (15, 0)
    assert len(stale) == len(files(tmp_path)) == 1
    assert stale != files(tmp_path)


def test_options_are_not_taken_over_from_the_caller(load):
    total = load("x * x + x", options='fastmath={"contract"}')
    total(np.ones(3))
    term = sys.modules["terms"].term
    assert any("contract" in text for text in total.inspect_llvm().values())
    assert not any("contract" in text for text in term.inspect_llvm().values())


@pytest.mark.parametrize("harm", [b"", b"short", None])
def test_a_damaged_file_is_made_again(load, tmp_path, harm):
    load()(np.ones(3))
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]) if harm is None else harm)
    again = load()
    assert (again(np.ones(3)), hits(again)) == (6, 0)
    third = load()
    assert (third(np.ones(3)), hits(third)) == (6, 1)


def test_a_full_disk_stops_nothing(load, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    kernel = load()
    assert kernel(np.ones(3)) == 6
    assert files(tmp_path) == []


def test_no_folder_stops_nothing(load, monkeypatch):
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    kernel = load()
    assert kernel(np.ones(3)) == 6
    assert not is_stored(kernel)


KERNELS = 12

MANY = HEAD + "".join(
    f"""
@kernel()
def f{n}(a):
    s = 0.0
    for k in range(a.size):
        s += {n} * a[k]
    return s
"""
    for n in range(KERNELS)
)

RUN = """
import sys, time, numpy as np, many
many.f0(np.ones(1, np.int64))
values = np.ones(5, sys.argv[1])
for n in range(1, {kernels}):
    while time.time() < float(sys.argv[2]) + n * 0.25:
        pass
    getattr(many, f"f{{n}}")(values)
"""


def test_processes_that_compile_at_once_keep_both_types(tmp_path, monkeypatch):
    """With an index of files in common one may name the other's code (numba 4807)."""
    (tmp_path / "many.py").write_text(MANY)
    start = str(time.time() + 5)
    command = [sys.executable, "-c", RUN.format(kernels=KERNELS)]
    running = [
        subprocess.Popen([*command, dtype, start], cwd=tmp_path)
        for dtype in ("float32", "float64")
    ]
    assert [process.wait() for process in running] == [0, 0]
    monkeypatch.syspath_prepend(tmp_path)
    many = importlib.import_module("many")
    monkeypatch.delitem(sys.modules, "many")
    for n in range(1, KERNELS):
        kernel = getattr(many, f"f{n}")
        found = [kernel(np.ones(5, dtype)) for dtype in (np.float32, np.float64)]
        assert found == [5 * n, 5 * n]
        assert hits(kernel) == 2


def test_fast_kernels_are_inlined_where_others_call_them():
    """Else a process has two copies of one, which may round in another way."""
    modules = [
        importlib.import_module(found.name)
        for wing in (xdreg.numerics, xdreg.engines)
        for found in pkgutil.iter_modules(wing.__path__, f"{wing.__name__}.")
    ]
    values = [value for module in modules for value in vars(module).values()]
    kernels = [value for value in values if isinstance(value, Dispatcher)]
    called = {
        called
        for kernel in kernels
        for name in kernel.py_func.__code__.co_names
        if isinstance(called := kernel.py_func.__globals__.get(name), Dispatcher)
    }
    assert len(called) > 40
    for kernel in called:
        options = kernel.targetoptions
        inlined = options.get("forceinline") or options.get("inline") == "always"
        assert inlined or not options.get("fastmath"), kernel.py_func.__name__
