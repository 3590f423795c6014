"""The widget in a real napari, off the screen."""

import time

import numpy as np
import pytest

from tests.helpers.displays import open_display

pytest.importorskip("napari", reason="napari is not installed: xdreg[napari]")
# Qt that lacks a library of the system raises an ImportError of its own.
pytest.importorskip("qtpy.QtWidgets", exc_type=ImportError)
open_display()

import napari
from qtpy.QtWidgets import QApplication

import xdreg
from xdreg.coordinates import grid_of
from xdreg.views.napari_images import placement
from xdreg.views.napari_widget import PRESETS, RegisterWidget

DEFAULT = "affine, then local correlation"


@pytest.fixture
def viewer():
    viewer = napari.Viewer(show=False)
    yield viewer
    viewer.close()


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        QApplication.processEvents()
        time.sleep(0.02)


def widget_with_pair(viewer):
    pair = xdreg.datasets.phantom_pair((64, 64), amplitude=2.0)
    for name in ("fixed", "moving"):
        image = getattr(pair, name)
        options = placement(grid_of(image)) | {"name": name}
        viewer.add_image(image.values, **options)
    widget = RegisterWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Register")
    widget.fixed.value = viewer.layers["fixed"]
    widget.moving.value = viewer.layers["moving"]
    widget.metric.value = "lncc"
    return widget


def test_widget_registers(viewer):
    widget = widget_with_pair(viewer)
    mask = np.ones(viewer.layers["fixed"].data.shape, np.uint8)
    mask[:10] = 0
    grid = viewer.layers["fixed"]
    viewer.add_labels(
        mask, scale=grid.scale, translate=grid.translate, units=grid.units
    )
    widget.fixed_mask.value = viewer.layers["mask"]
    widget.preset.value = DEFAULT
    widget.run_button.clicked.emit(True)
    assert not widget.run_button.enabled
    assert widget.cancel_button.enabled
    wait_for(lambda: widget.run_button.enabled)
    assert widget.status.value == "done"
    assert "field blocks" in viewer.layers
    layer = viewer.layers["field magnitude"]
    field = layer.metadata["field"]
    assert '"lncc"' in field.attrs["xdreg"]
    assert field.attrs["xdreg"].count('"fixed_mask": {') == 1
    assert (viewer.layers["field blocks"].scale > 20).all()
    assert widget._advance.done == widget._advance.total
    assert widget._advance.stage.startswith("1 local_correlation")


def test_widget_cancels(viewer):
    widget = widget_with_pair(viewer)
    widget.preset.value = DEFAULT
    widget.start()
    wait_for(lambda: widget._advance is not None)
    widget.cancel()
    wait_for(lambda: widget.run_button.enabled)
    assert widget.status.value == "cancelled"
    assert "field blocks" not in viewer.layers


def test_widget_says_what_is_wrong(viewer):
    widget = RegisterWidget(viewer)
    widget.start()
    assert "choose a fixed" in widget.status.value
    widget = widget_with_pair(viewer)
    widget.moving.value = viewer.layers["fixed"]
    widget.start()
    assert "the same layer" in widget.status.value
    widget.moving.value = viewer.layers["moving"]
    viewer.layers["moving"].units = ("pixel",) * 2
    widget.start()
    wait_for(lambda: widget.run_button.enabled)
    assert "do not convert" in widget.status.value


def test_presets():
    image = xdreg.datasets.phantom_pair((72, 88, 104)).fixed
    assert PRESETS[DEFAULT](image) is None
    made = [stages(image) for name, stages in PRESETS.items() if name != DEFAULT]
    names = [[stage.name for stage in stages] for stages in made]
    assert names[0][0] == "affine"
    assert set(names[0][1:]) == {"local_correlation"}
    assert names[1:] == [["affine", "bspline"], ["affine"], ["rigid"]]
