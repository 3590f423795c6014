"""A virtual display for napari.

napari draws by OpenGL, so its windows open on Xvfb, a virtual X server that is started
here. With ``QT_QPA_PLATFORM=offscreen`` there are no windows: Qt 6 then fails where
napari draws, and Qt 5 draws a black canvas if it finds an X server.
"""

import os
import shutil
import subprocess
import sys

import pytest

SCREEN = "1400x900x24"


def open_display():
    """Start a display if there is none, or skip the calling module."""
    if not sys.platform.startswith("linux") or os.environ.get("DISPLAY"):
        return
    if shutil.which("Xvfb") is None:
        reason = "no display: install xvfb and the libraries that .ci/run lists"
        pytest.skip(reason, allow_module_level=True)
    receiver, sender = os.pipe()
    # Qt uses the display until the process ends. The shell then reads end of file and
    # stops the server.
    lifeline, _ = os.pipe()
    subprocess.Popen(
        ["sh", "-c", f"Xvfb -displayfd {sender} -screen 0 {SCREEN} & read _; kill $!"],
        stdin=lifeline,
        pass_fds=[sender],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(lifeline)
    os.close(sender)
    with os.fdopen(receiver) as pipe:
        number = pipe.readline().strip()
    os.environ["DISPLAY"] = f":{number}"
    os.environ.setdefault("QT_QPA_PLATFORM", "xcb")
