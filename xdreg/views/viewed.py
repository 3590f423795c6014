"""Planes through a pair of images, read for a picture: coarse, and never the whole.

A picture has a few hundred pixels, so an image is read from the level that has about so
many, and of a level that is finer still every so many voxels. Only the plane itself is
read of the fixed image, and of the moving one what the field maps that plane onto.
"""

from __future__ import annotations

import itertools
import warnings
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xdreg.coordinates import grid_of
from xdreg.errors import InputError, UnreadableError
from xdreg.fields.field import field_grid
from xdreg.fields.provenance import registered_channels, selects
from xdreg.fields.reader import FieldReader
from xdreg.fields.warp import Interpolation, warp_window
from xdreg.numerics import kernels
from xdreg.stores.channels import channel_selection
from xdreg.stores.pyramid import image_levels
from xdreg.stores.readers import image_reader
from xdreg.views.pictures import intensity_range
from xdreg.views.planes import Plane, checked_cut, cut_at

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from xdreg.grid import Grid
    from xdreg.stores.channels import Selection
    from xdreg.stores.readers import ImageReader

#: A picture has at least so many pixels along its longest axis, where the image has
#: them, and less than twice as many.
PICTURE_PIXELS = 512

#: A look at the whole of an image, for where its content lies, takes about so many
#: voxels along the longest axis.
LOOK_VOXELS = 64

#: None is taken where the level for it has more voxels than this.
MOST_LOOK_VOXELS = 2**26

#: Pixels of a plane are resampled together in squares of so many per axis: an oblique
#: cut then reads a row of small boxes of the moving image, not one large one.
TILE = 256

#: Where the colours of an RGB image lie on its channel axis.
_COLOURS = 3


class Viewed:
    """An image to be looked at, in the units of a field.

    Parameters
    ----------
    image : DataTree, DataArray or itk.Image ([t], [c], [z], y, x)
        The image.
    name
        What to call it in an error.
    like : Grid
        Of the field: dims and units to agree with.
    channel
        Index or name of a channel, or ``"luminance"``; of several the first is shown.
        By default the one that was registered, else the luminance of an RGB image.

    Raises
    ------
    InputError
        If the dims or units do not fit, or a channel must be chosen.
    """

    def __init__(
        self,
        image: Any,
        name: str,
        like: Grid,
        channel: Any = None,
        registered: Mapping[str, Selection] | None = None,
    ) -> None:
        self.name = name
        self.levels = image_levels(image, name)
        self.grids = [grid_of(v, name).to_units(like.units, name) for v in self.levels]
        if self.grids[0].dims != like.dims:
            msg = (
                f"{name} has dimensions {self.grids[0].dims} and the field {like.dims}"
            )
            raise InputError(msg)
        finest = self.levels[0]
        self.coloured = channel is None and is_rgb(finest)
        self.select = self._selection(finest, channel, registered)
        image_reader(finest, name, select=self.select)  # says what is missing

    def _selection(
        self,
        finest: xr.DataArray,
        channel: Any,
        registered: Mapping[str, Selection] | None,
    ) -> dict[str, Selection]:
        if isinstance(channel, np.ndarray):
            channel = channel.tolist()
        if isinstance(channel, list | tuple) and channel:
            channel = channel[0]
        if channel is not None:
            return {"c": channel_selection(finest, channel, self.name)}
        if "c" not in finest.dims:
            return {}
        if registered and selects(registered, finest.sizes["c"]):
            return dict(registered)
        if is_rgb(finest):
            return {"c": channel_selection(finest, "luminance", self.name)}
        return {}

    def reader(
        self, pixel: float, dims: Sequence[str], select: Any = None
    ) -> ImageReader:
        """Return the reader of about the resolution of a picture.

        Parameters
        ----------
        pixel
            Extent of a pixel, physical.
        dims
            Those that the picture shows.
        select
            Another channel than the image's own.
        """
        level, strides = self._sampling(pixel, dims)
        array, grid = self.levels[level], self.grids[level]
        if max(strides) > 1:
            named = dict(zip(grid.dims, strides, strict=True))
            array = array.isel({d: slice(None, None, k) for d, k in named.items()})
            grid = grid.strided(strides)
        chosen = self.select if select is None else select
        return image_reader(array, self.name, grid=grid, select=chosen)

    def colours(self, pixel: float, dims: Sequence[str]) -> list[ImageReader]:
        """Return a reader for each of red, green and blue."""
        return [self.reader(pixel, dims, {"c": i}) for i in range(_COLOURS)]

    def _sampling(
        self, pixel: float, dims: Sequence[str]
    ) -> tuple[int, tuple[int, ...]]:
        """Return the coarsest level that has the resolution, and its strides."""
        finest = [
            min(s for s, d in zip(grid.spacing, grid.dims, strict=True) if d in dims)
            for grid in self.grids
        ]
        # Levels are rarely exactly a factor of two apart.
        enough = [i for i, step in enumerate(finest) if step <= 1.01 * pixel]
        level = enough[-1] if enough else 0
        strides = (
            min(max(1, int(pixel / step + 1e-6)), n)
            for step, n in zip(
                self.grids[level].spacing, self.grids[level].shape, strict=True
            )
        )
        return level, tuple(strides)

    @cached_property
    def _look(self) -> tuple[NDArray[np.float32], Grid] | None:
        """The whole image on a coarse level, if it has one that is small enough."""
        grid = self.grids[0]
        pixel = max(np.subtract(*grid.bounds[::-1])) / LOOK_VOXELS
        level, _ = self._sampling(pixel, grid.dims)
        if self.grids[level].size > MOST_LOOK_VOXELS:
            return None
        reader = self.reader(pixel, grid.dims)
        return reader.read_known(), reader.grid

    @cached_property
    def limits(self) -> tuple[float, float] | None:
        """The intensities to show as black and white, the same in every plane."""
        return None if self._look is None else intensity_range(self._look[0])

    @cached_property
    def centre(self) -> tuple[float, ...]:
        """The middle of what the image shows, physical.

        Along every axis half of the contrast lies on either side. Of an image without
        a coarse level it is the middle of the image.
        """
        places = [float(v) for v in self.grids[0].centre]
        if self._look is None:
            return tuple(places)
        values, grid = self._look
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

        Parameters
        ----------
        cut
            In space, the dim that it is perpendicular to; by default the first.
        at
            Where it cuts, physical; by default at the middle of what the image shows.

        Raises
        ------
        InputError
            If there is no such dim, or the plane misses the image.
        """
        grid = self.grids[0]
        cut = checked_cut(grid, cut)
        dims = [d for d in grid.dims if d != cut]
        extent = np.subtract(*grid.bounds[::-1])
        shown = [e for e, d in zip(extent, grid.dims, strict=True) if d in dims]
        reader = self.reader(max(shown) / PICTURE_PIXELS, dims)
        middle = None if cut is None else self.centre[grid.dims.index(cut)]
        return cut_at(reader.grid, cut, at, middle)


def is_rgb(array: xr.DataArray) -> bool:
    """Tell whether an image is one of colours: three or four channels of bytes."""
    return array.sizes.get("c") in (3, 4) and array.dtype == np.uint8


def viewed_fixed(field: xr.Dataset, fixed: Any, channel: Any = None) -> Viewed:
    """Return a field's fixed image to be looked at; one that is so already as it is."""
    if isinstance(fixed, Viewed):
        return fixed
    own = registered_channels(field)[0]
    return Viewed(fixed, "fixed", field_grid(field), channel, own)


