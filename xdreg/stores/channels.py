"""Selection of an image's channel by number or name, or of an RGB image's luminance."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from xdreg.errors import InputError
from xdreg.stores.identity import identity_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import xarray as xr
    from numpy.typing import NDArray

T = TypeVar("T")

#: Coordinate of an image with what OME-Zarr says of its channels.
OMERO = "omero"

#: Selects the weighted sum of an RGB image's channels.
LUMINANCE = "luminance"

#: Weights of ITU-R BT.709, whose primaries are those of sRGB.
LUMINANCE_WEIGHTS = {"red": 0.2126, "green": 0.7152, "blue": 0.0722}

#: Index of a channel or time point, or a weight per channel.
Selection = int | tuple[float, ...]


class ChannelMix:
    """The weighted sum of an array's channels, computed window by window.

    ``source`` is anything with numpy-style slicing. Values of channels with weight zero
    are ignored.
    """

    def __init__(self, source: Any, axis: int, weights: Sequence[float]) -> None:
        self._source, self._axis = source, axis
        if hasattr(source, "store"):
            self.store, self.path = source.store, source.path
        self._weights = tuple(float(w) for w in weights)
        self.dtype = np.dtype(np.float32)

    def __getitem__(self, index: tuple[int | slice, ...]) -> NDArray[np.float32]:
        """Return a window; ``index`` omits the channel axis."""
        axis = self._axis
        stored = self._source[(*index[:axis], slice(None), *index[axis:])]
        before = sum(isinstance(part, slice) for part in index[:axis])
        channels = np.moveaxis(np.asarray(stored), before, 0)
        # Summed one by one in float32, so that bits do not depend on the window.
        mixed = np.zeros(channels.shape[1:], np.float32)
        for weight, channel in zip(self._weights, channels, strict=True):
            if weight:
                mixed += np.float32(weight) * channel.astype(np.float32)
        return mixed

    def identity(self) -> dict[str, Any]:
        """Return the axis and the weights, and what the channels are known by."""
        mixed = {"axis": self._axis, "weights": list(self._weights)}
        return mixed | {"of": identity_of(self._source)}


def with_channels(
    array: xr.DataArray, channels: Sequence[Mapping[str, Any]]
) -> xr.DataArray:
    """Return an image with names of its channels, and how to show them.

    ``channels`` are entries of OME-Zarr's ``omero``. They are kept as the coordinate
    ``omero (c)``, as JSON.
    """
    if "c" not in array.dims or len(channels) != array.sizes["c"]:
        return array
    if any(entry.keys() - {"label"} for entry in channels):
        texts = [json.dumps(dict(entry)) for entry in channels]
        array = array.assign_coords({OMERO: ("c", np.asarray(texts, dtype=object))})
    labels = [c["label"] for c in channels if c.get("label") not in (None, "")]
    if len(labels) < len(channels):
        return array
    # JSON may hold halves of characters, which UTF-8 lacks.
    names = [str(v).encode(errors="backslashreplace").decode() for v in labels]
    return array.assign_coords(c=np.asarray(names, dtype=object))


def channel_entries(array: xr.DataArray) -> list[dict[str, Any]]:
    """Return an entry of OME-Zarr's ``omero`` for each channel, with its name."""
    if "c" not in array.dims:
        return []
    texts: Any = array[OMERO].values if OMERO in array.coords else []
    entries = [json.loads(str(v)) for v in texts] or [
        {} for _ in range(array.sizes["c"])
    ]
    labels = _channel_names(array)
    return [
        entry | ({"label": labels[i]} if labels else {})
        for i, entry in enumerate(entries)
    ]


def counterpart(channel: T, moving_channel: T, moving: xr.DataArray) -> T:
    """Return the channel of the moving image: that of the fixed one unless given."""
    return channel if moving_channel is None and "c" in moving.dims else moving_channel


def has_channel(array: xr.DataArray, name: str) -> bool:
    """Return whether an image has a channel of this name."""
    return name in _channel_names(array)


def _channel_names(array: xr.DataArray) -> list[str]:
    return [str(v) for v in array["c"].values] if "c" in array.coords else []


def channel_selection(array: xr.DataArray, channel: int | str, name: str) -> Selection:
    """Return a channel's index, or for ``"luminance"`` each channel's weight."""
    own = channel != LUMINANCE or has_channel(array, LUMINANCE)
    if own or "c" not in array.dims:
        return _channel_index(array, channel, name)
    labels = _channel_names(array)
    if array.sizes["c"] not in (3, 4):
        msg = (
            f"channel 'luminance' needs an RGB or RGBA image, and {name} has "
            f"{array.sizes['c']} channels; choose one by number or name"
        )
        raise InputError(msg)
    unnamed = [*LUMINANCE_WEIGHTS, "alpha"][: array.sizes["c"]]
    order = [label.lower() for label in labels] or unnamed
    for names in (tuple(LUMINANCE_WEIGHTS), ("r", "g", "b")):
        if set(names) <= set(order):
            weights = dict(zip(names, LUMINANCE_WEIGHTS.values(), strict=True))
            return tuple(weights.get(label, 0.0) for label in order)
    msg = (
        f"channel 'luminance' needs channels red, green and blue, and those of {name} "
        f"are named {labels}; choose one of them, or drop the names with "
        f"{name}.drop_vars('c')"
    )
    raise InputError(msg)


def _channel_index(array: xr.DataArray, channel: int | str, name: str) -> int:
    """Return the index of a channel given by index or name."""
    if "c" not in array.dims:
        msg = f"channel {channel!r} was given, but {name} has no channel axis 'c'"
        raise InputError(msg)
    count = array.sizes["c"]
    labels = _channel_names(array)
    if isinstance(channel, str) and channel in labels:
        return labels.index(channel)
    whole = isinstance(channel, int | np.integer) and not isinstance(channel, bool)
    if whole and -count <= int(channel) < count:
        return int(channel) % count
    msg = f"{name} has no channel {channel!r}; it has {count}" + (
        f", named {labels}" if labels else ", numbered from 0"
    )
    raise InputError(msg)
