"""The napari widget that registers two layers, in a thread that can be cancelled."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

import napari.layers
import numpy as np
from magicgui.widgets import (
    ComboBox,
    Container,
    FileEdit,
    Label,
    ProgressBar,
    PushButton,
    SpinBox,
    create_widget,
)
from napari.qt.threading import create_worker
from napari.utils.notifications import show_error
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QFileDialog

from xdreg.coordinates import grid_of
from xdreg.errors import InputError, Interrupted, XdregError
from xdreg.fields.store import save_field
from xdreg.grid import unit_ratio
from xdreg.registration.progress import time_text
from xdreg.registration.register import register
from xdreg.registration.verdict import verdict
from xdreg.stages import Affine, BSpline, Rigid, Stage
from xdreg.stores.napari_layers import layer_image, layer_matrix
from xdreg.stores.pyramid import build_pyramid, image_levels
from xdreg.views.colours import PAIR_COLOURS
from xdreg.views.napari_fields import field_layers
from xdreg.views.napari_images import plain, scene_layers
from xdreg.views.napari_plugin import add_layers
from xdreg.views.scene import make_scene

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from xdreg.registration.progress import Advance

_log = logging.getLogger(__name__)

#: Milliseconds between updates of the progress bar.
INTERVAL = 200

METRICS = ("auto", "lncc", "mind")


#: Stages of a preset, None for the default.
PRESETS: dict[str, list[Stage] | None] = {
    "affine, then local correlation": None,
    "affine, then B-splines (elastix)": [Affine(), BSpline()],
    "affine": [Affine()],
    "rigid": [Rigid()],
}

LINEAR_PRESETS = ("affine", "rigid")

#: Where to start: as the moving layer was placed by hand, if it was; always; never.
MIRROR = "search the pose, mirrored too"
STARTS = ("automatic", "where the layers lie", "search the pose", MIRROR)

TOOLTIPS = {
    "fixed": "The image that stays. The result has its voxels.",
    "moving": "The image that is brought onto the fixed one.",
    "fixed_mask": "Voxels of the fixed image that count are not zero.",
    "moving_mask": "Voxels of the moving image that count are not zero.",
    "preset": "A linear transform, and what follows it.",
    "metric": "lncc within one modality, mind across modalities and stains, auto: "
    "chosen from the images.",
    "begin": "automatic: where the layers lie if one was moved by an affine transform, "
    "as with napari's tool to transform a layer; else the pose is searched.",
    "level": "Finest level of the fixed image to register, 0 its voxels. Each level "
    "less is several times faster.",
    "block": "Voxels of a block per axis. Larger blocks need more memory.",
    "workdir": "Folder that keeps the run: the same choices resume it. Without one, a "
    "temporary folder.",
    "run_button": "Register the two layers.",
    "cancel_button": "Stop after the blocks that run now.",
    "save_button": "Write the field as OME-Zarr.",
}


class RegisterWidget(Container):  # type: ignore[misc]
    """Register two chosen layers, and add the result as layers."""

    # napari passes the viewer to a parameter of this name.
    def __init__(self, napari_viewer: napari.Viewer) -> None:
        self._viewer = napari_viewer
        image, mask = napari.layers.Image, napari.layers.Layer | None
        chosen = {
            "fixed": create_widget(annotation=image, label="fixed"),
            "moving": create_widget(annotation=image, label="moving"),
            "fixed_mask": create_widget(annotation=mask, label="fixed mask"),
            "moving_mask": create_widget(annotation=mask, label="moving mask"),
            "preset": ComboBox(label="stages", choices=list(PRESETS)),
            "metric": ComboBox(label="metric", choices=METRICS),
            "begin": ComboBox(label="start", choices=STARTS),
            "level": SpinBox(label="stop at level", min=0, max=0),
            "block": SpinBox(label="block size", min=0, max=4096, step=16),
            "workdir": FileEdit(label="work directory", mode="d", nullable=True),
            "run_button": PushButton(text="Register"),
            "cancel_button": PushButton(text="Cancel", enabled=False),
            "bar": ProgressBar(label="", value=0, min=0, max=1),
            "status": Label(value=""),
            "save_button": PushButton(text="Save field…", enabled=False),
        }
        for name, widget in chosen.items():
            setattr(self, name, widget)
            widget.tooltip = TOOLTIPS.get(name, "")
        self.block.native.setSpecialValueText("automatic")
        super().__init__(widgets=list(chosen.values()))
        for widget in (self.fixed, self.preset):
            widget.changed.connect(self._limit_level)
        self.run_button.clicked.connect(self.start)
        self.cancel_button.clicked.connect(self.cancel)
        self.save_button.clicked.connect(self.save)
        self.field: Any = None
        self._cancelled = threading.Event()
        self._advance: Advance | None = None
        self._timer = QTimer(self.native)
        self._timer.timeout.connect(self._show_progress)
        # A run must not outlive the window.
        self.native.destroyed.connect(self._cancelled.set)

    def reset_choices(self, *_: Any) -> None:
        """Offer the layers that there are, and two different ones by default."""
        super().reset_choices()
        layers = list(
            self._viewer.layers
        )  # in their order, which choices need not have
        images = sorted(self.fixed.choices, key=layers.index)
        if self.fixed.value is self.moving.value and len(images) > 1:
            self.fixed.value, self.moving.value = images[:2]
        self._limit_level()

    def _limit_level(self, *_: Any) -> None:
        """Offer the levels of the fixed image."""
        deformable = self.preset.value not in LINEAR_PRESETS
        self.level.enabled = self.block.enabled = deformable
        if self.fixed.value is None:
            return
        try:
            image = layer_image(self.fixed.value, "fixed")
        except XdregError:  # said when it is registered
            return
        pyramid = build_pyramid(image_levels(image, "fixed"), "fixed")
        self.level.max = len(pyramid.grids) - 1

    def start(self) -> None:
        """Register the chosen layers, in a thread."""
        try:
            images, options, place = self._chosen()
        except XdregError as error:
            self._end(str(error), failed=True)
            return
        layers = self.fixed.value, self.moving.value
        self._cancelled.clear()
        self._advance = None
        self.bar.value = 0
        self.status.value = "reading the images"
        self.run_button.enabled, self.cancel_button.enabled = False, True
        self._timer.start(INTERVAL)
        self._in_thread(
            lambda: register(*images, **options, progress=self._watch),
            lambda field: self._show(field, images, layers, place),
        )

    def cancel(self) -> None:
        """Stop the run: no further block starts, running ones finish."""
        self._cancelled.set()
        self.cancel_button.enabled = False
        self.status.value = "stopping after the running blocks"

    def save(self) -> None:
        """Ask for a path and write the field there, in a thread."""
        path, _ = QFileDialog.getSaveFileName(
            self.native, "Save field", "field.ome.zarr", "OME-Zarr (*.zarr)"
        )
        if path:
            self.status.value = "saving the field"
            self._in_thread(
                lambda: save_field(self.field, path),
                lambda _: self._end(f"saved {path}"),
            )

    def _in_thread(self, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Do work in a thread, then pass its result on in the window's own."""

        # napari shows an error that a worker raises, or returns alone, as a crash.
        def outcome() -> tuple[Any, Exception | None]:
            try:
                return work(), None
            except XdregError as error:
                return None, error
            except Exception as error:
                _log.exception("the registration failed")
                return None, error

        def finish(found: tuple[Any, Exception | None]) -> None:
            result, error = found
            if error is None:
                then(result)
            elif isinstance(error, Interrupted):
                self._end("cancelled")
            else:
                self._end(str(error), failed=True)

        worker = create_worker(outcome, _start_thread=False)
        worker.returned.connect(finish)
        worker.start()

    def _chosen(self) -> tuple[tuple[Any, Any], dict[str, Any], NDArray[np.float64]]:
        """Return the chosen images, options, and where the fixed layer lies."""
        fixed_layer, moving_layer = self.fixed.value, self.moving.value
        if fixed_layer is None or moving_layer is None:
            msg = "choose a fixed and a moving image; open some first"
            raise InputError(msg)
        if fixed_layer is moving_layer:
            msg = "fixed and moving are the same layer; choose another"
            raise InputError(msg)
        fixed = layer_image(fixed_layer, "fixed")
        moving = layer_image(moving_layer, "moving")
        place = layer_matrix(fixed_layer)
        options = {
            "stages": PRESETS[self.preset.value],
            "finest_level": self.level.value if self.level.enabled else 0,
            "metric": self.metric.value,
            "initial": self._initial(place, fixed, moving),
            "allow_mirror": self.begin.value == MIRROR,
            "channel": _channel(fixed),
            "moving_channel": _channel(moving),
            "fixed_mask": _mask(self.fixed_mask.value, fixed_layer, "fixed_mask"),
            "moving_mask": _mask(self.moving_mask.value, moving_layer, "moving_mask"),
            "block_shape": self.block.value or None,
            "workdir": self.workdir.value,
        }
        return (fixed, moving), options, place

    def _initial(
        self, place: NDArray[np.float64], fixed: Any, moving: Any
    ) -> NDArray[np.float64] | None:
        """Return the transform that the layers' places make, None to search the pose.

        Scale and translation alone are no reason to start there: files have those, too.
        """
        other = layer_matrix(self.moving.value)
        placed = any(not np.array_equal(m, np.eye(len(m))) for m in (place, other))
        automatic, _, *searched = STARTS
        if self.begin.value in searched or (
            self.begin.value == automatic and not placed
        ):
            return None
        if len(place) != len(other):
            return place  # refused with the images
        # All of a registration is in the unit of the fixed image.
        own, target = (
            grid_of(image_levels(i, "image")[0]).units for i in (moving, fixed)
        )
        other[:-1, -1] *= unit_ratio(own, target, "moving")
        return np.asarray(np.linalg.inv(other) @ place)

    def _watch(self, advance: Advance) -> None:
        """Note the progress, in the run's thread; stop it if cancelled."""
        self._advance = advance
        if self._cancelled.is_set():
            msg = "cancelled"
            raise Interrupted(msg)

    def _show_progress(self) -> None:
        advance = self._advance
        if advance is None or self._cancelled.is_set():
            return
        self.bar.max, self.bar.value = advance.total, advance.done
        text = f"stage {advance.stage}, the last is {advance.stages - 1}: "
        text += f"{advance.done} of {advance.total} blocks"
        if advance.failures:
            text += f", {advance.failures} not used"
        left = time_text(advance.left)
        self.status.value = f"{text}, {left}" if left else text

    def _show(
        self,
        field: Any,
        images: tuple[Any, Any],
        layers: tuple[Any, Any],
        place: NDArray[np.float64],
    ) -> None:
        """Show the fixed and the warped image as `xdreg view` does, and the field."""
        self.field = field
        fixed, moving = layers
        shown = scene_layers(make_scene(field, *images))
        if fixed.rgb:  # it has no colour map
            fixed.visible = False
            shown = [shown[0], shown[-1]]
        else:
            fixed.colormap, fixed.blending = PAIR_COLOURS[0], "additive"
            fixed.visible = True
            shown = shown[-1:]
        moving.visible = False
        added = [*shown, *field_layers(field)]
        if not np.array_equal(place, np.eye(len(place))):
            for _, options, _ in added:
                options["affine"] = place
        add_layers(self._viewer, added)
        self.bar.value = self.bar.max
        self._end(f"done, {verdict(field)}")

    def _end(self, text: str, *, failed: bool = False) -> None:
        self._timer.stop()
        self.run_button.enabled, self.cancel_button.enabled = True, False
        self.save_button.enabled = self.field is not None
        self.status.value = plain(text)
        if failed:
            show_error(plain(text))


def _mask(layer: Any, image: Any, name: str) -> Any:
    """Return the mask in a layer, which must lie where its image does."""
    if layer is None:
        return None
    if not np.allclose(layer_matrix(layer), layer_matrix(image)):
        msg = (
            f"{name}, the layer {layer.name!r}, is rotated, sheared or moved otherwise "
            f"than {image.name!r}; give both the same affine"
        )
        raise InputError(msg)
    return layer_image(layer, name)


def _channel(image: Any) -> str | None:
    """Return the channel to register: the luminance of an image with channels."""
    return "luminance" if "c" in image_levels(image, "image")[0].dims else None
