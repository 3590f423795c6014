"""Interpreters of other environments, for libraries that do not go with xdreg's.

The environment variable ``XDREG_WRITERS`` lists them, as ``PATH`` lists folders.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

_VERSIONS = """
import importlib.metadata, json
found = importlib.metadata.distributions()
print(json.dumps({d.metadata["Name"].lower(): d.version for d in found}))
"""


@functools.cache
def _versions(interpreter):
    return json.loads(_output(interpreter, "-c", _VERSIONS))


def _output(*command):
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", cwd=ROOT, timeout=300
    )
    if done.returncode:
        pytest.fail(f"{command[1:]} failed: {done.stderr[-3000:]}")
    return done.stdout.strip().splitlines()[-1]


def interpreter_with(*libraries):
    """Return the first interpreter with libraries, ``NAME`` or ``NAME==VERSION``."""
    given = os.environ.get("XDREG_WRITERS", "").split(os.pathsep)
    for interpreter in [sys.executable, *filter(None, given)]:
        if all(_has(interpreter, library) for library in libraries):
            return interpreter
    return pytest.skip(f"no interpreter with {', '.join(libraries)} in XDREG_WRITERS")


def _has(interpreter, library):
    name, _, version = library.lower().partition("==")
    return (
        _versions(interpreter).get(name, "").startswith(version or tuple("0123456789"))
    )


def version_of(interpreter, library):
    """Return the version of a library that an interpreter has."""
    return _versions(interpreter)[library]


def run_script(interpreter, name, *arguments):
    """Return the last line that a script of this folder prints."""
    return _output(interpreter, f"tests/helpers/{name}.py", *map(str, arguments))
