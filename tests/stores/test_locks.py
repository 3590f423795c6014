"""Locks on directories: their owners, dead and alive, here and elsewhere."""

import json
import os
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

import xdreg
from tests.helpers.forks import Script
from xdreg.stores import locks

HOLDER = """
    import sys, time
    from pathlib import Path
    from xdreg.stores.locks import Lock, temporary_directory
    print(temporary_directory("run-"), flush=True)
    with Lock(Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(60)
"""


def holder(folder):
    """Start a Python that holds a lock, and return it with its temporary directory."""
    script = Script(HOLDER, folder)
    temporary = Path(script.stdout.readline().strip())
    assert script.stdout.readline() == "held\n"
    return script, temporary


def test_a_lock_ends_with_its_process_and_temporary_directories_are_swept(
    tmp_path, monkeypatch
):
    script, temporary = holder(tmp_path)
    try:
        with (
            pytest.raises(xdreg.InputError, match="in use by process"),
            locks.Lock(tmp_path),
        ):
            pass
        locks._sweep()
        assert temporary.exists()
    finally:
        script.end(signal.SIGKILL)
    with locks.Lock(tmp_path):
        pass
    assert temporary.exists()
    locks._sweep()
    assert not temporary.parent.exists()


@pytest.mark.parametrize("flock", ["works", "is missing"])
def test_an_owner_on_another_host_counts_while_it_gives_signs(
    flock, tmp_path, monkeypatch
):
    if flock == "is missing":
        monkeypatch.setattr(locks, "try_lock", lambda fd: None)
    file = tmp_path / locks.LOCK
    owner = {"host": "elsewhere", "pid": 1, "started": 0.0}
    file.write_text(json.dumps(owner))
    with (
        pytest.raises(xdreg.InputError, match="process 1 on elsewhere"),
        locks.Lock(tmp_path),
    ):
        pass
    os.utime(file, (0, time.time() - 2 * locks.SILENCE))
    with locks.Lock(tmp_path):
        # What a live owner looks like to a second one.
        if flock == "is missing":
            with (
                pytest.raises(xdreg.InputError, match="in use"),
                locks.Lock(tmp_path),
            ):
                pass
    gone = owner | {"host": socket.gethostname(), "pid": 2**22 + 1}
    file.write_text(json.dumps(gone))
    with locks.Lock(tmp_path):
        pass


def check_beating(lock):
    """Check that somebody touches a lock's file."""
    os.utime(lock.path, (0, 0))
    end = time.monotonic() + 30
    while lock.path.stat().st_mtime == 0:
        assert time.monotonic() < end


