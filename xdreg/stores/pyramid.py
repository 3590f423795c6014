"""An image's pyramid: its stored levels, and coarser ones that a run makes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import dask.array
import numpy as np
import xarray as xr

from xdreg.coordinates import DIRECTION, grid_of
from xdreg.errors import InputError
from xdreg.grid import pyramid_factors
from xdreg.stores.memory_images import image_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xdreg.grid import Grid


#: Stands for the image's own unit of length; None stands for no unit.
OWN_UNITS = "own"

#: Most voxels of the level that is read to look at the whole image.
OVERVIEW_VOXELS = 64**3

#: Most voxels of the level at which deformable stages begin. There, motion by a quarter
#: of the image is a few voxels, and coarser levels show too little of it.
START_VOXELS = {2: 2**14, 3: 2**16}

#: Most voxels along the longest axis of the coarsest level that is made.
COARSEST = {2: 64, 3: 32}


@dataclass(frozen=True)
class Pyramid:
    """An image at its levels, finest first.

    An array is None if no store has the level, so that it must be made from the one
    before. All grids are in the same unit, and in the image's own axes, which
    ``direction`` turns to the world.
    """

    arrays: tuple[xr.DataArray | None, ...]
    grids: tuple[Grid, ...]
    direction: tuple[tuple[float, ...], ...] | None = None

    @property
    def placed(self) -> Grid:
        """The finest grid, with its direction."""
        return replace(self.grids[0], direction=self.direction)

    @property
    def finest(self) -> xr.DataArray:
        """The finest level, which is always stored."""
        array = self.arrays[0]
        assert array is not None
        return array

    def dtype(self, level: int) -> np.dtype[Any]:
        """Return the data type of a level, which is float32 if it is made."""
        array = self.arrays[level]
        return np.dtype(np.float32 if array is None else array.dtype)

    def level_within(self, voxels: int) -> int:
        """Return the finest level of at most ``voxels`` voxels, else the coarsest."""
        fitting = (i for i, grid in enumerate(self.grids) if grid.size <= voxels)
        return next(fitting, len(self.grids) - 1)

    @property
    def overview(self) -> int:
        """The level that is read to look at the whole image."""
        return self.level_within(OVERVIEW_VOXELS)

    @property
    def start(self) -> int:
        """The level at which deformable stages begin."""
        return self.level_within(START_VOXELS[self.grids[0].extended_ndim])

    def bytes_made(self, level: int) -> int:
        """Return the bytes of all levels that must be made to get ``level``."""
        made = [i for i in range(level + 1) if self.arrays[i] is None]
        return sum(self.dtype(i).itemsize * self.grids[i].size for i in made)

    def level_like(self, grid: Grid) -> int:
        """Return the level whose spacing is nearest to that of ``grid``."""
        ratios = [np.divide(own.spacing, grid.spacing) for own in self.grids]
        cost = [np.abs(np.log(ratio)).sum() for ratio in ratios]
        return int(np.argmin(np.round(cost, 3)))


def image_levels(image: Any, name: str) -> list[xr.DataArray]:
    """Return an image's levels, finest first.

    Parameters
    ----------
    image
        A DataTree, DataArray, itk.Image, SimpleITK.Image, spatialdata element or layer
        of napari. A tree has a variable ``image`` in a node per level.
    name
        What to call it in an error.

    Raises
    ------
    InputError
        If it is none of these.
    """
    own = image_of(image)
    if own is not None:
        return image_levels(own, name)
    if isinstance(image, xr.DataTree):
        levels = [
            node.dataset["image"] for node in image.subtree if "image" in node.data_vars
        ]
        if levels:
            return sorted(levels, key=lambda level: -math.prod(level.shape))
        msg = f"{name} is a DataTree without a variable 'image' in any node"
        raise InputError(msg)
    if isinstance(image, xr.DataArray):
        return [image]
    if isinstance(image, np.ndarray | dask.array.Array):
        msg = (
            f"{name} is an array without physical coordinates; give xdreg."
            "make_image(array, spacing=..., units='micrometer')"
        )
        raise InputError(msg)
    msg = (
        f"{name} must be a DataArray, a DataTree from xdreg.open_ome_zarr or an "
        f"itk.Image, got {type(image).__name__}; open files with xdreg.open_ome_zarr "
        "or xdreg.open_image"
    )
    raise InputError(msg)


def build_pyramid(
    levels: Sequence[xr.DataArray], name: str, units: str | None = OWN_UNITS
) -> Pyramid:
    """Return an image's pyramid, extended by levels coarser than the stored ones."""
    arrays: list[xr.DataArray | None] = [
        level.drop_vars(DIRECTION, errors="ignore") for level in levels
    ]
    found = [grid_of(level, name) for level in levels]
    grids = [grid.aligned for grid in found]
    target = grids[0].units if units == OWN_UNITS else units
    grids = [grid.to_units(target, name) for grid in grids]
    coarsest = COARSEST[grids[-1].extended_ndim]
    for factors in pyramid_factors(grids[-1], coarsest):
        grids.append(grids[-1].coarsen(factors))
        arrays.append(None)
    return Pyramid(tuple(arrays), tuple(grids), found[0].direction)


def downsample(
    array: dask.array.Array, factors: Sequence[int], *, labels: bool = False
) -> dask.array.Array:
    """Coarsen the last axes of an array, dropping a remainder at their ends.

    Means are computed in float and rounded for integer dtypes. Those of 64-bit integers
    are exact to 53 bits. For labels, one voxel of each group is taken, because means
    would invent labels.
    """
    steps = (1,) * (array.ndim - len(factors)) + tuple(factors)
    trimmed = array[
        tuple(slice(0, n - n % k) for n, k in zip(array.shape, steps, strict=True))
    ]
    if labels:
        return trimmed[tuple(slice(None, None, k) for k in steps)]
    # Chunks must hold whole groups of voxels.
    chunks = tuple(
        max(size - size % k, k)
        for size, k in zip(trimmed.chunksize, steps, strict=True)
    )
    # float32 represents halves of 16-bit integers exactly, float64 those of 32 bits.
    exact = np.result_type(array.dtype, np.float32)
    means = dask.array.coarsen(
        np.mean, trimmed.rechunk(chunks), dict(enumerate(steps)), dtype=exact
    )
    if array.dtype.kind in "iub":
        means = dask.array.rint(means)
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        # No float equals the largest 64-bit integer, and the next larger one wraps.
        limits = np.iinfo(array.dtype)
        means = means.clip(float(limits.min), np.nextafter(float(limits.max), 0.0))
    return means.astype(array.dtype)
