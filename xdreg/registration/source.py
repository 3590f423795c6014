"""The images of a pair: as they were given, and during a run.

A run makes levels that a store lacks, and masks that were asked for.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from dask.array.chunk import coarsen

from xdreg.engines.correlation import image_stiffness
from xdreg.errors import InputError, warn
from xdreg.numerics.foreground import foreground, padding
from xdreg.registration.made_array import MadeArray, Maker
from xdreg.stores.pyramid import Pyramid
from xdreg.stores.readers import ImageReader, image_reader

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from xdreg.grid import Grid
    from xdreg.stores.channels import Selection
    from xdreg.stores.readers import Lost

    Find = Callable[[NDArray[np.float32]], NDArray[np.bool_]]

#: An automatic mask that leaves a smaller share of an image causes a warning.
LEAST_FOREGROUND = 0.01

#: Voxels per axis of the chunks of a level that is made.
_CHUNK = 64

#: Asks for a mask to be found in the image itself.
AUTO: Literal["auto"] = "auto"

#: The levels of a mask, the wish for one, False if all voxels count, None if all but
#: padding do.
Mask = Pyramid | Literal["auto", False] | None


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PairImage:
    """The fixed or the moving image of a registration.

    Parameters
    ----------
    name
        ``"fixed"`` or ``"moving"``.
    pyramid
        Its levels.
    channels
        For each channel that is registered, the selection that reads it.
    mask
        The voxels that count: a mask's levels, ``"auto"``, False for all, or None for
        all but padding.
    """

    name: str
    pyramid: Pyramid
    channels: tuple[dict[str, Selection], ...]
    mask: Mask


class Source:
    """The fixed or the moving image while a registration runs.

    Parameters
    ----------
    image
        The image as it was given.
    folder
        The work directory, for levels and masks that are made.
    at_once
        Most chunks of these that are made at once, None for all that the scheduler
        makes.
    """

    def __init__(
        self, image: PairImage, folder: Path, at_once: int | None = None
    ) -> None:
        self._at_once = at_once
        self.name = image.name
        self._pyramid, self._channels = image.pyramid, image.channels
        self._mask = image.mask
        self._folder = folder
        #: Masks of what is not padding, and of the foreground, where there are any.
        self._counted: ImageReader | None = None
        self._foreground: ImageReader | None = None
        self._share: float | None = None
        self._readers: dict[tuple[int, int], ImageReader] = {}

    @property
    def grid(self) -> Grid:
        """Grid of the finest level."""
        return self._pyramid.grids[0]

    @property
    def placed(self) -> Grid:
        """The same with the direction of the image."""
        return self._pyramid.placed

    @property
    def found_mask(self) -> dict[str, Any]:
        """The entry of a mask that was found in the field's provenance."""
        if self._share is None:
            return {}
        how = "auto" if self._mask == AUTO else "without_padding"
        return {f"{self.name}_mask": {how: True, "share": self._share}}

    def check(self) -> None:
        """Check contents and NaN of the image on a coarse level; find its mask."""
        for channel in range(len(self._channels)):
            self._check_channel(channel)
        if self._mask in (None, AUTO):
            self._find_padding()
        if self._mask == AUTO:
            self._find_foreground()

    @cached_property
    def contrast(self) -> list[float]:
        """Standard deviation of every channel inside the mask, on a coarse level."""
        return [
            float(np.nanstd(values, dtype=np.float64)) for values, _ in self._overviews
        ]

    @cached_property
    def stiffness(self) -> list[float]:
        """Stiffness of every channel inside the mask, on a coarse level."""
        return [image_stiffness(values, grid) for values, grid in self._overviews]

    @cached_property
    def _overviews(self) -> list[tuple[NDArray[np.float32], Grid]]:
        """Every channel on a coarse level, NaN outside the mask."""
        found = []
        for reader in self.readers(self._pyramid.overview):
            values, grid = reader.read_most(), reader.grid
            mask = self.mask_reader(grid, whole=False)
            if mask is not None:
                counted = np.where(mask.read_mask(grid), values, np.float32(np.nan))
                # A mask may lie between the voxels of a coarse level.
                values = counted if np.isfinite(counted).any() else values
            found.append((values, grid))
        return found

    def readers(self, level: int) -> list[ImageReader]:
        """Return a reader of one level for each channel that is registered."""
        return [self._reader(level, i) for i in range(len(self._channels))]

    def mask_reader(self, grid: Grid, *, whole: bool) -> ImageReader | None:
        """Return a reader of the mask for a level, if there is a mask.

        The foreground that was found is not used where images are registered ``whole``:
        the background makes the outline visible.
        """
        found = self._counted if whole else self._foreground or self._counted
        return found or self._given_mask(grid)

    def _given_mask(self, grid: Grid) -> ImageReader | None:
        """Return a reader of the mask that was given, if one was."""
        if not isinstance(self._mask, Pyramid):
            return None
        level = self._mask.level_like(grid)
        array: Any = self._mask.arrays[level]
        return image_reader(array, "mask", grid=self._mask.grids[level])

    def _reader(self, level: int, channel: int) -> ImageReader:
        """Return the reader of one level; make the level if it is missing."""
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
        """Store a level that the pyramid lacks, as means of the finer level."""
        folder = f"{self.name}_levels" + (f"_{channel}" if channel else "")
        grid, finer = self._pyramid.grids[level], self._reader(level - 1, channel)
        pairs = zip(grid.spacing, finer.grid.spacing, strict=True)
        factors = tuple(round(c / f) for c, f in pairs)
        array = MadeArray(
            self._folder / folder / f"{level}.zarr",
            grid.shape,
            (_CHUNK,) * grid.ndim,
            f"{self.name}, level {level},",
            _Means(finer, factors, self._given_mask(finer.grid)),
            self._at_once,
        )
        return ImageReader(array, grid, grid.dims)

    def _check_channel(self, channel: int) -> None:
        """Raise if a channel is constant; warn of NaN."""
        level = self._pyramid.overview
        values = self._reader(level, channel).read_most()
        finite = np.isfinite(values)
        if not finite.any() or values[finite].min() == values[finite].max():
            stored = self._reader(level, channel).read()
            known = stored[np.isfinite(stored)]
            if known.size and known.min() != known.max():
                msg = (
                    f"{self.name} holds values from {known.min():.6g} to "
                    f"{known.max():.6g}, which single precision cannot tell apart; "
                    f"scale them, for example {self.name} - {self.name}.min()"
                )
                raise InputError(msg)
            what = "no finite value" if not finite.any() else "one and the same value"
            msg = (
                f"{self.name} holds {what} everywhere; is it the right image or "
                "channel?"
            )
            raise InputError(msg)
        grid = self._pyramid.grids[level]
        given = self._given_mask(grid)
        if given is not None:
            finite |= ~given.read_mask(grid)
        if not finite.all():
            share = 100 * (1 - finite.mean())
            warn(
                f"{share:.2g} % of {self.name} is not finite at level {level}; those "
                "voxels are masked out"
            )

    def _find_padding(self) -> None:
        """Store the mask of what is not padding, if there is padding."""
        values = self._reader(self._pyramid.overview, 0).read_most()
        if padding(values) is None:
            return
        self._counted = self._store_mask("padding", _not_padding)
        _log.info(
            "%.2g %% of %s is constant at its border, or next to it: not counted; "
            "%s_mask=False counts all",
            100 * (1 - (self._share or 0)),
            self.name,
            self.name,
        )

    def _find_foreground(self) -> None:
        """Store the mask of the foreground."""
        self._foreground = self._store_mask("foreground", _measured_foreground)
        share = self._share or 0
        if share < LEAST_FOREGROUND or share == 1:
            what = (
                "found no background, so that every voxel counts"
                if share == 1
                else f"leaves {100 * share:.2g} % of the image"
            )
            warn(f"{self.name}_mask='auto' {what}; give a mask if that is wrong")

    def _store_mask(self, what: str, find: Find) -> ImageReader:
        """Store a mask found at a coarse level; note the share that it leaves."""
        image = self._reader(self._pyramid.overview, 0)
        # A level may end earlier than its image, by less than one of its voxels.
        wide = replace(
            image.grid,
            shape=tuple(n + 2 for n in image.grid.shape),
            origin=tuple(image.grid.index_to_physical([-1] * image.grid.ndim).tolist()),
        )
        array = MadeArray(
            self._folder / f"{self.name}_{what}.zarr",
            wide.shape,
            wide.shape,
            f"the {what} of {self.name}",
            _Found(image, find),
            self._at_once,
        )
        reader = ImageReader(array, wide, wide.dims)
        inner = reader.read((slice(1, -1),) * wide.ndim)
        self._share = float((inner != 0).mean())
        return reader


