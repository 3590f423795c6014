"""Processes forked from one that has imported all, which takes longer than their work.

Where processes cannot fork, they start as usual.
"""

import functools
import io
import multiprocessing
import os
import sys
import textwrap

import dask
from distributed.utils import get_mp_context

#: How such processes start, also those of a cluster by this setting of Dask.
METHOD = (
    "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
)
CLUSTER = {"distributed.worker.multiprocessing-method": METHOD}

#: Modules with all that tests use in such processes.
LOADED = [
    "distributed",
    "xdreg.registration.register",
    "xdreg.fields.store",
    "xdreg.fields.warp_to",
    "xdreg.stores.ome_writer",
    "tests.helpers.runs",
]


@functools.cache
def context():
    """Return the context of `multiprocessing` that starts such processes."""
    with dask.config.set(CLUSTER):
        found = get_mp_context()
    if METHOD == "forkserver":
        found.set_forkserver_preload(LOADED)
    return found


def _run(code, arguments, out):
    os.dup2(out.fileno(), 1)
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), "utf-8")
    sys.argv = ["-c", *arguments]
    try:
        exec(compile(code, "<script>", "exec"), {"__name__": "__main__"})
    finally:
        sys.stdout.flush()


class Script:
    """A process that runs a script as ``python -c`` does; ``stdout`` is a text file."""

    def __init__(self, code, *arguments):
        reader, writer = context().Pipe(duplex=False)
        self.process = context().Process(
            target=_run,
            args=(textwrap.dedent(code), [str(a) for a in arguments], writer),
        )
        self.process.start()
        writer.close()
        self.pid = self.process.pid
        self.stdout = os.fdopen(os.dup(reader.fileno()), encoding="utf-8")
        reader.close()

    def end(self, signal=None):
        """Send a signal, if any; return the code with which the process ends."""
        if signal is not None:
            os.kill(self.pid, signal)
        self.process.join(60)
        self.stdout.close()
        return self.process.exitcode
