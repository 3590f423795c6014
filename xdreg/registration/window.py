"""The window of a block: both images on a part of the fixed image's grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from xdreg.coordinates import coordinates
from xdreg.engines.device_spline import DeviceSpline
from xdreg.numerics import kernels
from xdreg.numerics.interpolation import Spline
from xdreg.numerics.resolution import blurred, blurs
from xdreg.partition import BlockStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from xdreg.fields.reader import FieldReader
    from xdreg.grid import Grid
    from xdreg.stores.readers import ImageReader

#: A block with fewer voxels per axis inside the masks, on average, is not registered.
MIN_SAMPLES_PER_AXIS = 8


@dataclass(frozen=True)
class Inputs:
    """Readers of the two images at a stage's levels, and of the displacement so far.

    ``others`` are pairs of further channels that are registered together. ``device``
    is that on which the moving image is resampled.
    """

    fixed: ImageReader
    moving: ImageReader
    fixed_mask: ImageReader | None
    moving_mask: ImageReader | None
    before: FieldReader
    others: tuple[tuple[ImageReader, ImageReader], ...] = ()
    device: str = "cpu"


@dataclass(frozen=True)
class Channel:
    """A further channel on a window; the fields are those of `Window`."""

    fixed: NDArray[np.float32]
    moving: NDArray[np.float32]
    source: Spline | DeviceSpline


@dataclass(frozen=True)
class Window:
    """Both images on one window, the moving one pulled through the field so far.

    The moving image is interpolated by cubic B-splines, because the method interpolates
    it once more: the blur of linear interpolation costs up to a tenth of the accuracy.
    ``source`` keeps the part of the moving image that was read, with a margin, to judge
    the result on. ``others`` are further channels.
    """

    grid: Grid
    fixed: NDArray[np.float32]
    moving: NDArray[np.float32]
    fixed_mask: NDArray[np.bool_]
    moving_mask: NDArray[np.bool_]
    source: Spline | DeviceSpline
    before: NDArray[np.float32]
    before_grid: Grid
    others: tuple[Channel, ...] = ()

    def images(self) -> tuple[xr.DataArray, xr.DataArray]:
        """Return both images, with all channels, as a method is given them."""
        fixed, moving = self.fixed, self.moving
        if self.others:
            fixed = np.stack([fixed, *(channel.fixed for channel in self.others)])
            moving = np.stack([moving, *(channel.moving for channel in self.others)])
        return (
            masked_image(fixed, self.fixed_mask, self.grid),
            masked_image(moving, self.moving_mask, self.grid),
        )


def read_window(
    inputs: Inputs, window: Sequence[slice], margin: Sequence[float]
) -> Window | BlockStatus:
    """Read both images on a window, or return why there is nothing to register.

    ``margin (ndim,)``, in physical units, is how much more of the moving image to read
    on every side.
    """
    grid = inputs.fixed.grid.window(window)
    fixed = inputs.fixed.read_finite(window)
    fixed_mask = np.isfinite(fixed)
    if inputs.fixed_mask is not None:
        fixed_mask &= inputs.fixed_mask.read_mask(grid)
        fixed[~fixed_mask] = np.nan
    known = fixed[fixed_mask]
    if known.size == 0 or known.min() == known.max():
        return BlockStatus.EMPTY
    before, before_grid = inputs.before.read_around(grid)
    fixed_blur, moving_blur = blurs(
        grid.spacing, inputs.moving.grid.spacing, _mean_jacobian(before, before_grid)
    )
    fixed = blurred(fixed, fixed_blur)
    lower, upper = kernels.moved_bounds(before, before_grid, grid)
    part = inputs.moving.grid.covering(lower - margin, upper + margin)
    if part is None:
        return BlockStatus.NO_OVERLAP
    part_grid = inputs.moving.grid.window(part)
    counted = None
    if inputs.moving_mask is not None:
        counted = inputs.moving_mask.read_mask(part_grid)
    how = part, counted, moving_blur, inputs.device
    source = _spline(inputs.moving, *how)
    moving = source.resample(before, before_grid, grid)
    moving_mask = np.isfinite(moving)
    if inputs.moving_mask is not None:
        moving_mask &= inputs.moving_mask.read_mask(grid, before, before_grid)
    if not moving_mask.any():
        return BlockStatus.NO_OVERLAP
    others = []
    for one, channel in inputs.others:
        more = _spline(channel, *how)
        pulled = more.resample(before, before_grid, grid)
        values = blurred(one.read_finite(window), fixed_blur)
        others.append(Channel(values, pulled, more))
        fixed_mask &= np.isfinite(others[-1].fixed)
        moving_mask &= np.isfinite(pulled)
    both = moving[fixed_mask & moving_mask]
    if both.size < MIN_SAMPLES_PER_AXIS**grid.extended_ndim:
        return BlockStatus.TOO_FEW_SAMPLES
    if both.min() == both.max():
        return BlockStatus.EMPTY
    return Window(
        grid,
        fixed,
        moving,
        fixed_mask,
        moving_mask,
        source,
        before,
        before_grid,
        tuple(others),
    )


def _mean_jacobian(
    displacement: NDArray[np.float32], grid: Grid
) -> NDArray[np.float64]:
    """Return the mean Jacobian (ndim, ndim) of the map on a grid, from its ends."""
    jacobian = np.eye(grid.ndim)
    for axis, (size, step) in enumerate(zip(grid.shape, grid.spacing, strict=True)):
        if size > 1:
            ends = np.moveaxis(displacement, axis + 1, 0)[[0, -1]]
            first, last = ends.mean(axis=tuple(range(2, ends.ndim)), dtype=np.float64)
            jacobian[:, axis] += (last - first) / ((size - 1) * step)
    return jacobian


def _spline(
    reader: ImageReader,
    part: Sequence[slice],
    counted: NDArray[np.bool_] | None,
    blur: NDArray[np.float64],
    device: str,
) -> Spline | DeviceSpline:
    """Return a part of the moving image, of which what does not count has no effect."""
    values = reader.read_finite(part)
    if counted is not None:
        values[~counted] = np.nan
    values, grid = blurred(values, blur), reader.grid.window(part)
    if device == "cpu":
        return Spline(values, grid, limited=True)
    return DeviceSpline(values, grid)


def masked_image(
    values: NDArray[np.float32], mask: NDArray[np.bool_], grid: Grid
) -> xr.DataArray:
    """Return an image as a method is given it: without NaN, with a coordinate ``mask``.

    Voxels of ``values ([c], *grid.shape)`` without a value are set to the smallest
    known value, the background of most images, so that no false edge appears in it.
    """
    known = np.isfinite(values)
    if not known.all():
        values = np.where(known, values, values[known].min() if known.any() else 0)
    return xr.DataArray(
        np.ascontiguousarray(values, np.float32),
        dims=("c", *grid.dims)[-values.ndim :],
        coords=coordinates(grid, mask=mask),
    )
