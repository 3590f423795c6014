"""A registration to look at: the field, both images, and what is shown of them.

A `Scene` is what plots, reports and viewers share. Plots take planes of it
(`Scene.plane`), viewers take its images at all levels. Nothing is read when it is made.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xdreg.errors import InputError
from xdreg.fields.displacement import open_displacement
from xdreg.fields.field import field_grid, fixed_grid
from xdreg.fields.provenance import IMAGES, recorded_image
from xdreg.fields.reader import FieldReader
from xdreg.grid import Grid, pyramid_factors
from xdreg.stores.channels import counterpart
from xdreg.stores.image_files import open_image
from xdreg.stores.ome_zarr import open_ome_zarr
from xdreg.stores.pyramid import Pyramid, image_levels
from xdreg.stores.readers import ImageReader
from xdreg.views.field_planes import FieldPlane, field_plane_near
from xdreg.views.image_view import ImageView, image_view
from xdreg.views.lazy_readers import WarpedReader
from xdreg.views.planes import Plane

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Scene:
    """A field and the views of its pair, in the units of the field.

    The moving image is in its own place. ``fixed_view`` is None if it is not known.
    """

    field: xr.Dataset
    fixed_view: ImageView | None
    moving_view: ImageView

    @property
    def pair(self) -> tuple[ImageView, ImageView]:
        """Views of the fixed and of the moving image; raise if fixed is not known."""
        if self.fixed_view is None:
            msg = "fixed must be an image here, got None"
            raise InputError(msg)
        return self.fixed_view, self.moving_view

    @cached_property
    def displacement(self) -> FieldReader:
        """Reader of the field."""
        return open_displacement(self.field)

    @property
    def fixed(self) -> tuple[ImageReader, ...]:
        """The fixed image at its levels, finest first; empty where it is not known."""
        return () if self.fixed_view is None else self.fixed_view.readers

    @property
    def moving(self) -> tuple[ImageReader, ...]:
        """The moving image in its own place, at its levels, finest first."""
        return self.moving_view.readers

    @cached_property
    def warped(self) -> tuple[WarpedReader, ...]:
        """The moving image on the levels of the fixed one, finest first."""
        view = self.moving_view
        own = Pyramid(tuple(view.levels), tuple(view.grids))
        grids = [reader.grid for reader in self.fixed] or _levels_of_fixed(self.field)
        return tuple(
            WarpedReader(view.readers[own.level_like(grid)], self.displacement, grid)
            for grid in grids
        )

    def plane(self, cut: str | None = None, at: float | None = None) -> ScenePlane:
        """Return a plane of the scene, as `ImageView.plane` of the fixed image."""
        return ScenePlane(self, self.pair[0].plane(cut, at))


@dataclass(frozen=True, eq=False)
class ScenePlane:
    """A scene in a plane; each picture is read when it is first used."""

    scene: Scene
    plane: Plane
    colours: bool = False

    @cached_property
    def in_colours(self) -> ScenePlane:
        """The same plane in colours, where both images are RGB."""
        if all(view.rgb for view in self.scene.pair):
            return ScenePlane(self.scene, self.plane, colours=True)
        return self

    @cached_property
    def fixed(self) -> NDArray[np.float32]:
        """The fixed image, ``(rows, columns)`` or ``(rows, columns, 3)``."""
        return self.scene.pair[0].pixels(self.plane, colours=self.colours)

    @cached_property
    def before(self) -> NDArray[np.float32]:
        """The moving image without the field."""
        return self.scene.moving_view.pixels(self.plane, colours=self.colours)

    @cached_property
    def after(self) -> NDArray[np.float32]:
        """The moving image through the field."""
        return self.scene.moving_view.pixels(
            self.plane, self.scene.displacement, colours=self.colours
        )

    @cached_property
    def field(self) -> FieldPlane:
        """The field in this plane, or in the nearest that its own grid reaches."""
        return field_plane_near(self.scene.field, self.plane)


def make_scene(
    field: xr.Dataset,
    fixed: Any = None,
    moving: Any = None,
    *,
    channel: Any = None,
    moving_channel: Any = None,
    trust: bool = False,
) -> Scene:
    """Return a field and its images as one value to look at.

    Parameters
    ----------
    field : Dataset
        A displacement field.
    fixed, moving : DataTree, DataArray or itk.Image, optional
        The pair, each ``([t], [c], [z], y, x)``. Without both, the images that the
        field names are opened. Without ``fixed``, the moving image is warped onto a
        pyramid of its geometry, which the field knows.
    channel, moving_channel
        Index or name, or ``"luminance"``; by default the registered channel, if the
        field names it, else the luminance of an RGB image. ``moving_channel`` is
        ``channel`` unless given.
    trust
        Open images on servers, too, because the field names them.

    Returns
    -------
    Scene

    Raises
    ------
    InputError
        If an image and the field differ in dimensions, units do not convert, a channel
        must be chosen, or the field names no images, or such that are not opened
        without ``trust``.
    StoreError
        If an image that the field names cannot be opened.
    """
    if fixed is None and moving is None:
        fixed, moving = (_recorded(field, name, trust) for name in IMAGES)
    fixed_view = None if fixed is None else image_view(fixed, "fixed", field, channel)
    chosen = counterpart(channel, moving_channel, image_levels(moving, "moving")[0])
    return Scene(field, fixed_view, image_view(moving, "moving", field, chosen))


def _recorded(field: xr.Dataset, name: str, trust: bool) -> Any:
    """Open an image that a field names."""
    address = recorded_image(field, name, trust=trust)
    if address is None:
        msg = f"the field does not name its {name} image; give the fixed and the moving"
        raise InputError(msg)
    return open_recorded(address, name)


def open_recorded(address: str, name: str) -> Any:
    """Open the image at an address from `recorded_image`, and log it first."""
    _log.info("opening %s, which the field names as its %s image", address, name)
    return open_image(address) if Path(address).is_file() else open_ome_zarr(address)


def _levels_of_fixed(field: xr.Dataset) -> list[Grid]:
    """Return the grids of a pyramid of the fixed image, from its geometry alone."""
    grids = [fixed_grid(field).to_units(field_grid(field).units, "fixed")]
    for factors in pyramid_factors(grids[0]):
        grids.append(grids[-1].coarsen(factors))
    return grids
