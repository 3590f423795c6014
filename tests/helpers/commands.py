"""The command in a process of its own."""

import subprocess
import sys


def run(*arguments):
    """Run the command; return the finished process with its output as text."""
    command = [
        sys.executable,
        "-c",
        "from xdreg.cli.main import main; main()",
        *map(str, arguments),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)
