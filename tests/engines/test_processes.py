"""Engine processes: results, failures, and that none outlives its use."""

import os
import pickle
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from xdreg.engines import messages, processes
from xdreg.errors import (
    InputError,
    MethodCrash,
    MethodError,
    MethodTimeout,
    XdregError,
)

HERE = f"{__name__}:"
HARM = "tests.helpers.harmful:"


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
    return Path(path).read_text("utf-8")


def hold(size):
    held = bytearray(b"1") * size
    time.sleep(0.5)
    return len(held)


def chatter():
    os.write(1, b"native print\n" * 100_000)
    return "clean"


def litter():
    Path("deformationField.nii").write_text("x", "utf-8")
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


#: Functions that end in a reply, and what it is; None for whatever it may be.
SURVIVED = {
    "fork_that_raises": "forked",
    "fork_that_returns": "forked",
    "fork_in_c": "forked",
    "many_forks": [1, 2],
    "close_output": None,
    "replace_output": None,
    "shut_output": None,
    "write_later": "promised",
    "exit_later": "promised",
    "alarm_later": "promised",
    "dump_later": "promised",
    "handlers": "set",
    "leave_directory": "left",
    "delete_directory": "gone",
}

#: Functions that end in an error, and its message.
HARMED = {
    "fork_that_stays": "exit code 5",
    "daemonise": "exit code 0",
    "write_to_all": "not a reply",
    "exit_softly": "SystemExit: enough",
    "broken_pipe": "BrokenPipeError",
    "end_of_file": "EOFError",
    "wordless": "Wordless: Wordless without a text",
    "leaving": "exit code 4",
    "needs_two": "1 2",
    "runs_code": "own code",
    "runs_code_in_remedy": "own code: option=",
    "evil_number": "not posix._exit",
    "does_not_pickle": "pickle",
    "deep": "RecursionError",
}

posix_only = pytest.mark.skipif(os.name == "nt", reason="POSIX's own troubles")


def check_that_others_are_right(count=3):
    """Check that later calls get their own results, with all that they need."""
    for number in range(count):
        time.sleep(0.06)
        assert processes.call(HARM + "echo", number) == number
    assert processes.call(HARM + "chat") == "clean"
    assert processes.call(HARM + "ignores_interrupts")
    assert Path(processes.call(HARM + "working_directory")).name.startswith("engine-")


@posix_only
@pytest.mark.parametrize("function", SURVIVED)
def test_what_a_method_does_to_its_process_is_put_right(function):
    assert processes.call(HARM + "echo", "warm") == "warm"
    assert processes.call(HARM + function) == SURVIVED[function]
    check_that_others_are_right()


@posix_only
@pytest.mark.parametrize("function", HARMED)
def test_what_a_method_breaks_costs_its_own_call(function):
    started = time.monotonic()
    with pytest.raises(XdregError, match=HARMED[function]):
        processes.call(HARM + function, timeout=20)
    check_that_others_are_right(1)
    assert time.monotonic() - started < 15


@posix_only
def test_a_reply_is_not_written_into_a_file_of_the_method(tmp_path):
    file = tmp_path / "own.bin"
    file.write_bytes(b"own")
    with pytest.raises(MethodCrash, match="closed descriptors"):
        processes.call(HARM + "close_pipes_and_open", str(file))
    assert file.read_bytes() == b"own"


@posix_only
def test_children_of_a_method_end_with_their_process():
    child = processes.call(HARM + "leave_child")
    os.kill(child, 0)
    with pytest.raises(MethodTimeout):
        processes.call(HERE + "nap", 30, timeout=0.1)
    end = time.monotonic() + 10
    while psutil.pid_exists(child):
        assert time.monotonic() < end
        if psutil.Process(child).status() == psutil.STATUS_ZOMBIE:
            break


def test_texts_that_no_file_takes_are_escaped_and_bounded():
    with pytest.raises(MethodError) as info:
        processes.call(HARM + "endless_text")
    text = str(info.value)
    assert len(text) < 21_000
    assert "xx [… 29" in text
    with pytest.raises(MethodError) as info:
        processes.call(HARM + "undecodable")
    assert "caf\\udce9.tif\\x00" in str(info.value)


def test_a_reply_with_another_number_is_refused():
    processes.shutdown()
    processes.prepare(1, "json")
    (process,) = processes._pool._all
    # As if an earlier call had been given up without its reply.
    process._send(messages.pack(("load", "csv")))
    with pytest.raises(MethodCrash, match="reply to request"):
        processes.call(HARM + "echo", 1)
    assert processes.call(HARM + "echo", 2) == 2
