"""A time series: its levels, its times, and its frames at a coarse level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xdreg.errors import InputError
from xdreg.registration.frames import Frames
from xdreg.registration.inputs import selections
from xdreg.registration.motion_path import UNLIKE, UNLIKE_BEFORE
from xdreg.stages import Translation
from xdreg.stores.pyramid import build_pyramid, image_levels
from xdreg.stores.readers import image_reader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from xdreg.stages import Stage
    from xdreg.stores.pyramid import Pyramid

#: Most voxels of the level on which frames are registered linearly, and fewest of one
#: that is coarser than the finest: noise is averaged, and little precision lost.
MOST_VOXELS = 2**20
FEWEST_VOXELS = 2**15


@dataclass(frozen=True)
class Series:
    """A time series: its levels, times, and the selection of a channel."""

    levels: Sequence[xr.DataArray]
    pyramid: Pyramid
    times: NDArray[np.float64]
    channel: int | str | None
    select: dict[str, Any]

    @classmethod
    def of(cls, series: Any, channel: int | str | None) -> Series:
        """Check a time series, and the channel to register."""
        levels = image_levels(series, "series")
        times = frame_times(levels[0])
        pyramid = build_pyramid(levels, "series")
        one = build_pyramid([level.isel(t=0) for level in levels], "series")
        select = selections(one, channel, "series")
        if len(select) > 1:
            msg = f"frames are registered by one channel, got {channel!r}; choose one"
            raise InputError(msg, channel=0)
        return cls(levels, pyramid, times, channel, select[0])

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
        grid = pyramid.grids[stored]
        readers = [
            image_reader(array, "series", grid=grid, select={**self.select, "t": n})
            for n in (0, 1)
        ]
        pairs = enumerate(zip(*(reader.axes for reader in readers), strict=True))
        axis = next(place for place, (one, other) in pairs if one != other)
        chosen: Any = tuple(stages) or (Translation(),)
        unlike = UNLIKE_BEFORE if deformable else UNLIKE
        count, grid = len(self.times), pyramid.grids[level]
        return Frames(readers[0], axis, count, grid, chosen, unlike)

    def frame(self, number: int) -> xr.DataTree:
        """Return one frame with its levels."""
        return _tree([level.isel(t=number, drop=True) for level in self.levels])


def _tree(levels: Sequence[xr.DataArray]) -> xr.DataTree:
    return xr.DataTree.from_dict(
        {f"/scale{n}": xr.Dataset({"image": level}) for n, level in enumerate(levels)}
    )


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
            f"the times of series must ascend, got {series['t'].values[:8].tolist()}; "
            "sort it with series.sortby('t'), or number its frames with "
            "series.drop_vars('t')"
        )
        raise InputError(msg)
    return np.asarray(values, np.float64)