def _not_padding(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return what is not padding."""
    found = padding(values)
    return np.ones(values.shape, bool) if found is None else ~found


def _measured_foreground(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return the foreground without padding, into which its margin may reach."""
    return np.asarray(foreground(values) & _not_padding(values))


@dataclass(frozen=True)
class _Means(Maker):
    """Means over groups of an image's voxels, ``factors`` along its axes.

    Voxels outside the mask, and NaN, have no weight.
    """

    factors: tuple[int, ...]
    mask: ImageReader | None = None

    def __call__(
        self, window: tuple[slice, ...], lost: list[Lost]
    ) -> NDArray[np.float32]:
        """Return the means of a window."""
        parts = zip(window, self.factors, strict=True)
        finer = tuple(slice(part.start * k, part.stop * k) for part, k in parts)
        values = self.image.read_known(finer, lost)
        if self.mask is not None:
            counted = self.mask.read_mask(self.image.grid.window(finer))
            values[~counted] = np.nan
        groups = dict(enumerate(self.factors))
        known = np.isfinite(values)
        if known.all():
            # What `downsample` does to a chunk, without the copies of a graph.
            return np.asarray(coarsen(np.mean, values, groups, dtype=np.float32))
        counts = coarsen(np.sum, known, groups, dtype=np.float32)
        values[~known] = 0
        sums = coarsen(np.sum, values, groups, dtype=np.float32)
        counts[counts == 0] = np.nan
        return np.asarray(sums / counts)


@dataclass(frozen=True)
class _Found(Maker):
    """A mask found in an image, one voxel wider than the image."""

    find: Find

    def __call__(
        self, window: tuple[slice, ...], lost: list[Lost]
    ) -> NDArray[np.float32]:
        """Return the whole mask, the only window of it."""
        mask = self.find(self.image.read_known(lost=lost))
        return np.pad(mask, 1, mode="edge").astype(np.float32)[window]
