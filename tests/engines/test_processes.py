"""Engine processes: results, failures, and that none outlives its use."""

import os
import pickle
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from xdreg.engines import processes
from xdreg.errors import InputError, MethodCrash, MethodError, MethodTimeout

HERE = f"{__name__}:"


def identity(value):
    return value


def pid():
    return os.getpid()


def nap(seconds):
    time.sleep(seconds)
    return time.monotonic()


def crash():
    print("about to fall", flush=True)
    os.kill(os.getpid(), 11)


def leave():
    os._exit(3)


def refuse(kind):
    if kind == "input":
        msg = "too small"
        raise InputError(msg)
    msg = "odd"
    raise ValueError(msg)


def contents(path):
    return Path(path).read_text()


def hold(size):
    held = bytearray(b"1") * size
    time.sleep(0.5)
    return len(held)


def chatter():
    os.write(1, b"native print\n" * 100_000)
    return "clean"


def litter():
    Path("deformationField.nii").write_text("x")
    return str(Path.cwd())


@pytest.fixture(autouse=True, scope="module")
def stop_at_the_end():
    yield
    processes.shutdown()


def test_result_and_keyword_arguments():
    assert processes.call("builtins:sorted", [1, 3, 2], reverse=True) == [3, 2, 1]


def test_big_arrays_come_back_equal_and_writable():
    array = np.arange(3_000_000, dtype=np.float32).reshape(3, 1000, 1000)
    result = processes.call(HERE + "identity", [array, array[:, ::2]])
    np.testing.assert_array_equal(result[0], array)
    np.testing.assert_array_equal(result[1], array[:, ::2])
    result[0][0, 0, 0] = 5


def test_process_is_reused():
    assert processes.call(HERE + "pid") == processes.call(HERE + "pid") != os.getpid()


def test_exception_keeps_type_and_names_its_origin():
    with pytest.raises(InputError, match="too small") as info:
        processes.call(HERE + "refuse", "input")
    assert "in refuse" in info.value.__notes__[0]
    with pytest.raises(MethodError, match="ValueError: odd") as info:
        processes.call(HERE + "refuse", "value")
    assert "in refuse" in info.value.__notes__[0]


def test_misnamed_function():
    with pytest.raises(InputError, match="module:function"):
        processes.call("math.hypot")
    with pytest.raises(MethodError, match="ModuleNotFoundError"):
        processes.call("no_such_module:function")


def test_arguments_that_do_not_pickle_do_no_harm():
    before = processes.call(HERE + "pid")
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        processes.call(HERE + "identity", lambda: 0)
    assert processes.call(HERE + "pid") == before


@pytest.mark.parametrize(
    ("function", "message"),
    [("crash", "SIGSEGV(.|\n)*about to fall"), ("leave", "exit code 3")],
)
def test_crash_is_reported_and_the_next_call_works(function, message):
    with pytest.raises(MethodCrash, match=message):
        processes.call(HERE + function)
    assert processes.call(HERE + "identity", 1) == 1


def test_timeout_kills_and_the_next_call_works():
    before = processes.call(HERE + "pid")
    start = time.monotonic()
    with pytest.raises(MethodTimeout, match=r"0\.3 s"):
        processes.call(HERE + "nap", 30, timeout=0.3)
    assert time.monotonic() - start < 10
    assert processes.call(HERE + "pid") != before


def test_loading_does_not_count_as_running(tmp_path, monkeypatch):
    (tmp_path / "slow_module.py").write_text(
        "import time\ndef load():\n    time.sleep(1)\ndef f():\n    return 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    processes.shutdown()
    assert processes.call("slow_module:f", timeout=0.5) == 1


def test_prints_do_not_reach_the_protocol():
    assert processes.call(HERE + "chatter") == "clean"


def test_engine_works_in_its_own_directory():
    directory = processes.call(HERE + "litter")
    assert directory != str(Path.cwd())
    assert Path(directory).exists()
    processes.shutdown()
    assert not Path(directory).exists()


def test_two_threads_run_in_parallel():
    processes.prepare(2, "time")
    done = []

    def work():
        done.append((processes.call(HERE + "pid"), processes.call(HERE + "nap", 1.0)))

    for _ in range(2):  # the first round starts the processes
        done.clear()
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert abs(done[0][1] - done[1][1]) < 0.8


def test_prepare_starts_processes_that_calls_then_use():
    processes.shutdown()
    processes.prepare(1, "json")
    (process,) = processes._pool._all
    assert processes.call(HERE + "pid") == process.popen.pid
    processes.prepare(1, "json")
    assert len(processes._pool._all) == 1


def test_a_process_killed_while_idle_is_replaced():
    before = processes.call(HERE + "pid")
    (process,) = [p for p in processes._pool._all if p.popen.pid == before]
    process.popen.kill()
    process.popen.wait()
    assert processes.call(HERE + "pid") != before


def test_nothing_is_left_after_shutdown():
    child = processes.call(HERE + "pid")
    processes.shutdown()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_starts_processes_of_its_own():
    before = processes.call(HERE + "pid")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, str(processes.call(HERE + "pid")).encode())
            processes.shutdown()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(read, 100)) != before
    os.close(read)
    os.close(write)
    assert processes.call(HERE + "pid") == before


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's way")
def test_the_kernel_takes_engines_first_and_no_notice_ends_them():
    score = processes.call(HERE + "contents", "/proc/self/oom_score_adj")
    assert int(score) == 500
    child = processes.call(HERE + "pid")
    os.kill(child, signal.SIGTERM)
    assert processes.call(HERE + "pid") == child


def test_a_process_has_a_memory_limit():
    assert processes.call(HERE + "hold", 10_000_000, memory_limit=2**40) == 10_000_000
    with pytest.raises(MethodCrash, match=r"memory limit of 286\.10 MiB"):
        processes.call(HERE + "hold", 600_000_000, memory_limit=300_000_000)
    assert processes.call(HERE + "identity", 1) == 1
