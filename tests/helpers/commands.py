"""The command in a process of its own."""

import subprocess
import sys

#: The beginning of a script that Ctrl-C interrupts, as on a terminal. Shells start what
#: runs in the background with the signal ignored.
ON_A_TERMINAL = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from xdreg.cli.main import main
"""


def run(*arguments):
    """Run the command; return the finished process with its output as text."""
    command = [
        sys.executable,
        "-c",
        "from xdreg.cli.main import main; main()",
        *map(str, arguments),
    ]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
