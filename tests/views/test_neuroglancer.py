"""The link that shows served images, and the command that prints it."""

import numpy as np
import pytest

import xdreg
from tests.helpers.viewers import state_of
from xdreg.grid import Grid
from xdreg.views.neuroglancer import origin_of, viewer_state


def test_link(scene, served):
    server, link = served
    assert link.startswith("https://viewer.example/app/#!")
    state = state_of(link)
    grid = scene.fixed[0].grid
    assert list(state["dimensions"]) == ["x", "y", "z"]
    for dim, step in zip(grid.dims, grid.spacing, strict=True):
        length, unit = state["dimensions"][dim]
        assert (unit, length) == ("m", pytest.approx(step * 1e-6))
    middle = np.multiply(state["position"], list(grid.spacing[::-1]))
    np.testing.assert_allclose(middle[::-1], grid.centre)
    layers = {layer["name"]: layer for layer in state["layers"]}
    assert [layers[n]["visible"] for n in ("fixed", "warped", "moving")] == [1, 1, 0]
    for name, colour in (("fixed", "1.000, 0.000, 1.000"), ("warped", "0.000, 1.000")):
        assert layers[name]["source"] == f"zarr://{server.url(name)}"
        assert f"emitRGB(vec3({colour}" in layers[name]["shader"]
        low, high = layers[name]["shaderControls"]["normalized"]["range"]
        assert low < high


def test_a_plane_has_its_position_in_voxels():
    grid = Grid(("y", "x"), (4, 6), (2.0, 1.0), (10.0, 0.0), "micrometer")
    state = viewer_state([], grid)
    assert state["dimensions"] == {"x": [1e-06, "m"], "y": [2e-06, "m"]}
    assert (state["position"], state["layout"]) == ([2.5, 6.5], "xy")


def test_a_viewer_has_an_address():
    assert origin_of("http://localhost:8080/v/index.html") == "http://localhost:8080"
    with pytest.raises(xdreg.InputError, match="address of a Neuroglancer"):
        origin_of("file:///tmp/index.html")
