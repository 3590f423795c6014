"""The link's state in a real Neuroglancer, in Chromium without a window.

Skipped where one of them is missing; the client comes with the package of that name.
"""

import io
import time
from urllib.parse import urlsplit

import matplotlib.image
import numpy as np
import pytest

from tests.helpers.viewers import CHROMIUM, serving, state_of
from xdreg.views.neuroglancer import serve

neuroglancer = pytest.importorskip("neuroglancer")
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium here: apt-get install chromium"
)

#: Chromium draws WebGL without a graphics card.
SOFTWARE_GL = ("--use-gl=angle", "--use-angle=swiftshader", "--ignore-gpu-blocklist")

#: Seconds until everything is drawn, at most.
PATIENCE = 90


@pytest.fixture
def viewer():
    neuroglancer.set_server_bind_address("127.0.0.1")
    yield neuroglancer.Viewer()
    neuroglancer.stop()


def test_fixed_and_warped_lie_over_each_other(scene, viewer):
    url = urlsplit(viewer.get_viewer_url())
    server, link = serve(scene, f"{url.scheme}://{url.netloc}")
    viewer.set_state(state_of(link))
    with serving(server), playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", *SOFTWARE_GL]
        )
        page = chromium.new_page(viewport={"width": 800, "height": 600})
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(viewer.get_viewer_url())
        until = time.monotonic() + PATIENCE
        while not (shown := _grey_share(page)) > 0.05:
            assert time.monotonic() < until, f"{shown:.1%} of it is drawn"
            page.wait_for_timeout(500)
        chromium.close()
    assert errors == []


def _grey_share(page):
    """Return the share of the picture that magenta and green make grey together."""
    picture = matplotlib.image.imread(io.BytesIO(page.screenshot()))
    picture = picture[..., :3]
    bright, flat = picture.min(axis=-1) > 0.3, np.ptp(picture, axis=-1) < 0.15
    # What surrounds the picture is lighter or darker.
    return float((bright & flat & (picture.max(axis=-1) < 0.98)).mean())
