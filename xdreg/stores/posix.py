"""System calls of POSIX, and what serves instead on Windows.

No other module asks which operating system it runs on. Engine processes load this
module first, so it imports nothing but the standard library at its top.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import shutil
import signal
import stat
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

WINDOWS = os.name == "nt"

#: Signals that a whole terminal or batch job receives.
LEFT_TO_PARENT = (signal.SIGINT, signal.SIGTERM)

#: Exit code of a process that was killed, as `subprocess` reports it.
KILLED = -int(getattr(signal, "SIGKILL", 9))

#: Windows locks bytes of a file, and nobody else can read them. These are past what a
#: lock's file holds.
_LOCKED_BYTE = 4096

#: Options of `subprocess.Popen` for a process that `kill_group` ends with its children.
IN_OWN_GROUP: dict[str, Any] = {} if WINDOWS else {"process_group": 0}

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


def try_lock(fd: int) -> bool | None:
    """Lock an open file until it is closed, without waiting.

    Return whether this process has the lock now; None if the file system has no locks.
    """
    try:
        if WINDOWS:
            import msvcrt

            os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            import fcntl

            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return None if error.errno in _NO_LOCKS else False
    return True


def open_regular(path: Path, flags: int, *, folder: int | None = None) -> int:
    """Open a regular file, in ``folder`` if given; raise OSError if it is another kind.

    A link is not followed, and a named pipe does not wait for its other end.
    """
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):
        flags |= getattr(os, name, 0)
    if WINDOWS and path.is_symlink():
        raise OSError(errno.ELOOP, "it is a symbolic link")
    fd = os.open(path, flags, 0o666, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is no regular file")
    return fd


@contextlib.contextmanager
def own_folder(path: Path) -> Iterator[int | None]:
    """Open a folder of this user; raise OSError if it is a link or another user's.

    Yield a file descriptor, with which `open_regular` opens files that nobody else can
    have put in its place. Windows has none.
    """
    if path.is_symlink():
        raise OSError(errno.ELOOP, "it is a symbolic link")
    if WINDOWS:
        if not path.is_dir():
            raise OSError(errno.ENOTDIR, "it is no folder")
        yield None
        return
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(folder).st_uid != os.geteuid():
            raise OSError(errno.EPERM, "it belongs to another user")
        yield folder
    finally:
        os.close(folder)


def empty_folder(path: Path, folder: int | None) -> None:
    """Remove all in a folder that was opened by `own_folder`, as far as possible."""
    with os.scandir(path if folder is None else folder) as found:
        entries = list(found)
    for entry in entries:
        place = entry.path if folder is None else entry.name
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(place, ignore_errors=True, dir_fd=folder)
        else:
            with contextlib.suppress(OSError):
                os.unlink(place, dir_fd=folder)


def belongs_to_user_or(owner: os.stat_result, file: os.stat_result) -> bool:
    """Return whether a file belongs to this user, or to who owns ``owner``."""
    return WINDOWS or file.st_uid in (os.geteuid(), owner.st_uid)


def sync_disks() -> None:
    """Write everything to disk before a rename may reach it; not on Windows."""
    if hasattr(os, "sync"):
        os.sync()


def sync_folder(path: Path) -> None:
    """Write a folder's names to disk, on systems that can open folders."""
    with contextlib.suppress(OSError):
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def peak_memory() -> int:
    """Return the largest resident size of this process or an ended child, in bytes.

    Windows keeps no record of ended children.
    """
    if WINDOWS:
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peak = max(resource.getrusage(w).ru_maxrss for w in who)
    return peak * (1 if sys.platform == "darwin" else 1024)


def after_fork(function: Callable[[], None]) -> None:
    """Call a function in every fork of this process; Windows has no forks."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that was started `IN_OWN_GROUP`, and its children.

    If the process itself has ended, call this at once: the number of a group without
    members may be given to another.
    """
    with contextlib.suppress(OSError):
        if WINDOWS:
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)


def unblock(fd: int) -> None:
    """Have writes to a full pipe raise BlockingIOError; they still wait on Windows."""
    if not WINDOWS:
        os.set_blocking(fd, False)


def wait_for_pipe(fd: int, seconds: float, *, write: bool = False) -> bool:
    """Wait until a pipe can be read or written, or has no other end.

    Return whether that happened in time. Windows does not know, and does not wait.
    """
    if WINDOWS:
        return seconds > 0
    pipe = select.poll()
    pipe.register(fd, select.POLLOUT if write else select.POLLIN)
    return bool(pipe.poll(1000 * seconds))


def describe_exit(code: int) -> str:
    """Return in words how a process with this exit code ended."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def make_lifeline() -> tuple[int | None, int | None]:
    """Return the child's and the parent's end of a pipe that carries nothing.

    The pipe closes when the parent ends, for whatever reason. See `end_with_parent`.
    None and None on Windows, where children do not inherit file descriptors.
    """
    return (None, None) if WINDOWS else os.pipe()


def end_with_parent(parent: int, lifeline: int | None) -> None:
    """End this process when its parent ends, even in a call that never returns.

    On Linux the kernel ends it, by the signal SIGIO, because native code may hold the
    GIL forever, and the other processes of its group. On other systems a thread does.
    Without a lifeline, it watches the process number ``parent``.
    """
    if lifeline is not None:
        os.set_inheritable(lifeline, False)
    if lifeline is not None and sys.platform == "linux":
        import fcntl

        group = -os.getpid() if os.getpgrp() == os.getpid() else os.getpid()
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, group)
        flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)

    def wait() -> None:
        if lifeline is None:
            import psutil

            with contextlib.suppress(psutil.Error):
                psutil.Process(parent).wait()
        else:
            os.read(lifeline, 1)  # returns when the parent's end is closed
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def heed_signals() -> None:
    """Undo `leave_signals_to_parent`, in a fork: a pool ends its workers by SIGTERM."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if not WINDOWS:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, LEFT_TO_PARENT)


def leave_signals_to_parent() -> None:
    """Ignore Ctrl-C and SIGTERM, which a whole terminal or batch job receives.

    The parent decides what they mean. Otherwise a block would count as crashed because
    its process heard of the end first. Timers that would send other signals are
    stopped.

    Forks get their signals late rather than never: none is lost before `heed_signals`.
    """
    for number in LEFT_TO_PARENT:
        signal.signal(number, signal.SIG_IGN)
    if not WINDOWS:
        mask = signal.pthread_sigmask
        os.register_at_fork(
            before=lambda: mask(signal.SIG_BLOCK, LEFT_TO_PARENT),
            after_in_parent=lambda: mask(signal.SIG_UNBLOCK, LEFT_TO_PARENT),
        )
        for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
            signal.setitimer(timer, 0)


def die_before_parent() -> None:
    """Make Linux's out-of-memory killer prefer this process to its parent."""
    # It kills the process of the highest score. Other systems have no such file.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500", "ascii")
