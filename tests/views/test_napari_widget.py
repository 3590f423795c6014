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
from qtpy.QtWidgets import QApplication, QFileDialog

import xdreg
from xdreg.coordinates import grid_of
from xdreg.stores.napari_layers import placement

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


def add_pair(viewer, shape=(64, 64)):
    pair = xdreg.datasets.phantom_pair(shape, amplitude=2.0, units="micrometer")
    for name in ("fixed", "moving"):
        image = getattr(pair, name)
        viewer.add_image(image.values, name=name, **placement(grid_of(image)))
    return pair


def from_menu(viewer):
    """Open the widget as napari's menu of plugins does."""
    _, widget = viewer.window.add_plugin_dock_widget("xdreg", "Register")
    return widget


def widget_with_pair(viewer):
    add_pair(viewer)
    widget = from_menu(viewer)
    widget.metric.value = "lncc"
    return widget


def run(widget):
    widget.run_button.clicked.emit(True)
    wait_for(lambda: widget.run_button.enabled)


def test_widget_registers(viewer, tmp_path, monkeypatch):
    widget = widget_with_pair(viewer)
    mask = np.ones(viewer.layers["fixed"].data.shape, np.uint8)
    mask[:10] = 0
    grid = viewer.layers["fixed"]
    viewer.add_labels(
        mask, scale=grid.scale, translate=grid.translate, units=grid.units
    )
    widget.fixed_mask.value = viewer.layers["mask"]
    widget.preset.value = DEFAULT
    widget.workdir.value = tmp_path / "run"
    widget.run_button.clicked.emit(True)
    assert not widget.run_button.enabled
    assert widget.cancel_button.enabled
    assert not widget.save_button.enabled
    wait_for(lambda: widget.run_button.enabled)
    assert widget.status.value.startswith("done")
    assert (tmp_path / "run").is_dir()
    assert "field blocks" in viewer.layers
    layer = viewer.layers["field magnitude"]
    field = layer.metadata["field"]
    assert '"lncc"' in field.attrs["xdreg"]
    assert field.attrs["xdreg"].count('"fixed_mask": {') == 1
    assert (viewer.layers["field blocks"].scale > 20).all()
    assert widget._advance.done == widget._advance.total
    assert widget._advance.stage.startswith("1 local_correlation")
    assert widget._advance.stages == 2
    shown = [layer for layer in viewer.layers if layer.visible]
    looks = {la.name: la.colormap.name for la in shown if hasattr(la, "colormap")}
    assert looks["fixed"] == "magenta"
    assert looks["warped"] == "green"
    assert viewer.layers["fixed"].blending == "additive"
    assert not viewer.layers["moving"].visible
    target = str(tmp_path / "field.ome.zarr")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (target, ""))
    widget.save_button.clicked.emit(True)
    wait_for(lambda: "saved" in widget.status.value)
    np.testing.assert_array_equal(
        xdreg.open_field(target).displacement, field.displacement
    )


def test_two_different_layers_whatever_comes_first(viewer):
    widget = from_menu(viewer)
    assert widget.fixed.value is None
    add_pair(viewer)
    assert widget.fixed.value is viewer.layers["fixed"]
    assert widget.moving.value is viewer.layers["moving"]
    widget.fixed.value, widget.moving.value = widget.moving.value, widget.fixed.value
    viewer.add_image(np.zeros((9, 9)), name="third")
    assert widget.fixed.value is viewer.layers["moving"]
    viewer.layers.remove("fixed")
    assert widget.moving.value is not widget.fixed.value
    for item in (widget.fixed, widget.block, widget.workdir, widget.run_button):
        assert item.tooltip


def test_a_layer_placed_by_hand_is_the_start(viewer):
    pair = add_pair(viewer)
    turn = np.deg2rad(100)
    matrix = np.eye(3)
    matrix[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    matrix[:2, 2] = [30, -400]
    viewer.layers["moving"].affine = matrix
    viewer.layers["fixed"].affine = matrix
    viewer.layers["fixed"].rotate = 0.5  # degrees
    widget = from_menu(viewer)
    widget.preset.value = "affine"
    widget.metric.value = "lncc"
    run(widget)
    field = widget.field
    assert "pose" not in field.attrs
    found = field.dreg.transform_points(pair.fixed_points)
    assert np.abs(found - pair.moving_points).mean() < 1.5
    warped, fixed = viewer.layers["warped"], viewer.layers["fixed"]
    for corner in ((0, 0), (63, 0), (63, 63)):
        np.testing.assert_allclose(
            warped.data_to_world(corner), fixed.data_to_world(corner), atol=1e-6
        )
    widget.begin.value = "search the pose"
    run(widget)
    assert "pose" in widget.field.attrs


def test_a_mirrored_layer_is_found(viewer):
    add_pair(viewer)
    layer = viewer.layers["moving"]
    layer.data = np.ascontiguousarray(np.asarray(layer.data)[:, ::-1])
    widget = from_menu(viewer)
    widget.preset.value, widget.metric.value = "affine", "lncc"
    widget.begin.value = "search the pose, mirrored too"
    run(widget)
    assert widget.field.dreg.pose["mirror"]


def test_units_of_layers_placed_by_hand(viewer):
    add_pair(viewer)
    widget = from_menu(viewer)
    moving = viewer.layers["moving"]
    moving.units = ("nanometer",) * 2
    moving.scale, moving.translate = moving.scale * 1000, moving.translate * 1000
    moving.affine = [[1, 0, 5000], [0, 1, -2000], [0, 0, 1]]
    initial = widget._chosen()[1]["initial"]
    np.testing.assert_allclose(initial[:2, 2], [-5, 2])


def test_level_and_block_size(viewer):
    add_pair(viewer, (160, 160))
    widget = from_menu(viewer)
    assert widget.level.max >= 1
    widget.level.value, widget.block.value = 1, 32
    options = widget._chosen()[1]
    assert (options["stages"], options["finest_level"]) == (None, 1)
    assert options["block_shape"] == 32
    widget.preset.value = "affine, then B-splines (elastix)"
    options = widget._chosen()[1]
    assert [s.name for s in options["stages"]] == ["affine", "bspline"]
    assert options["finest_level"] == 1
    widget.preset.value = "rigid"
    assert not widget.level.enabled


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
    widget = from_menu(viewer)
    widget.start()
    assert "choose a fixed" in widget.status.value
    add_pair(viewer)
    widget.moving.value = viewer.layers["fixed"]
    widget.start()
    assert "the same layer" in widget.status.value
    widget.moving.value = viewer.layers["moving"]
    viewer.layers["moving"].units = ("pixel",) * 2
    widget.start()
    wait_for(lambda: widget.run_button.enabled)
    assert "do not convert" in widget.status.value
    viewer.layers["moving"].units = ("micrometer",) * 2
    mask = viewer.add_labels(np.ones((64, 64), int), affine=2 * np.eye(3))
    widget.moving_mask.value = mask
    widget.start()
    assert "give both the same affine" in widget.status.value
