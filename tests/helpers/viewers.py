"""Browsers, links and hostile reports for the tests of viewers."""

import json
import shutil
import threading
from contextlib import contextmanager
from urllib.parse import unquote

import numpy as np

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
#: Arguments that no function expects.
ODD = [
    *(5, -1, 3.5, float("nan"), 10**400, True, np.int64(3), "x", b"x", [], {}),
    *(("a",), object(), np.zeros(3)),
]

#: Address of a Neuroglancer, which is not asked.
VIEWER = "https://viewer.example/app/"
HOSTILE = '"><script>window.hacked = 1</script><img src=x onerror="window.hacked=1">'


@contextmanager
def serving(server):
    """Serve in a thread until the end of the block, and close the server."""
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


def state_of(link):
    """Return the state in a link to Neuroglancer."""
    return json.loads(unquote(link.partition("#!")[2]))


def hostile(field):
    """Return the field with markup in all of its strings."""
    manifest = json.loads(field.attrs["xdreg"])
    manifest["fixed"]["source"] = HOSTILE
    manifest["versions"] = {HOSTILE: HOSTILE}
    manifest["stages"][0] |= {"name": HOSTILE, HOSTILE: HOSTILE}
    manifest["channels"] = HOSTILE
    manifest["moving_mask"] = {"source": HOSTILE}
    return field.assign_attrs(xdreg=json.dumps(manifest), metric=HOSTILE)


def write_hostile(registered, path):
    """Write a report with markup in all strings of its input."""
    pair, moving, field = registered
    labels = (pair.fixed > 20000).astype(np.uint8)
    points = pair.fixed_points, pair.moving_points
    return hostile(field).dreg.report(
        path, pair.fixed.assign_attrs(name=HOSTILE), moving.assign_attrs(name=HOSTILE),
        landmarks=points, landmark_names=[HOSTILE] * len(points[0]),
        labels=(labels, (moving > 20000).astype(np.uint8)), label_names={1: HOSTILE},
    )  # fmt: skip


def by_name(layers):
    """Return layers of napari by their names."""
    return {options["name"]: (data, options, kind) for data, options, kind in layers}
