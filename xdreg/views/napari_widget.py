"""The widget that registers two layers of napari, in a thread, and can be stopped."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

import napari.layers
from magicgui.widgets import (
    ComboBox,
    Container,
    Label,
    ProgressBar,
    PushButton,
    create_widget,
)
from napari.qt.threading import create_worker
from napari.utils.notifications import show_error
from qtpy.QtCore import QTimer

from xdreg.errors import InputError, Interrupted, XdregError
from xdreg.registration.register import register
from xdreg.stages import Affine, BSpline, LocalCorrelation, Rigid
from xdreg.stores.pyramid import build_pyramid, image_levels
from xdreg.views.napari_fields import field_layers
from xdreg.views.napari_images import layer_image, scene_layers
from xdreg.views.napari_plugin import add_layers
from xdreg.views.scene import make_scene

if TYPE_CHECKING:
    import xarray as xr

    from xdreg.registration.progress import Advance

_log = logging.getLogger(__name__)

#: A quick look ends with the finest level of at most so many voxels.
QUICK_VOXELS = 96**3

#: Milliseconds between looks at a run.
INTERVAL = 200

PRESETS = (
    "affine, then local correlation",
    "the same, only coarse levels",
    "affine, then B-splines (elastix)",
    "affine",
    "rigid",
)

METRICS = ("auto", "lncc", "mind")


def stages_of(preset: str, fixed: Any) -> Any:
    """Return the stages that a preset stands for; None for the default ones."""
    if preset == PRESETS[0]:
        return None
    if preset == PRESETS[1]:
        pyramid = build_pyramid(image_levels(fixed, "fixed"), "fixed")
        finest = pyramid.level_within(QUICK_VOXELS)
        coarse = range(pyramid.start, finest - 1, -1)
        return [Affine(), *(LocalCorrelation(level=level) for level in coarse)]
    return {
        PRESETS[2]: [Affine(), BSpline()],
        PRESETS[3]: [Affine()],
        PRESETS[4]: [Rigid()],
    }[preset]


class RegisterWidget(Container):  # type: ignore[misc]
    """Choose two layers, register them, look at the result.

    Parameters
    ----------
    viewer
        Where the layers are, and where those of the result go.
    """

    def __init__(self, viewer: napari.Viewer) -> None:
        self._viewer = viewer
        image, mask = napari.layers.Image, napari.layers.Layer | None
        self.fixed = create_widget(annotation=image, label="fixed")
        self.moving = create_widget(annotation=image, label="moving")
        self.fixed_mask = create_widget(annotation=mask, label="fixed mask")
        self.moving_mask = create_widget(annotation=mask, label="moving mask")
        self.preset = ComboBox(label="stages", choices=PRESETS)
        self.metric = ComboBox(label="metric", choices=METRICS)
        self.run_button = PushButton(text="Register")
        self.cancel_button = PushButton(text="Cancel", enabled=False)
        self.bar = ProgressBar(label="", value=0, min=0, max=1)
        self.status = Label(value="")
        super().__init__(
            widgets=[
                self.fixed,
                self.moving,
                self.fixed_mask,
                self.moving_mask,
                self.preset,
                self.metric,
                self.run_button,
                self.cancel_button,
                self.bar,
                self.status,
            ]
        )
        self.run_button.clicked.connect(self.start)
        self.cancel_button.clicked.connect(self.cancel)
        self._cancelled = threading.Event()
        self._advance: Advance | None = None
        self._timer = QTimer(self.native)
        self._timer.timeout.connect(self._show_progress)
        # A run must not outlive the window.
        self.native.destroyed.connect(self._cancelled.set)

    def start(self) -> None:
        """Register the chosen layers, in a thread."""
        try:
            images, options = self._chosen()
        except XdregError as error:
            self._end(str(error), failed=True)
            return
        self._cancelled.clear()
        self._advance = None
        self._say("looking at the images")
        self.run_button.enabled, self.cancel_button.enabled = False, True
        self._timer.start(INTERVAL)
        worker = create_worker(
            _outcome, images, options, self._watch, _start_thread=False
        )
        worker.returned.connect(lambda outcome: self._finish(images, *outcome))
        worker.start()

    def cancel(self) -> None:
        """Stop the run: no further block begins, those under way end."""
        self._cancelled.set()
        self.cancel_button.enabled = False
        self._say("stopping, when the blocks under way are done")

    def _chosen(self) -> tuple[tuple[Any, Any], dict[str, Any]]:
        """Return the images and options that are chosen."""
        if self.fixed.value is None or self.moving.value is None:
            msg = "choose a fixed and a moving image; open some first"
            raise InputError(msg)
        if self.fixed.value is self.moving.value:
            msg = "fixed and moving are one layer; choose another"
            raise InputError(msg)
        fixed = layer_image(self.fixed.value, "fixed")
        moving = layer_image(self.moving.value, "moving")
        masks = {
            name: layer_image(widget.value, name)
            for name, widget in (
                ("fixed_mask", self.fixed_mask),
                ("moving_mask", self.moving_mask),
            )
            if widget.value is not None
        }
        options = {
            "stages": stages_of(self.preset.value, fixed),
            "metric": self.metric.value,
            "channel": _channel(fixed),
            "moving_channel": _channel(moving),
        }
        return (fixed, moving), options | masks

    def _watch(self, advance: Advance) -> None:
        """Take note, in the run's thread; stop it if that is wished."""
        self._advance = advance
        if self._cancelled.is_set():
            msg = "cancelled"
            raise Interrupted(msg)

    def _show_progress(self) -> None:
        advance = self._advance
        if advance is None or self._cancelled.is_set():
            return
        self.bar.max, self.bar.value = advance.total, advance.done
        failures = f", {advance.failures} not used" if advance.failures else ""
        self._say(
            f"{advance.stage}: {advance.done} of {advance.total} blocks{failures}"
        )

    def _finish(
        self,
        images: tuple[Any, Any],
        field: xr.Dataset | None,
        error: Exception | None,
    ) -> None:
        if isinstance(error, Interrupted):
            self._end("cancelled")
            return
        if field is None:
            self._end(str(error), failed=True)
            return
        scene = make_scene(field, *images)
        add_layers(self._viewer, [scene_layers(scene)[-1], *field_layers(field)])
        self.bar.value = self.bar.max
        self._end("done")

    def _end(self, text: str, *, failed: bool = False) -> None:
        self._timer.stop()
        self.run_button.enabled, self.cancel_button.enabled = True, False
        self._say(text)
        if failed:
            show_error(text)

    def _say(self, text: str) -> None:
        self.status.value = text


def _outcome(
    images: tuple[Any, Any], options: dict[str, Any], watch: Any
) -> tuple[xr.Dataset | None, Exception | None]:
    """Return a field, or why there is none, for the window's own thread to show.

    What a worker of napari raises, or returns as an exception, is shown as a crash.
    """
    try:
        return register(*images, **options, progress=watch), None
    except XdregError as error:
        return None, error
    except Exception as error:
        _log.exception("the registration failed")
        return None, error


def _channel(image: Any) -> str | None:
    """Return what to register of an image: of RGB its luminance."""
    return "luminance" if "c" in image_levels(image, "image")[0].dims else None