def viewed_pair(
    field: xr.Dataset,
    fixed: Any,
    moving: Any,
    channel: Any = None,
    moving_channel: Any = None,
) -> tuple[Viewed, Viewed]:
    """Return a field's pair to be looked at; as it is, where it is so already."""
    target = viewed_fixed(field, fixed, channel)
    if isinstance(moving, Viewed):
        return target, moving
    if moving_channel is None:
        finest = image_levels(moving, "moving")[0]
        moving_channel = channel if "c" in finest.dims else None
    own = registered_channels(field)[1]
    return target, Viewed(moving, "moving", field_grid(field), moving_channel, own)


def sampled(
    viewed: Viewed,
    plane: Plane,
    displacement: FieldReader | None = None,
    *,
    colours: bool = False,
) -> NDArray[np.float32]:
    """Return an image in a plane, pulled through a field.

    Parameters
    ----------
    viewed
        The image.
    plane
        The pixels.
    displacement
        A field; by default the image is taken as it lies.
    colours
        Return red, green and blue of an RGB image.

    Returns
    -------
    (*plane.shape) or (*plane.shape, 3) float32
        NaN outside the image, and where it cannot be read.
    """
    pixel = plane.pixel
    if displacement is None:
        identity = np.eye(plane.grid.ndim + 1)
        displacement = FieldReader(*kernels.affine_displacement(identity, plane.grid))
    if not colours:
        return _tiled(viewed.reader(pixel, plane.dims), displacement, plane)
    readers = viewed.colours(pixel, plane.dims)
    return np.stack([_tiled(r, displacement, plane) for r in readers], axis=-1)


def _tiled(
    reader: ImageReader, displacement: FieldReader, plane: Plane
) -> NDArray[np.float32]:
    """Resample tile by tile; what cannot be read becomes NaN, with a warning."""
    result = np.full(plane.grid.shape, np.nan, np.float32)
    tiles = itertools.product(
        *(
            [slice(i, min(i + TILE, n)) for i in range(0, n, TILE)]
            for n in plane.grid.shape
        )
    )
    for tile in tiles:
        part = plane.grid.window(tile)
        try:
            values = warp_window(
                reader, displacement, part, Interpolation(1, None, np.nan)
            )
        except UnreadableError as error:
            warnings.warn(f"{error}; it is left out of the picture", stacklevel=4)
            continue
        result[tile] = values
    result[~np.isfinite(result)] = np.nan
    return result.reshape(plane.shape)
