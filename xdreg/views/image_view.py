"""One channel of an image as plots and viewers show it.

A picture has a few hundred pixels, so it is read from the coarsest level that resolves
them, with a stride where that level is still finer. Nothing is read of the rest.
"""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xdreg.coordinates import grid_of
from xdreg.errors import InputError, UnreadableError
from xdreg.fields.field import facing, field_grid
from xdreg.fields.provenance import registered_channels, selects
from xdreg.fields.reader import FieldReader
from xdreg.fields.warp import Interpolation, warp_window
from xdreg.grid import Grid
from xdreg.numerics import kernels
from xdreg.stores.channels import LUMINANCE, Selection, channel_selection
from xdreg.stores.orientation import CONVENTION
from xdreg.stores.pyramid import image_levels
from xdreg.stores.readers import ImageReader, image_reader
from xdreg.views.pictures import intensity_range, stretched
from xdreg.views.planes import Plane, checked_cut, cut_at

#: Least pixels of a picture along its longer axis, where the image has them; it has
#: less than twice as many.
PICTURE_PIXELS = 512

#: Voxels along the longest axis of the overview that limits and centre are taken from.
OVERVIEW_VOXELS = 64

#: A level with more voxels is not read for an overview.
MOST_OVERVIEW_VOXELS = 2**26

#: Voxels per axis of the middle of a level, read where there is no overview.
MIDDLE_VOXELS = {2: 1024, 3: 96}

#: Pixels per axis of the tiles in which a plane is resampled: an oblique plane then
#: reads a row of small boxes of the moving image, not one large box.
TILE = 256

#: Names that say nothing of an image.
UNTOLD = ("", "image", "0", "scale0", "s0")

#: Intensities of the colours of an RGB image.
COLOUR_LIMITS = (0.0, 255.0)


