"""Progress of outputs on a terminal."""

import os
import subprocess
import sys

import pytest

WRITES = """
import sys
import numpy as np
import xdreg

pair = xdreg.datasets.phantom_pair((96, 96))
field = xdreg.compose(np.eye(3), like=pair.fixed)
for shown in (False, True):
    print("shown" if shown else "hidden", file=sys.stderr, flush=True)
    options = {"progress": shown, "overwrite": True}
    xdreg.save(pair.moving, sys.argv[1] + "/moving.zarr", **options)
    field.dreg.to_ome_zarr(sys.argv[1] + "/field.zarr", **options)
    field.dreg.warp_to(pair.moving, sys.argv[1] + "/moved.zarr", **options)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_outputs_show_their_progress_on_a_terminal_unless_told_not_to(tmp_path):
    ours, theirs = os.openpty()
    done = subprocess.run(
        [sys.executable, "-c", WRITES, str(tmp_path)],
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(theirs)
    output = b""
    try:
        while part := os.read(ours, 65536):
            output += part
    except OSError:
        pass  # On Linux the end of a pseudo-terminal is an error.
    os.close(ours)
    assert done.returncode == 0, output.decode()
    hidden, shown = output.split(b"shown")
    assert b"hidden" in hidden
    for word in (b"writing", b"warping"):
        assert word in shown
        assert word not in hidden
