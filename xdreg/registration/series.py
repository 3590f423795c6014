"""A time series: its levels, its times, and its frames at a coarse level."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xdreg.errors import InputError
from xdreg.registration.frames import Frames, TimedReader
from xdreg.registration.inputs import check_mask, mask_pyramid, selections
from xdreg.registration.motion_path import UNLIKE, UNLIKE_BEFORE
from xdreg.stages import Translation
from xdreg.stores.pyramid import build_pyramid, image_levels
from xdreg.stores.readers import image_reader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from xdreg.grid import Grid
    from xdreg.stages import Stage
    from xdreg.stores.pyramid import Pyramid

#: Most voxels of the level on which frames are registered linearly, and fewest of one
#: that is coarser than the finest: noise is averaged, and little precision lost.
MOST_VOXELS = 2**20
FEWEST_VOXELS = 2**15


@dataclass(frozen=True)
class Series:
    """A time series: its levels, times, the selection of a channel, and masks.

    ``mask`` are the levels of a mask as it was given, ``counted`` the same in the units
    of the series.
    """

    levels: Sequence[xr.DataArray]
    pyramid: Pyramid
    times: NDArray[np.float64]
    channel: int | str | None
    select: dict[str, Any]
    mask: Sequence[xr.DataArray] = ()
    counted: Pyramid | None = None

    @classmethod
    def of(cls, series: Any, channel: int | str | None, mask: Any = None) -> Series:
        """Check a time series, the channel to register, and a mask."""
        levels = image_levels(series, "series")
        times = frame_times(levels[0])
        pyramid = build_pyramid(levels, "series")
        one = build_pyramid([level.isel(t=0) for level in levels], "series")
        select = selections(one, channel, "series")
        if len(select) > 1:
            msg = f"frames are registered by one channel, got {channel!r}; choose one"
            raise InputError(msg, channel=0)
        found = cls(levels, pyramid, times, channel, select[0])
        return found if mask is None else found._masked(mask)

    def _masked(self, mask: Any) -> Series:
        """Return the series with a mask for all frames, or for each; check it."""
        if isinstance(mask, str | bool):
            msg = f"mask must be an image, or None for all voxels; got {mask!r}"
            raise InputError(msg)
        levels = image_levels(mask, "mask")
        counted: Any = mask_pyramid(mask, self.pyramid.placed, "mask", "series")
        own, series = levels[0], self.levels[0]
        if "t" in own.dims:
            both = "t" in own.coords and "t" in series.coords
            if own.sizes["t"] != len(self.times) or (
                both and not np.array_equal(own["t"].values, series["t"].values)
            ):
                msg = (
                    f"mask has {own.sizes['t']} time points and series "
                    f"{len(self.times)}, or other times; give the mask of each frame, "
                    "or one without t for all"
                )
                raise InputError(msg)
        check_mask(counted, "mask")
        _timed(own, counted.grids[0], "mask", {})
        return replace(self, mask=levels, counted=counted)

    @property
    def finest(self) -> xr.DataArray:
        """The finest level of the channel to register."""
        image, channel = self.levels[0], self.select.get("c")
        if isinstance(channel, tuple):
            parts = [w * image.isel(c=n, drop=True) for n, w in enumerate(channel)]
            total: xr.DataArray = sum(parts[1:], parts[0])
            return total
        return image if channel is None else image.isel(c=channel, drop=True)

    def masks(self, numbers: Sequence[int]) -> list[xr.DataTree | None]:
        """Return the masks of frames."""
        if not self.mask:
            return [None] * len(numbers)
        if "t" not in self.mask[0].dims:
            return [_tree(self.mask)] * len(numbers)
        return [
            _tree([level.isel(t=number, drop=True) for level in self.mask])
            for number in numbers
        ]

    def frames(self, stages: Sequence[Stage], *, deformable: bool) -> Frames:
        """Return the frames at the level of linear stages, before others or alone."""
        pyramid = self.pyramid
        asked = {stage.level for stage in stages if stage.level is not None}
        if len(asked) > 1 or max(asked, default=0) >= len(pyramid.grids):
            msg = (
                f"linear stages of a series share one level, of 0 to "
                f"{len(pyramid.grids) - 1}; got {sorted(asked)}"
            )
            raise InputError(msg)
        coarser = pyramid.grids[0].size > FEWEST_VOXELS and len(pyramid.grids) > 1
        level = max(int(coarser), pyramid.level_within(MOST_VOXELS))
        level = asked.pop() if asked else level
        stored = max(n for n in range(level + 1) if pyramid.arrays[n] is not None)
        array: Any = pyramid.arrays[stored]
        images = _timed(array, pyramid.grids[stored], "series", self.select)
        masks = None
        if self.counted is not None:
            own = self.counted.level_like(pyramid.grids[stored])
            mask: Any = self.counted.arrays[own]
            masks = _timed(mask, self.counted.grids[own], "mask", {})
        chosen: Any = tuple(stages) or (Translation(),)
        unlike = UNLIKE_BEFORE if deformable else UNLIKE
        count, grid = len(self.times), pyramid.grids[level]
        return Frames(images, count, grid, chosen, unlike, masks)

    def frame(self, number: int) -> xr.DataTree:
        """Return one frame with its levels."""
        return _tree([level.isel(t=number, drop=True) for level in self.levels])


def _timed(
    array: xr.DataArray, grid: Grid, name: str, select: dict[str, Any]
) -> TimedReader:
    """Return a reader of any frame of an image, which may be one for all."""
    one, other = (
        image_reader(array, name, grid=grid, select={**select, "t": n}) for n in (0, 1)
    )
    pairs = enumerate(zip(one.axes, other.axes, strict=True))
    axis = next((place for place, (a, b) in pairs if a != b), None)
    return TimedReader(one, axis)


def _tree(levels: Sequence[xr.DataArray]) -> xr.DataTree:
    return xr.DataTree.from_dict(
        {f"/scale{n}": xr.Dataset({"image": level}) for n, level in enumerate(levels)}
    )


def _shown(times: NDArray[Any]) -> list[Any]:
    """Return the first times as a message has them; dates as text."""
    found: list[Any] = (
        times[:8].astype(str) if times.dtype.kind in "mM" else times[:8]
    ).tolist()
    return found


def frame_times(series: xr.DataArray) -> NDArray[np.float64]:
    """Return the times of all frames; their numbers if they have none."""
    count = series.sizes.get("t", 0)
    if count < 2:
        what = "one frame" if count else "no axis t"
        msg = (
            f"series has {what}; a series has several frames along t. Register a pair "
            "with fixed.dreg.register(moving)"
        )
        raise InputError(msg)
    if "t" not in series.coords:
        return np.arange(count, dtype=np.float64)
    values = series["t"].values
    if values.dtype.kind in "mM":
        values = (values - values[0]) / np.timedelta64(1, "s")
    ascending = values.dtype.kind in "iuf" and bool((np.diff(values) > 0).all())
    if not ascending or not np.isfinite(values).all():
        msg = (
            f"the times of series must ascend, got {_shown(series['t'].values)}; "
            "sort it with series.sortby('t'), or number its frames with "
            "series.drop_vars('t')"
        )
        raise InputError(msg)
    return np.asarray(values, np.float64)