def test_signs_of_life_are_given(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT", 0.01)
    monkeypatch.setattr(locks, "_beating", locks._Heart())
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    before = set(threading.enumerate())
    with locks.Lock(folders[0]) as first:
        with locks.Lock(folders[1]) as second:
            check_beating(first)
            check_beating(second)
        check_beating(first)
        (own,) = set(threading.enumerate()) - before
    own.join(30)
    assert not own.is_alive()
    with locks.Lock(folders[0]) as first:
        check_beating(first)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_gives_signs_for_its_own_locks_only(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT", 0.01)
    folders = [tmp_path / "parent", tmp_path / "child"]
    for folder in folders:
        folder.mkdir()
    with locks.Lock(folders[0]) as held:
        owner = held.path.read_bytes()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                # As if the child left the parent's block.
                held.__exit__()
                with locks.Lock(folders[1]) as lock:
                    check_beating(lock)
                    with pytest.raises(xdreg.InputError, match="in use by process"):
                        locks.Lock(folders[0]).__enter__()
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert held.path.read_bytes() == owner
        check_beating(held)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_lock_ends_with_its_owner_though_a_fork_lives_on(tmp_path):
    code = """
        import os, sys, time
        from pathlib import Path
        from xdreg.stores.locks import Lock
        with Lock(Path(sys.argv[1])):
            child = os.fork()
            if child == 0:
                time.sleep(60)
            print(child, flush=True)
            os._exit(0)
    """
    script = Script(code, tmp_path)
    child = int(script.stdout.readline())
    try:
        assert script.end() == 0
        with locks.Lock(tmp_path):
            pass
    finally:
        os.kill(child, 9)


def make_link(file, precious):
    file.symlink_to(precious)


def make_hard_link(file, precious):
    file.hardlink_to(precious)


def make_pipe(file, precious):
    os.mkfifo(file)


def make_folder(file, precious):
    file.mkdir()


def make_dangling(file, precious):
    file.symlink_to(precious.with_name("missing"))


def make_others(file, precious):
    file.touch()
    os.chown(file, 65534, 65534)


IN_THE_WAY = [make_link, make_hard_link, make_pipe, make_folder, make_dangling]
IN_THE_WAY += [make_others] if os.geteuid() == 0 else []


@pytest.mark.parametrize("make", IN_THE_WAY)
def test_what_is_no_lock_is_not_opened(tmp_path, make):
    precious = tmp_path / "precious.txt"
    precious.write_text("years of work")
    run = tmp_path / "run"
    run.mkdir()
    make(run / locks.LOCK, precious)
    with pytest.raises(xdreg.StoreError, match="remove it") as caught, locks.Lock(run):
        pass
    assert str(run / locks.LOCK) in str(caught.value)
    assert precious.read_text("utf-8") == "years of work"
    assert {path.name for path in tmp_path.iterdir()} == {"precious.txt", "run"}


@pytest.mark.parametrize("left", [b"", b'{"ho', bytes(64), b'{"host": "a", "pid": '])
def test_what_a_power_cut_leaves_of_a_lock_is_a_lock(tmp_path, left):
    (tmp_path / locks.LOCK).write_bytes(left)
    with locks.Lock(tmp_path):
        assert (
            json.loads((tmp_path / locks.LOCK).read_text("utf-8"))["pid"] == os.getpid()
        )


def test_only_this_users_own_directories_are_swept(tmp_path, monkeypatch):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("years of work")
    owner = {"host": socket.gethostname(), "pid": 2**22 + 1, "started": 0.0}
    (precious / "lock").write_text(json.dumps(owner))
    shared = tmp_path / "shared[ab]"
    shared.mkdir()
    monkeypatch.setattr(locks.tempfile, "tempdir", str(shared))
    (shared / "xdreg-folder").symlink_to(precious)
    (shared / "xdreg-file").symlink_to(precious / "thesis.tex")
    for name in ("lock", "pipe", "other", "left", "brain", "linked", "empty"):
        (shared / f"xdreg-{name}").mkdir()
        # A work directory has the lock, and not this.
        if name not in ("brain", "linked", "empty"):
            locks.mark_temporary(shared / f"xdreg-{name}")
    (shared / "xdreg-empty" / locks.TEMPORARY).touch()
    (shared / "xdreg-linked" / locks.TEMPORARY).symlink_to(
        shared / "xdreg-left" / locks.TEMPORARY
    )
    for name in ("brain", "linked", "empty"):
        (shared / f"xdreg-{name}" / "lock").write_text(json.dumps(owner))
    (shared / "xdreg-lock" / "lock").symlink_to(precious / "thesis.tex")
    os.mkfifo(shared / "xdreg-pipe" / "lock")
    (shared / "xdreg-other" / "lock").write_text(json.dumps(owner))
    (shared / "xdreg-left" / "lock").write_text(json.dumps(owner))
    (shared / "xdreg-left" / "data").symlink_to(precious)
    (shared / "xdreg-left" / "run").mkdir()
    shutil.copytree(shared / "xdreg-left", shared / "xdreg-copy", symlinks=True)
    kept = {"folder", "file", "lock", "pipe", "brain", "linked", "empty", "copy"}
    if os.geteuid() == 0:
        os.chown(shared / "xdreg-other", 65534, 65534)
        kept |= {"other"}
    locks._sweep()
    assert {path.name for path in shared.iterdir()} == {f"xdreg-{n}" for n in kept}
    assert (precious / "thesis.tex").read_text("utf-8") == "years of work"
