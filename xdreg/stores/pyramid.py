"""An image at its levels: those that are stored, and coarser ones that a run makes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask.array
import numpy as np
import xarray as xr

from xdreg.coordinates import grid_of
from xdreg.errors import InputError
from xdreg.grid import pyramid_factors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xdreg.grid import Grid


#: Asks for an image's own unit of length; None asks for an image without units.
OWN_UNITS = "own"

#: A look at the whole image is a look at a level of at most so many voxels.
OVERVIEW_VOXELS = 64**3

#: Deformable stages begin at a level of at most so many voxels: there motion of a
#: quarter of the image is a few voxels, and coarser levels know too little of it.
START_VOXELS = {2: 2**14, 3: 2**16}

#: Levels are made until the longest axis has at most so many voxels.
COARSEST = {2: 64, 3: 32}


@dataclass(frozen=True)
class Pyramid:
    """An image at its levels, finest first; levels that no store has are ``None``.

    Parameters
    ----------
    arrays
        The image at every level, or None where it must be made from the level before.
    grids
        Geometry of every level, all in one unit.
    """

    arrays: tuple[xr.DataArray | None, ...]
    grids: tuple[Grid, ...]

    @property
    def finest(self) -> xr.DataArray:
        """The image as it is stored; levels are made below it, never above."""
        array = self.arrays[0]
        assert array is not None
        return array

    def dtype(self, level: int) -> np.dtype[Any]:
        """Return the data type of a level; those that are made are float32."""
        array = self.arrays[level]
        return np.dtype(np.float32 if array is None else array.dtype)

    def level_within(self, voxels: int) -> int:
        """Return the finest level of at most so many voxels, else the coarsest."""
        fitting = (i for i, grid in enumerate(self.grids) if grid.size <= voxels)
        return next(fitting, len(self.grids) - 1)

    @property
    def overview(self) -> int:
        """The level on which a look at the whole image costs little."""
        return self.level_within(OVERVIEW_VOXELS)

    @property
    def start(self) -> int:
        """The level at which deformable stages begin."""
        return self.level_within(START_VOXELS[self.grids[0].ndim])

    def bytes_made(self, level: int) -> int:
        """Return what levels take that must be made to have one of them, in bytes."""
        made = zip(self.arrays[: level + 1], self.grids, strict=False)
        return sum(
            self.dtype(i).itemsize * grid.size
            for i, (array, grid) in enumerate(made)
            if array is None
        )

    def level_like(self, grid: Grid) -> int:
        """Return the level whose voxels are nearest in size to those of ``grid``."""
        cost = [
            np.abs(np.log(np.divide(g.spacing, grid.spacing))).sum() for g in self.grids
        ]
        return int(np.argmin(np.round(cost, 3)))


def image_levels(image: Any, name: str) -> list[xr.DataArray]:
    """Return the levels, finest first, of a tree, an array or an ITK image.

    Raises
    ------
    InputError
        If it is none of them.
    """
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
    if hasattr(image, "GetLargestPossibleRegion"):
        from xdreg.stores.itk_images import from_itk_image

        return [from_itk_image(image)]
    msg = (
        f"{name} must be a DataArray, a DataTree from xdreg.open_ome_zarr or an "
        f"itk.Image, got {type(image).__name__}; open files with xdreg.open_ome_zarr "
        f"or "
        "xdreg.open_image"
    )
    raise InputError(msg)


def build_pyramid(
    levels: Sequence[xr.DataArray], name: str, units: str | None = OWN_UNITS
) -> Pyramid:
    """Return an image's pyramid, continued below its coarsest stored level.

    Parameters
    ----------
    levels
        Its stored levels, as from `image_levels`.
    name
        What to call it in an error.
    units
        Unit of length to express all grids in; by default its own.
    """
    arrays: list[xr.DataArray | None] = [*levels]
    grids = [grid_of(level, name) for level in levels]
    target = grids[0].units if units == OWN_UNITS else units
    grids = [grid.to_units(target, name) for grid in grids]
    for factors in pyramid_factors(grids[-1], COARSEST[grids[-1].ndim]):
        grids.append(grids[-1].coarsen(factors))
        arrays.append(None)
    return Pyramid(tuple(arrays), tuple(grids))


def downsample(
    array: dask.array.Array, factors: Sequence[int], *, labels: bool = False
) -> dask.array.Array:
    """Coarsen the last axes of an array; a remainder at the end is dropped.

    Parameters
    ----------
    array : ([t], [c], [z], y, x)
        The finer level.
    factors
        Voxels per coarse voxel, for the last axes.
    labels
        Take one voxel of each group instead of the mean, which would invent labels.

    Returns
    -------
    dask.array.Array
        Means are computed in float and rounded back for integer dtypes; those of
        64-bit integers are good to 53 bits.
    """
    steps = (1,) * (array.ndim - len(factors)) + tuple(factors)
    trimmed = array[
        tuple(slice(0, n - n % k) for n, k in zip(array.shape, steps, strict=True))
    ]
    if labels:
        return trimmed[tuple(slice(None, None, k) for k in steps)]
    # Chunks must hold whole groups.
    chunks = tuple(
        max(size - size % k, k)
        for size, k in zip(trimmed.chunksize, steps, strict=True)
    )
    # float32 holds 16-bit integers exactly, and halves of them; float64 32-bit ones.
    exact = np.result_type(array.dtype, np.float32)
    means = dask.array.coarsen(
        np.mean, trimmed.rechunk(chunks), dict(enumerate(steps)), dtype=exact
    )
    if array.dtype.kind in "iub":
        means = dask.array.rint(means)
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        # The largest 64-bit integer is no float: the next one above it would wrap.
        limits = np.iinfo(array.dtype)
        means = means.clip(float(limits.min), np.nextafter(float(limits.max), 0.0))
    return means.astype(array.dtype)
