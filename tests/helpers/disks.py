"""Small disks that can be filled, made read-only and lost, in a process of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def can_mount():
    """Tell whether a process may have mounts of its own, as root or not."""
    if shutil.which("unshare") is None:
        return False
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(probe, capture_output=True).returncode == 0


def on_small_disk(script, folder, size):
    """Run a Python script that has a disk of some size at a folder, and return it."""
    mount = f"mount -t tmpfs -o size={size} tmpfs {folder} && exec {sys.executable} -"
    return _run(["unshare", "-rm", "sh", "-c", mount], script)


def on_any_disk(script):
    """Run a Python script in a process of its own."""
    return _run([sys.executable, "-"], script)


def _run(command, script):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NUMBA_NUM_THREADS": "1"}
    return subprocess.run(
        command,
        input=script,
        text=True,
        capture_output=True,
        env=environment,
        timeout=120,
        check=False,
    )