@dataclass(frozen=True, eq=False)
class ImageView:
    """One channel and time point of an image, at its stored levels, finest first.

    ``levels`` are ``([t], [c], [z], y, x)``, ``grids`` their geometry in one unit.
    ``select`` is the channel, or a weight per channel, and the time point.
    """

    name: str
    levels: Sequence[xr.DataArray]
    grids: Sequence[Grid]
    select: Mapping[str, Selection]
    rgb: bool = False

    @cached_property
    def title(self) -> str:
        """Name of the image: of its metadata, else of its file, else of its role."""
        attrs = self.levels[0].attrs
        file = re.split(r"[/\\]", str(attrs.get("source", "")).rstrip("/\\"))[-1]
        names = attrs.get("name"), self.levels[0].name, file.partition(".")[0]
        known = (str(name) for name in names if name is not None)
        return next((name for name in known if name not in UNTOLD), self.name)

    @cached_property
    def readers(self) -> tuple[ImageReader, ...]:
        """Readers of the levels, finest first."""
        return tuple(
            image_reader(level, self.name, grid=grid, select=self.select)
            for level, grid in zip(self.levels, self.grids, strict=True)
        )

    def reader_for(
        self, pixel: float, dims: Sequence[str], channel: int | None = None
    ) -> ImageReader:
        """Return a reader for a picture: pixel size, dims, and perhaps a channel."""
        level, strides = self._sampling(pixel, dims)
        array, grid = self.levels[level], self.grids[level]
        if max(strides) > 1:
            named = zip(grid.dims, strides, strict=True)
            array = array.isel({d: slice(None, None, k) for d, k in named})
            grid = grid.strided(strides)
        select = self.select if channel is None else {**self.select, "c": channel}
        return image_reader(array, self.name, grid=grid, select=select)

    def _sampling(
        self, pixel: float, dims: Sequence[str]
    ) -> tuple[int, tuple[int, ...]]:
        """Return the coarsest level that resolves a pixel, and strides for it."""
        finest = [
            min(s for s, d in zip(grid.spacing, grid.dims, strict=True) if d in dims)
            for grid in self.grids
        ]
        # Levels are rarely exactly a factor of two apart.
        enough = [i for i, step in enumerate(finest) if step <= 1.01 * pixel]
        level = enough[-1] if enough else 0
        grid = self.grids[level]
        strides = (
            min(max(1, int(pixel / step + 1e-6)), n)
            for step, n in zip(grid.spacing, grid.shape, strict=True)
        )
        return level, tuple(strides)

    @cached_property
    def _overview(self) -> tuple[NDArray[np.float32], Grid] | None:
        """The whole image on a coarse level; None without a small enough level."""
        grid = self.grids[0]
        pixel = max(np.subtract(*grid.bounds[::-1])) / OVERVIEW_VOXELS
        level, _ = self._sampling(pixel, grid.dims)
        if self.grids[level].size > MOST_OVERVIEW_VOXELS:
            return None
        reader = self.reader_for(pixel, grid.dims)
        return reader.read_known(), reader.grid

    @cached_property
    def limits(self) -> tuple[float, float]:
        """Intensities to show as black and white, the same in plots and viewers.

        From the overview, else from the middle of the coarsest level.
        """
        if self._overview is not None:
            return intensity_range(self._overview[0])
        reader = self.readers[-1]
        most = MIDDLE_VOXELS[reader.grid.ndim]
        window = [
            slice(max((n - most) // 2, 0), min((n + most) // 2, n))
            for n in reader.grid.shape
        ]
        return intensity_range(reader.read_known(window))

    def stretched(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return pixels of the image as 0 to 1.

        Without an overview the range is that of the pixels: the middle of the image may
        have little in common with them.
        """
        if values.ndim == 3:
            return stretched(values, COLOUR_LIMITS)
        whole = self._overview is not None
        return stretched(values, self.limits if whole else intensity_range(values))

    @cached_property
    def centre(self) -> tuple[float, ...]:
        """The physical point with half of the contrast on either side, per axis.

        Without an overview, the middle of the image.
        """
        places = [float(v) for v in self.grids[0].centre]
        if self._overview is None:
            return tuple(places)
        values, grid = self._overview
        for axis, dim in enumerate(grid.dims):
            others = tuple(i for i in range(grid.ndim) if i != axis)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # planes without values
                contrast = np.nan_to_num(np.nanstd(values, axis=others))
            total = np.cumsum(contrast)
            if total[-1] > 0:
                index = int(np.searchsorted(total, 0.5 * total[-1]))
                places[axis] = float(grid.axis(dim)[index])
        return tuple(places)

    def plane(self, cut: str | None = None, at: float | None = None) -> Plane:
        """Return the plane of a picture, on voxels of the level that it is read from.

        ``cut`` is as in `checked_cut`, ``at`` as in `cut_at`, by default `centre`.
        """
        grid = self.grids[0]
        cut = checked_cut(grid, cut)
        dims = [d for d in grid.dims if d != cut]
        extent = np.subtract(*grid.bounds[::-1])
        shown = [e for e, d in zip(extent, grid.dims, strict=True) if d in dims]
        reader = self.reader_for(max(shown) / PICTURE_PIXELS, dims)
        middle = None if cut is None else self.centre[grid.dims.index(cut)]
        plane = cut_at(reader.grid, cut, at, middle)
        anatomical = self.levels[0].attrs.get("orientation") == CONVENTION
        return replace(plane, anatomical=anatomical)

    def pixels(
        self,
        plane: Plane,
        displacement: FieldReader | None = None,
        *,
        colours: bool = False,
        order: Literal[0, 1] = 1,
    ) -> NDArray[np.float32]:
        """Resample the image, pulled through a field if given, in a plane.

        Returns ``(rows, columns)``, in colours ``(rows, columns, 3)``. NaN outside the
        image, and where it cannot be read.
        """
        if displacement is None:
            identity = np.eye(plane.grid.ndim + 1)
            still = kernels.affine_displacement(identity, plane.grid)
            displacement = FieldReader(*still)
        pixel = min(plane.spacing)
        channels = range(3) if colours else [None]
        found = [
            _resampled(
                self.reader_for(pixel, plane.dims, c), displacement, plane, order
            )
            for c in channels
        ]
        return np.stack(found, axis=-1) if colours else found[0]


def _resampled(
    reader: ImageReader, displacement: FieldReader, plane: Plane, order: Literal[0, 1]
) -> NDArray[np.float32]:
    """Resample in tiles; warn of what cannot be read, and leave NaN there."""
    shape = plane.grid.shape
    result = np.full(shape, np.nan, np.float32)
    how = Interpolation(order, None, np.nan if order else 0)
    parts = [[slice(i, min(i + TILE, n)) for i in range(0, n, TILE)] for n in shape]
    for tile in itertools.product(*parts):
        try:
            part = plane.grid.window(tile)
            result[tile] = warp_window(reader, displacement, part, how)
        except UnreadableError as error:
            warnings.warn(f"{error}; it is left out of the picture", stacklevel=2)
    result[~np.isfinite(result)] = np.nan
    return result.reshape(plane.shape)


def image_view(
    image: Any, name: str, field: xr.Dataset, channel: Any = None
) -> ImageView:
    """Return the view of ``"fixed"`` or ``"moving"``, in the units of the field.

    Of several channels the first is shown. The default is the registered channel, else
    the luminance of an RGB image.
    """
    like = field_grid(field)
    levels = image_levels(image, name)
    grids = [grid_of(v, name).to_units(like.units, name) for v in levels]
    if grids[0].dims != like.dims:
        msg = f"{name} has dimensions {grids[0].dims} and the field {like.dims}"
        raise InputError(msg)
    side = facing(field) if name == "moving" else like
    side.check_direction(grids[0], name, f"the {name} image of the field")
    select = _selection(field, levels[0], name, channel)
    rgb = channel is None and is_rgb(levels[0])
    view = ImageView(name, levels, grids, select, rgb)
    _ = view.readers  # raises where a selection is missing
    return view


def is_rgb(array: xr.DataArray) -> bool:
    """Return whether an image is RGB or RGBA: three or four channels of bytes."""
    return array.sizes.get("c") in (3, 4) and array.dtype == np.uint8


def _selection(
    field: xr.Dataset, finest: xr.DataArray, name: str, channel: Any
) -> Mapping[str, Selection]:
    """Return the channel to show; empty where none is chosen or there is no axis."""
    if isinstance(channel, np.ndarray):
        channel = channel.tolist()
    if isinstance(channel, list | tuple) and channel:
        channel = channel[0]
    if channel is None and "c" in finest.dims:
        registered = registered_channels(field)[("fixed", "moving").index(name)]
        if selects(registered, finest.sizes["c"]):
            return registered
        channel = LUMINANCE if is_rgb(finest) else None
    return {} if channel is None else {"c": channel_selection(finest, channel, name)}
