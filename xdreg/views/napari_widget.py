"""The napari widget that registers two layers, in a thread that can be cancelled."""

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
from xdreg.views.napari_images import layer_image, plain, scene_layers
from xdreg.views.napari_plugin import add_layers
from xdreg.views.scene import make_scene

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray as xr

    from xdreg.registration.progress import Advance

    #: A field, or the error that prevented it.
    Outcome = tuple[xr.Dataset | None, Exception | None]

_log = logging.getLogger(__name__)

#: The coarse preset ends at the finest level of at most this many voxels.
QUICK_VOXELS = 96**3

#: Milliseconds between updates of the progress bar.
INTERVAL = 200

METRICS = ("auto", "lncc", "mind")


def coarse_stages(fixed: Any) -> list[Any]:
    """Return the default stages on the coarse levels of an image alone."""
    pyramid = build_pyramid(image_levels(fixed, "fixed"), "fixed")
    finest = pyramid.level_within(QUICK_VOXELS)
    coarse = range(pyramid.start, finest - 1, -1)
    return [Affine(), *(LocalCorrelation(level=level) for level in coarse)]


#: What makes the stages of a preset for a fixed image; None for the default stages.
PRESETS: dict[str, Callable[[Any], list[Any] | None]] = {
    "affine, then local correlation": lambda _: None,
    "the same, only coarse levels": coarse_stages,
    "affine, then B-splines (elastix)": lambda _: [Affine(), BSpline()],
    "affine": lambda _: [Affine()],
    "rigid": lambda _: [Rigid()],
}


class RegisterWidget(Container):  # type: ignore[misc]
    """Register two chosen layers, and add the result as layers."""

    def __init__(self, viewer: napari.Viewer) -> None:
        self._viewer = viewer
        image, mask = napari.layers.Image, napari.layers.Layer | None
        self.fixed = create_widget(annotation=image, label="fixed")
        self.moving = create_widget(annotation=image, label="moving")
        self.fixed_mask = create_widget(annotation=mask, label="fixed mask")
        self.moving_mask = create_widget(annotation=mask, label="moving mask")
        self.preset = ComboBox(label="stages", choices=list(PRESETS))
        self.metric = ComboBox(label="metric", choices=METRICS)
        self.run_button = PushButton(text="Register")
        self.cancel_button = PushButton(text="Cancel", enabled=False)
        self.bar = ProgressBar(label="", value=0, min=0, max=1)
        self.status = Label(value="")
        images = [self.fixed, self.moving, self.fixed_mask, self.moving_mask]
        buttons = [self.run_button, self.cancel_button]
        choices = [self.preset, self.metric]
        super().__init__(widgets=[*images, *choices, *buttons, self.bar, self.status])
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
        self.status.value = "reading the images"
        self.run_button.enabled, self.cancel_button.enabled = False, True
        self._timer.start(INTERVAL)
        worker = create_worker(
            _outcome, images, options, self._watch, _start_thread=False
        )
        worker.returned.connect(lambda outcome: self._finish(images, outcome))
        worker.start()

    def cancel(self) -> None:
        """Stop the run: no further block starts, running ones finish."""
        self._cancelled.set()
        self.cancel_button.enabled = False
        self.status.value = "stopping after the running blocks"

    def _chosen(self) -> tuple[tuple[Any, Any], dict[str, Any]]:
        """Return the chosen images and options."""
        if self.fixed.value is None or self.moving.value is None:
            msg = "choose a fixed and a moving image; open some first"
            raise InputError(msg)
        if self.fixed.value is self.moving.value:
            msg = "fixed and moving are the same layer; choose another"
            raise InputError(msg)
        fixed = layer_image(self.fixed.value, "fixed")
        moving = layer_image(self.moving.value, "moving")
        masks = {
            name: layer_image(widget.value, name)
            for name in ("fixed_mask", "moving_mask")
            if (widget := getattr(self, name)).value is not None
        }
        options = {
            "stages": PRESETS[self.preset.value](fixed),
            "metric": self.metric.value,
            "channel": _channel(fixed),
            "moving_channel": _channel(moving),
        }
        return (fixed, moving), options | masks

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
        failures = f", {advance.failures} not used" if advance.failures else ""
        self.status.value = (
            f"{advance.stage}: {advance.done} of {advance.total} blocks{failures}"
        )

    def _finish(self, images: tuple[Any, Any], outcome: Outcome) -> None:
        field, error = outcome
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
        self.status.value = plain(text)
        if failed:
            show_error(plain(text))


def _outcome(images: tuple[Any, Any], options: dict[str, Any], watch: Any) -> Outcome:
    """Return a field, or the error, for the window's own thread to show.

    napari shows an error that a worker raises, or returns alone, as a crash.
    """
    try:
        return register(*images, **options, progress=watch), None
    except XdregError as error:
        return None, error
    except Exception as error:
        _log.exception("the registration failed")
        return None, error


def _channel(image: Any) -> str | None:
    """Return the channel to register: the luminance of an image with channels."""
    return "luminance" if "c" in image_levels(image, "image")[0].dims else None
