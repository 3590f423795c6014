"""Turns at the GPU, among threads and processes."""

import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers.device_arrays import SPACE
from xdreg.engines import device
from xdreg.engines.device import working_on
from xdreg.errors import MethodError

#: Takes a turn and keeps it.
KEEP = """
import sys
from tests.helpers.device_arrays import SPACE
from xdreg.engines import device
device.gpu_space = lambda: SPACE
with device.working_on("cuda"):
    print("mine", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(device, "gpu_space", lambda: SPACE)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def test_the_cpu_has_no_turns():
    with working_on("cpu") as space, working_on("cpu"):
        assert space is None


def test_threads_take_turns():
    inside, most = [], []

    def work(_):
        with working_on("cuda") as space:
            assert space is SPACE
            inside.append(1)
            most.append(len(inside))
            threading.Event().wait(0.005)
            inside.pop()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))
    assert max(most) == 1


def test_a_turn_ends_with_its_process():
    with subprocess.Popen(
        [sys.executable, "-c", KEEP], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline().strip() == b"mine"
        taken = threading.Event()

        def work():
            with working_on("cuda"):
                taken.set()

        thread = threading.Thread(target=work)
        thread.start()
        assert not taken.wait(0.2)
        holder.kill()
        assert taken.wait(20)
        thread.join()


def test_a_file_in_the_way_does_not_stop_the_work(tmp_path):
    with working_on("cuda"):
        (file,) = Path(tmp_path).iterdir()
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere")
    with working_on("cuda") as space:
        assert space is SPACE
    assert not (tmp_path / "elsewhere").exists()


def test_errors_end_a_turn():
    with (
        pytest.raises(MethodError, match="more memory than the GPU"),
        working_on("cuda"),
    ):
        raise MemoryError
    with pytest.raises(KeyError), working_on("cuda"):
        raise KeyError
    with working_on("cuda"):
        pass
