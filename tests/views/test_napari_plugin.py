"""The plugin in a real napari, off the screen: layers, and what is read for them."""

import json
import os

import numpy as np
import pytest

from tests.helpers.displays import open_display

pytest.importorskip("napari", reason="napari is not installed: xdreg[napari]")
# Qt that lacks a library of the system raises an ImportError of its own.
pytest.importorskip("qtpy.QtWidgets", exc_type=ImportError)
open_display()

import napari
from napari.utils.notifications import notification_manager
from npe2 import PluginManager, PluginManifest
from qtpy.QtWidgets import QApplication

import xdreg
from tests.helpers.fields import Known, Watched, noisy_moving
from tests.helpers.servers import serving
from xdreg.coordinates import grid_of
from xdreg.partition import BlockStatus
from xdreg.views.lazy_readers import WindowArray
from xdreg.views.napari_plugin import get_reader, open_viewer, phantom, read
from xdreg.views.scene import make_scene


@pytest.fixture
def viewer():
    viewer = napari.Viewer(show=False)
    yield viewer
    viewer.close()


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Return the paths of a pair and of the field that registers it."""
    folder = tmp_path_factory.mktemp("stored")
    pair = xdreg.datasets.phantom_pair(
        (40, 60, 72), amplitude=3.0, spacing=(2.0, 1.0, 1.0), units="micrometer"
    )
    paths = [folder / f"{name}.ome.zarr" for name in ("fixed", "moving", "field")]
    for image, path in zip((pair.fixed, pair.moving), paths, strict=False):
        xdreg.save(image, path)
    images = [xdreg.open_ome_zarr(path) for path in paths[:2]]
    stage = xdreg.LocalCorrelation(level=0, iterations=5)
    field = images[0].dreg.register(
        images[1], stages=stage, metric="lncc", block_shape=36, progress=False
    )
    xdreg.save(field, paths[2])
    return paths


def test_manifest_is_found():
    manifest = PluginManifest.from_distribution("xdreg")
    manifest.validate_imports()
    assert {c.id for c in manifest.contributions.commands} == {
        "xdreg.get_reader",
        "xdreg.write_field",
        "xdreg.register",
        "xdreg.phantom",
    }


def test_reader(stored, viewer):
    fixed, moving, field = map(str, stored)
    assert get_reader(field + "/") is read
    assert get_reader(str(stored[0].parent)) is None
    assert get_reader(str(stored[0] / "0")) is None
    viewer.open(field, plugin="xdreg")
    names = [layer.name for layer in viewer.layers]
    assert names == [
        "moving",
        "warped",
        "field magnitude",
        "field displacement",
        "field deformation",
        "field blocks",
    ]
    opened = xdreg.open_field(field)
    expected = opened.dreg.warp(xdreg.open_ome_zarr(moving))
    grid = grid_of(expected)
    layer = viewer.layers["warped"]
    assert tuple(layer.scale) == grid.spacing
    assert tuple(layer.translate) == grid.origin
    assert [str(u) for u in layer.units] == ["micrometer"] * 3
    np.testing.assert_array_equal(np.asarray(layer.data[0]), expected)
    viewer.layers.clear()
    layers = viewer.open([fixed, moving], stack=True, plugin="xdreg")
    assert [layer.colormap.name for layer in layers] == ["magenta", "green"]
    tree = xdreg.open_ome_zarr(fixed)
    assert len(layers[0].data) == len(tree.children)
    assert tuple(layers[0].scale) == (2.0, 1.0, 1.0)


def test_a_field_without_its_images(stored, viewer):
    field = xdreg.open_field(stored[2])
    field.attrs["xdreg"] = field.attrs["xdreg"].replace("moving.ome", "gone.ome")
    path = stored[2].parent / "orphan.ome.zarr"
    xdreg.save(field, path, overwrite=True)
    with pytest.warns(UserWarning, match="left out"):
        layers = read(str(path))
    assert [options["name"].split()[0] for _, options, _ in layers] == ["field"] * 4


def test_an_address_that_a_field_names_is_shown_not_called(stored, viewer, tmp_path):
    with serving(tmp_path) as (url, faults):
        for address in (f"{url}/x.zarr", f"reference::{url}/x.json"):
            field = xdreg.open_field(stored[2])
            manifest = json.loads(field.attrs["xdreg"])
            manifest["moving"]["source"] = address
            path = tmp_path / "odd.ome.zarr"
            xdreg.save(
                field.assign_attrs(xdreg=json.dumps(manifest)), path, overwrite=True
            )
            with pytest.warns(UserWarning, match="left out") as caught:
                layers = read(str(path))
            assert address in str(caught[0].message)
            assert "FIXED MOVING" in str(caught[0].message)
            assert len(layers) == 4
        assert faults.asked == []


def test_a_local_image_is_shown_before_it_is_opened(stored):
    before = len(notification_manager.records)
    assert len(read(str(stored[2]))) == 6
    (shown,) = notification_manager.records[before:]
    assert str(stored[1]) in shown.message


@pytest.mark.parametrize("text", ["[" * 10**5, "[]", '{"attributes": {"ome": 1}}'])
def test_a_folder_of_another_kind_is_left_to_others(tmp_path, text):
    (tmp_path / "zarr.json").write_text(text)
    assert get_reader(str(tmp_path)) is None
    (tmp_path / "zarr.json").unlink()
    os.mkfifo(tmp_path / "zarr.json")
    assert get_reader(str(tmp_path)) is None


def test_only_what_is_seen_is_read(viewer):
    known = Known(3)
    moving = noisy_moving(known)
    watched = Watched(moving.values)
    scene = make_scene(known.field, None, moving)
    scene.moving[0].source = watched
    viewer.add_image(WindowArray(scene.warped[0]), contrast_limits=(0, 255))
    voxels = [np.prod(shape) for shape in watched.windows]
    assert voxels
    # Planes of the moving image, in a window a few voxels thick.
    assert max(voxels) < 0.3 * moving.size
    before = len(watched.windows)
    viewer.dims.set_current_step(0, 3)
    assert len(watched.windows) > before
    assert max(np.prod(s) for s in watched.windows[before:]) < 0.3 * moving.size


def colourfulness(picture):
    """Return how much of the light in a picture is of a colour, not grey."""
    red, green, blue = np.moveaxis(picture[..., :3].astype(float), -1, 0)
    both = (red + blue) / 2
    return np.abs(both - green).sum() / np.maximum(both, green).sum()


def test_viewer_shows_the_registration(stored, tmp_path):
    fixed, moving, field = stored
    opened = xdreg.open_field(field)
    status = opened.block_status.copy()
    status[0, 1, 1] = BlockStatus.CRASHED
    opened["block_status"] = status
    scene = make_scene(opened, xdreg.open_ome_zarr(fixed), xdreg.open_ome_zarr(moving))
    viewer = open_viewer(scene, show=False)
    try:
        # The arrows near any plane are shown.
        arrows = viewer.layers["field deformation"]
        assert viewer.dims.thickness[0] > 0
        for step in (5, 12, 20, 31):
            viewer.dims.set_current_step(0, step)
            assert len(arrows._view_indices)
        # Images are not averaged over those thick slices. Arrows that point out of the
        # image move the first step, so the plane is named by its place.
        viewer.dims.set_point(0, 31 * 2.0)
        warped = viewer.layers["warped"]
        np.testing.assert_array_equal(
            warped._data_view, np.asarray(scene.warped[0].read())[31]
        )
        extent = viewer.layers["fixed"].extent.world
        for name in ("warped", "field magnitude"):
            other = viewer.layers[name].extent.world
            np.testing.assert_allclose(other[0], extent[0], atol=1e-6)
        # The blocks begin where the image does.
        blocks = viewer.layers["field blocks"]
        edge = blocks.translate - blocks.scale / 2
        np.testing.assert_allclose(edge, scene.fixed[0].grid.bounds[0])
        blocks.visible = True
        text = blocks.get_status(blocks.translate, world=True)
        blocks.visible = False
        assert "success" in str(text)
        red = blocks.get_color(int(blocks.data[0, 1, 1]))
        assert red[0] > 0.5 > red[1]
        # Fixed and warped agree, so that hardly a pixel has a colour.
        for name in ("fixed", "warped"):
            assert viewer.layers[name].visible
        arrows.visible = False
        viewer.dims.set_current_step(0, 20)
        viewer.show()
        QApplication.processEvents()
        if QApplication.platformName() != "offscreen":  # which draws only black
            picture = viewer.screenshot(flash=False)
            assert picture[..., :3].mean() > 20
            assert colourfulness(picture) < 0.25
            viewer.layers["warped"].visible = False
            assert colourfulness(viewer.screenshot(flash=False)) > 0.9
    finally:
        viewer.close()


def test_writer(stored, viewer, tmp_path):
    viewer.open(str(stored[2]), plugin="xdreg")
    target = tmp_path / "copy.ome.zarr"
    written = viewer.layers["field magnitude"].save(str(target), plugin="xdreg")
    assert written == [str(target)]
    expected = xdreg.open_field(stored[2])
    xdreg_copy = xdreg.open_field(target)
    np.testing.assert_array_equal(xdreg_copy.displacement, expected.displacement)
    assert xdreg_copy.block_status.equals(expected.block_status)
    with pytest.raises(xdreg.XdregError, match="belong to 0"):
        viewer.layers["warped"].save(str(tmp_path / "b.zarr"), plugin="xdreg")


def test_sample():
    layers = phantom()
    assert [data.shape for data, _, _ in layers] == [(72, 88, 104)] * 2
    assert [options["name"] for _, options, _ in layers] == ["fixed", "moving"]


def test_plugin_is_registered():
    manager = PluginManager.instance()
    manager.discover()
    assert "xdreg" in manager
