"""Functions that harm the process in which they run. Imports little, so loads fast."""

import contextlib
import ctypes
import faulthandler
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from xdreg.errors import InputError


def echo(value):
    return value


def pid():
    return os.getpid()


def fork_that_raises():
    if os.fork() == 0:
        msg = "in the child"
        raise RuntimeError(msg)
    time.sleep(0.05)
    return "forked"


def fork_that_returns():
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    return "forked"


def fork_in_c():
    """Fork unseen by Python, whose hooks do not run; the child returns."""
    ctypes.CDLL(None).fork()
    time.sleep(0.05)
    return "forked"


def fork_that_stays():
    """Die while a child holds all pipes open."""
    if ctypes.CDLL(None).fork() == 0:
        time.sleep(30)
    os._exit(5)


def daemonise():
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    return "daemon"


def many_forks():
    return multiprocessing.get_context("fork").Pool(2).map(abs, [-1, -2])


def close_pipes_and_open(path):
    """Have a file of its own under the number of a closed pipe."""
    os.closerange(3, 256)
    for _ in range(8):
        os.open(path, os.O_RDWR)


def close_output():
    os.close(1)
    os.close(2)


def replace_output():
    sys.stdout = sys.stderr = Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115
    sys.stdout.close()


def shut_output():
    sys.stdout.close()
    sys.stderr.close()


def write_to_all():
    for fd in range(3, 64):
        with contextlib.suppress(OSError):
            os.write(fd, b"rubbish " * 20)
    return "written"


def write_later():
    """Write to all pipes once the reply has left."""

    def late():
        time.sleep(0.1)
        write_to_all()

    threading.Thread(target=late, daemon=True).start()
    return "promised"


def exit_later():
    def late():
        time.sleep(0.1)
        os._exit(9)

    threading.Thread(target=late, daemon=True).start()
    return "promised"


def alarm_later():
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    return "promised"


def dump_later():
    faulthandler.dump_traceback_later(0.1, exit=True)
    return "promised"


def handlers():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    return "set"


def leave_directory():
    os.chdir("/")
    return "left"


def delete_directory():
    shutil.rmtree(Path.cwd())
    return "gone"


def leave_child():
    return subprocess.Popen(["sleep", "60"]).pid


def exit_softly():
    sys.exit("enough")


def broken_pipe():
    raise BrokenPipeError


def end_of_file():
    raise EOFError


class Wordless(Exception):
    def __str__(self):
        msg = "no text"
        raise RuntimeError(msg)


class Leaving(Exception):
    def __str__(self):
        os._exit(4)


class NeedsTwo(InputError):
    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


class RunsCode(InputError):
    def __reduce__(self):
        return os._exit, (6,)


def wordless():
    raise Wordless


def leaving():
    raise Leaving


def needs_two():
    raise NeedsTwo(*"12")


def runs_code():
    msg = "own code"
    raise RunsCode(msg)


def runs_code_in_remedy():
    msg = "own code"
    raise InputError(msg, option=Evil())


class Evil:
    def __reduce__(self):
        return os._exit, (6,)


class EvilNumber(int):
    def __reduce__(self):
        return os._exit, (6,)


def evil_number():
    return [EvilNumber(3)]


def does_not_pickle():
    return lambda: 0


def deep():
    result = []
    for _ in range(100_000):
        result = [result]
    return result


def undecodable():
    name = os.fsdecode(b"/data/caf\xe9.tif")
    msg = f"cannot use {name}\0"
    raise ValueError(msg)


def endless_text():
    raise ValueError("x" * 3_000_000)


def working_directory():
    return str(Path.cwd())


def chat():
    print("a word")
    print("a word", file=sys.stderr)
    return "clean"


def ignores_interrupts():
    return signal.getsignal(signal.SIGINT) is signal.SIG_IGN
