"""A display for windows that nobody sees.

napari draws by OpenGL, which Qt's own "offscreen" platform does not have; so windows
open on a virtual X server, Xvfb, which is started here.
"""

import atexit
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
    server = subprocess.Popen(
        # With its only client it ends, however that goes.
        ["Xvfb", "-terminate", "-displayfd", str(sender), "-screen", "0", SCREEN],
        pass_fds=[sender],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    atexit.register(server.terminate)
    os.close(sender)
    with os.fdopen(receiver) as pipe:
        number = pipe.readline().strip()
    os.environ |= {"DISPLAY": f":{number}", "QT_QPA_PLATFORM": "xcb"}
