"""One image of a run: its levels, made where they are missing, and its mask."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import dask.array
import numpy as np

from xdreg.engines.correlation import image_stiffness
from xdreg.errors import InputError
from xdreg.numerics.foreground import foreground
from xdreg.registration.inputs import AUTO, mask_reader
from xdreg.registration.workdir import open_array, settle
from xdreg.stores.pyramid import Pyramid, downsample
from xdreg.stores.readers import ImageReader, image_reader

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from xdreg.grid import Grid
    from xdreg.registration.inputs import Mask
    from xdreg.stores.channels import Selection

#: An automatic mask that leaves a smaller share of an image is doubted.
LEAST_FOREGROUND = 0.01


class Source:
    """The fixed or the moving image while a registration runs.

    Parameters
    ----------
    name
        ``"fixed"`` or ``"moving"``.
    pyramid
        Its levels.
    channels
        What to select for each channel that is registered.
    mask
        Given, to be found, or none.
    folder
        The run's directory, for levels and masks that are made.
    """

    def __init__(
        self,
        name: str,
        pyramid: Pyramid,
        channels: list[dict[str, Selection]],
        mask: Mask,
        folder: Path,
    ) -> None:
        self.name = name
        self.foreground_share: float | None = None
        self._pyramid, self._channels, self._mask = pyramid, channels, mask
        self._folder = folder
        self._foreground: ImageReader | None = None
        self._readers: dict[tuple[int, int], ImageReader] = {}

    def check(self) -> None:
        """Look at the whole image on a coarse level: contents, NaN, foreground."""
        for channel in range(len(self._channels)):
            self._check_channel(channel)
        if self._mask == AUTO:
            self._find_foreground()

    @cached_property
    def contrast(self) -> list[float]:
        """Standard deviation of every channel where it counts, on a coarse level."""
        return [
            float(np.nanstd(values, dtype=np.float64)) for values, _ in self._overviews
        ]

    @cached_property
    def stiffness(self) -> list[float]:
        """Stiffness of every channel where it counts, on a coarse level."""
        return [image_stiffness(values, grid) for values, grid in self._overviews]

    @cached_property
    def _overviews(self) -> list[tuple[NDArray[np.float32], Grid]]:
        """Every channel on a coarse level, NaN where it does not count."""
        found = []
        for reader in self.readers(self._pyramid.overview):
            values, grid = reader.read_known(), reader.grid
            mask = self.mask_reader(grid, outlined=False)
            if mask is not None:
                counted = np.where(mask.read_mask(grid), values, np.float32(np.nan))
                # A mask may fall between the voxels of so coarse a level.
                values = counted if np.isfinite(counted).any() else values
            found.append((values, grid))
        return found

    def readers(self, level: int) -> list[ImageReader]:
        """Return a reader of one level for every channel that is registered."""
        return [self._reader(level, i) for i in range(len(self._channels))]

    def mask_reader(self, grid: Grid, *, outlined: bool) -> ImageReader | None:
        """Return the mask for a level, if there is any.

        Parameters
        ----------
        grid
            The level's.
        outlined
            Leave out a mask that was found: where an image lies shows in its outline,
            which background makes visible.
        """
        if isinstance(self._mask, Pyramid):
            return mask_reader(self._mask, grid)
        return None if outlined else self._foreground

    def _reader(self, level: int, channel: int) -> ImageReader:
        """Return the reader of one level, making the level if need be."""
        key = level, channel
        if key not in self._readers:
            array, grid = self._pyramid.arrays[level], self._pyramid.grids[level]
            self._readers[key] = (
                self._make_level(level, channel)
                if array is None
                else image_reader(
                    array, self.name, grid=grid, select=self._channels[channel]
                )
            )
        return self._readers[key]

    def _make_level(self, level: int, channel: int) -> ImageReader:
        """Store a level that the pyramid lacks: means of the level before it."""
        folder = f"{self.name}_levels" + (f"_{channel}" if channel else "")
        path = self._folder / folder / f"{level}.zarr"
        grid = self._pyramid.grids[level]
        finer = self._reader(level - 1, channel)
        if not path.exists():
            factors = tuple(
                round(c / f)
                for c, f in zip(grid.spacing, finer.grid.spacing, strict=True)
            )
            partial = path.with_suffix(".part")
            image = dask.array.from_array(
                _FiniteView(finer), chunks=(128,) * grid.ndim, meta=np.empty((), "f4")
            )
            chunks = (64,) * grid.ndim
            store = open_array(partial, grid.shape, chunks, np.nan, compress=True)
            coarse = downsample(image, factors).rechunk(chunks)
            dask.array.store(coarse, store, lock=False)
            settle(partial, path)
        return ImageReader(open_array(path, (), (), np.nan), grid, grid.dims)

    def _check_channel(self, channel: int) -> None:
        """Refuse a channel with nothing in it, and warn of NaN."""
        level = self._pyramid.overview
        values = self._reader(level, channel).read_known()
        finite = np.isfinite(values)
        if not finite.any() or values[finite].min() == values[finite].max():
            what = "no finite value" if not finite.any() else "one and the same value"
            msg = (
                f"{self.name} holds {what} everywhere; is it the right image or "
                "channel?"
            )
            raise InputError(msg)
        if not finite.all():
            share = 100 * (1 - finite.mean())
            warnings.warn(
                f"{share:.2g} % of {self.name} is not finite at level {level}; those "
                "voxels are masked out",
                stacklevel=6,
            )

    def _find_foreground(self) -> None:
        """Store what counts of an image, found at a coarse level."""
        image = self._reader(self._pyramid.overview, 0)
        path = self._folder / f"{self.name}_foreground.zarr"
        # A level may end before its image does, by less than a voxel of its own.
        wide = replace(
            image.grid,
            shape=tuple(n + 2 for n in image.grid.shape),
            origin=tuple(image.grid.index_to_physical([-1] * image.grid.ndim).tolist()),
        )
        if not path.exists():
            mask = np.pad(foreground(image.read_known()), 1, mode="edge")
            partial = path.with_suffix(".part")
            store = open_array(partial, wide.shape, wide.shape, 0, compress=True)
            store[:] = mask.astype(np.float32)
            settle(partial, path)
        reader = ImageReader(open_array(path, (), (), 0), wide, wide.dims)
        self._foreground = reader
        inner = reader.read((slice(1, -1),) * wide.ndim)
        share = float((inner != 0).mean())
        self.foreground_share = share
        if share < LEAST_FOREGROUND or share == 1:
            what = (
                "found no background, so that every voxel counts"
                if share == 1
                else f"leaves {100 * share:.2g} % of the image"
            )
            warnings.warn(
                f"{self.name}_mask='auto' {what}; give a mask if that is not so",
                stacklevel=6,
            )


class _FiniteView:
    """An image reader as an array that Dask can chunk."""

    def __init__(self, reader: ImageReader) -> None:
        self._reader = reader
        self.shape, self.ndim = reader.grid.shape, reader.grid.ndim
        self.dtype = np.dtype(np.float32)

    def __getitem__(self, window: tuple[slice, ...]) -> NDArray[np.float32]:
        """Read one window."""
        return self._reader.read_known(window)

    def __dask_tokenize__(self) -> object:
        """Identify by the reader."""
        return self._reader.__dask_tokenize__()
