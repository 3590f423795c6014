"""System calls of POSIX and their stand-ins on Windows."""

import ast
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

import xdreg
from xdreg.engines import processes
from xdreg.errors import InputError
from xdreg.stores import locks, posix

FOLDER = Path(xdreg.__file__).parent

#: What Windows lacks, or has with less in it.
MODULES = {"fcntl", "grp", "pty", "pwd", "resource", "signal", "termios"}
CALLS = {
    "fork", "getpgid", "getuid", "kill", "killpg", "link", "mkfifo", "pipe",
    "register_at_fork", "setsid", "sync", "uname",
}  # fmt: skip


def posix_calls(path):
    """Yield the names of POSIX modules and calls in a source file."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (v.name for v in node.names if v.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            yield node.module
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("os."):
            if node.attr in CALLS or ast.unparse(node) in ("os.name",):
                yield ast.unparse(node)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.platform":
            yield "sys.platform"


def test_one_module_has_the_calls_of_posix():
    for path in FOLDER.rglob("*.py"):
        found = set(posix_calls(path))
        assert bool(found) == (path.name == "posix.py"), f"{path}: {found}"


def test_all_modules_but_the_widget_load_without_what_only_posix_has():
    code = """
        import importlib, os, pkgutil, sys
        import distributed, psutil, xarray, zarr  # other libraries know their systems
        sys.modules |= dict.fromkeys(("fcntl", "grp", "pwd", "resource", "termios"))
        del os.register_at_fork, os.sync
        import xdreg
        for module in pkgutil.walk_packages(xdreg.__path__, "xdreg."):
            if not module.name.endswith(("napari_widget", "__main__")):
                importlib.import_module(module.name)
        print(len([name for name in sys.modules if name.startswith("xdreg.")]))
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 100


def test_an_engine_process_answers_without_lifeline(monkeypatch):
    monkeypatch.setattr(posix, "make_lifeline", lambda: (None, None))
    processes.shutdown()
    assert processes.call("math:hypot", 3, 4) == 5.0
    processes.shutdown()


def windows_locks(taken):
    """Return a stand-in for `msvcrt`, whose locks end with `taken`."""

    def locking(fd, _, length):
        assert os.lseek(fd, 0, os.SEEK_CUR) >= 4096
        assert length == 1
        place = os.fstat(fd).st_ino
        if place in taken:
            raise PermissionError(13, "Permission denied")
        taken.add(place)

    return SimpleNamespace(locking=locking, LK_NBLCK=2)


def test_windows_locks_a_byte_that_nobody_reads(tmp_path, monkeypatch):
    taken = set()
    monkeypatch.setattr(posix, "WINDOWS", True)
    monkeypatch.setitem(sys.modules, "msvcrt", windows_locks(taken))
    with locks.Lock(tmp_path):
        assert taken
        with pytest.raises(InputError, match=f"in use by process {os.getpid()}"):
            locks.Lock(tmp_path).__enter__()
    taken.clear()
    with locks.Lock(tmp_path):
        assert taken


def test_a_process_without_lifeline_ends_with_its_parent():
    # As on Windows: the grandchild watches its parent's number.
    grandchild = """
        import os, sys, time
        from xdreg.stores import posix
        posix.end_with_parent(os.getppid(), None)
        print("ready", flush=True)
        time.sleep(60)
        print("outlived its parent")
    """
    child = """
        import subprocess, sys
        code = sys.stdin.read()
        process = subprocess.Popen([sys.executable, "-c", code], stdout=sys.stdout)
        sys.stdin = None
        import time; time.sleep(60)
    """
    run = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(child)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    run.stdin.write(textwrap.dedent(grandchild).encode())
    run.stdin.close()
    assert run.stdout.readline() == b"ready\n"
    run.kill()
    assert run.wait(10) == posix.KILLED
    # The pipe ends when the last process that may write to it has ended.
    assert run.stdout.read() == b""


def test_exits_are_described():
    assert posix.describe_exit(3) == "exit code 3"
    assert posix.describe_exit(-9) == "signal SIGKILL"
    assert posix.describe_exit(-99) == "signal 99"


def test_peak_memory_is_that_of_a_process_with_libraries():
    assert 30e6 < posix.peak_memory() < 64e9


@pytest.mark.skipif(os.name == "nt", reason="Windows has no forks")
def test_a_signal_to_a_fork_that_has_only_begun_is_not_lost():
    """A pool ends its workers at once if their work is done before they begin."""
    code = """
        import os, signal, time
        from xdreg.stores import posix
        os.register_at_fork(after_in_child=lambda: time.sleep(0.5))
        posix.leave_signals_to_parent()
        posix.after_fork(posix.heed_signals)
        fork = os.fork()
        if fork == 0:
            time.sleep(20)
            os._exit(0)
        os.kill(fork, signal.SIGTERM)
        assert os.WTERMSIG(os.waitpid(fork, 0)[1]) == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)  # left to the parent, as before
        print("ignored")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        check=True,
        encoding="utf-8",
        timeout=60,
    )
    assert done.stdout.strip() == "ignored"
