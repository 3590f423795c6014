"""A registered pair and a scene, shared by the tests of views."""

import pytest
import xarray as xr

import xdreg
from tests.helpers.fields import Known, noisy_moving
from tests.helpers.viewers import VIEWER, serving, write_hostile
from xdreg.coordinates import coordinates
from xdreg.views import report, report_figures
from xdreg.views.neuroglancer import serve
from xdreg.views.scene import make_scene


def truth_but_once(fixed, moving, truth):
    """Return what a block should find, and in the last one a field that folds."""
    y, x = (fixed[dim].values.round().astype(int) for dim in ("y", "x"))
    found = truth[:, y[0] : y[-1] + 1, x[0] : x[-1] + 1].copy()
    if y[-1] == 63 and x[-1] == 95:
        found[1] = -3.0 * (x - x.mean())
    return xr.DataArray(found, dims=("component", "y", "x"))


@pytest.fixture(scope="session")
def registered():
    """Return a pair and its field, made in two by three blocks of which one fails."""
    pair = xdreg.datasets.phantom_pair((64, 96), amplitude=3.0, noise=0.0)
    moving = pair.moving.compute()
    options = {"truth": pair.displacement.values}
    method = xdreg.Custom(
        method=truth_but_once, level=0, isolated=False, options=options
    )
    field = pair.fixed.dreg.register(
        moving, block_shape=32, metric="lncc", progress=False, stages=[method]
    )
    return pair, moving, field.load()


@pytest.fixture(scope="session")
def scene():
    """Return a scene of a known field and its images."""
    known = Known(3, 15)
    fixed = xdreg.datasets.phantom_pair(known.fixed.shape).fixed
    fixed = fixed.assign_coords(coordinates(known.fixed))
    return make_scene(known.field, fixed, noisy_moving(known))


@pytest.fixture(scope="session")
def served(scene):
    """Return a running server of the scene's images, and the link to see them."""
    server, link = serve(scene, VIEWER)
    with serving(server):
        yield server, link


@pytest.fixture(scope="session")
def hostile_report(registered, tmp_path_factory):
    """Return the path of a report all of whose strings try to be markup."""
    with pytest.MonkeyPatch.context() as patch:
        # Pictures still as wide as a small screen.
        patch.setattr(report_figures, "DPI", 70)
        patch.setattr(report, "WORST", 2)
        return write_hostile(registered, tmp_path_factory.mktemp("r") / "qc.html")
