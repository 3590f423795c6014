"""A display for windows that nobody sees.

napari draws by OpenGL, so windows open on a virtual X server, Xvfb, which is started
here. With ``QT_QPA_PLATFORM=offscreen`` there are none: then Qt 6 fails where napari
draws, and Qt 5 goes on with a black canvas, if it has a server to ask for OpenGL.
"""

import os
import shutil
import subprocess
import sys

import pytest

SCREEN = "1400x900x24"


def open_display():
    """See that there is a display, or skip the module that asks for it."""
    if not sys.platform.startswith("linux") or os.environ.get("DISPLAY"):
        return
    if shutil.which("Xvfb") is None:
        reason = "no display: install xvfb, and what libraries .ci/run lists"
        pytest.skip(reason, allow_module_level=True)
    receiver, sender = os.pipe()
    # Qt lets go of the display last of all: the server ends when this process is gone,
    # however it went, and with it the other end of the shell's input.
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
