"""Checks of OME-Zarr stores for unsafe, excessive and contradictory metadata.

Nothing in a store is evaluated or unpickled. What would take more memory or time than
any image needs is refused before it is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from xdreg.errors import StoreError
from xdreg.grid import SPATIAL_DIMS, UNIT_METRES, normalise_units

if TYPE_CHECKING:
    from collections.abc import Sequence

    import zarr

    Bounds = tuple[float, float]

#: Most bytes of a metadata document. A plate of thousands of wells has a few million.
MOST_BYTES = 2**26

#: Most levels of a pyramid. Each halves the image.
MOST_LEVELS = 64

#: Most chunks of an array along an axis and in all, and most bytes of a chunk, which is
#: decoded whole.
MOST_CHUNKS_PER_AXIS = 10**6
MOST_CHUNKS = 10**9
MOST_CHUNK_BYTES = 2**34

#: Most chunks of a shard, whose index has 16 bytes for each and is read whole.
MOST_IN_SHARD = 10**7

#: Images without a unit of length often declare pixels.
KNOWN_UNITS = {*UNIT_METRES, "pixel", "pixels", "voxel", "voxels"}

#: Most difference between the ends of a level and of the finest one, in voxels of the
#: level. A remainder may be dropped, and some writers omit a shift of half a voxel.
LEVEL_TOLERANCE = 2.0

#: Codecs that make objects of Python of what they read, or unpickle it.
OBJECT_CODECS = {
    *("pickle", "json", "json2", "msgpack", "msgpack2", "categorize"),
    *("vlen-array", "vlen-bytes", "vlen-utf8"),
}


def check_codecs(where: str, document: Mapping[str, Any]) -> None:
    """Raise if an array's metadata, as stored, names a codec that makes objects."""
    stored = [document.get(key) for key in ("codecs", "compressor", "filters")]
    for name in _names(stored):
        plain = name.removeprefix("numcodecs.")
        if plain in OBJECT_CODECS or "pickle" in plain:
            msg = (
                f"the array {where} has the codec {name!r}, which makes objects and "
                "may run code; it is not opened"
            )
            raise StoreError(msg)


def check_array(where: str, array: zarr.Array[Any]) -> None:
    """Raise if an array holds no numbers, or takes more time than any image."""
    where = f"the array {where}"
    if array.dtype.kind not in "biufc":
        msg = f"{where} has the data type {array.dtype}; expected numbers"
        raise StoreError(msg)
    chunks = array.shards or array.chunks
    check_shape(where, array.shape, chunks, array.dtype.itemsize)
    inner = math.prod(chunks) // max(math.prod(array.chunks), 1)
    if inner > MOST_IN_SHARD:
        msg = (
            f"{where} has shards of {chunks} with {_readable(inner)} chunks each; "
            f"expected at most {MOST_IN_SHARD:.0e}"
        )
        raise StoreError(msg)


def check_shape(
    where: str, shape: Sequence[int], chunks: Sequence[int], itemsize: int
) -> None:
    """Raise if an array has more or larger chunks than any image."""
    if min(chunks, default=1) < 1 or min(shape, default=1) < 0:
        msg = f"{where} has the shape {shape} and chunks of {chunks}"
        raise StoreError(msg)
    counts = [-(-n // size) for n, size in zip(shape, chunks, strict=True)]
    if max(counts, default=1) > MOST_CHUNKS_PER_AXIS or math.prod(counts) > MOST_CHUNKS:
        msg = (
            f"{where} has the shape {shape} and chunks of {chunks}, that is "
            f"{_readable(math.prod(counts))} chunks; expected at most "
            f"{MOST_CHUNKS_PER_AXIS:.0e} along an axis and {MOST_CHUNKS:.0e} in all"
        )
        raise StoreError(msg)
    size = math.prod(chunks) * itemsize
    # The chunk of a small array may be larger than the array, but not by any factor.
    most = min(MOST_CHUNK_BYTES, max(MOST_BYTES, 16 * math.prod(shape) * itemsize))
    if size > most:
        msg = (
            f"{where} has the shape {shape} and chunks of {chunks}, "
            f"{_readable(size)} bytes each; expected at most {most:.3g}. Write it "
            "again in smaller chunks"
        )
        raise StoreError(msg)


def _readable(number: int) -> str:
    return f"{number:.3g}" if number < 10**18 else "over 1e18"


def _names(metadata: Any) -> Iterator[str]:
    """Yield the names of all codecs in metadata."""
    if isinstance(metadata, Mapping):
        for key, value in metadata.items():
            if key in ("id", "name") and isinstance(value, str):
                yield value.lower()
            yield from _names(value)
    elif isinstance(metadata, list | tuple):
        for value in metadata:
            yield from _names(value)


def check_unit(address: str, axis: Mapping[str, Any]) -> None:
    """Raise if a space axis has a unit that is no known length."""
    unit = axis.get("unit")
    if axis.get("name") not in SPATIAL_DIMS or unit is None:
        return
    if not isinstance(unit, str) or normalise_units(unit) not in {None, *KNOWN_UNITS}:
        msg = (
            f"{address}: the axis {axis.get('name')!r} has the unit {unit!r}; expected "
            "a unit of length of OME-Zarr, such as 'micrometer', or none; correct it"
        )
        raise StoreError(msg)


def check_levels(address: str, levels: Sequence[tuple[zarr.Array[Any], Any]]) -> None:
    """Raise if levels contradict each other. All must span the same region."""
    first: list[Bounds] = []
    for array, image in levels:
        spans = []
        for dim, n in zip(image.dims, array.shape, strict=True):
            step, start = image.scale[dim], image.translation[dim]
            spans.append((start - step / 2, start + step * (n - 0.5)))
        first = first or spans
        for dim, span, other in zip(image.dims, spans, first, strict=True):
            most = LEVEL_TOLERANCE * image.scale[dim]
            if max(abs(a - b) for a, b in zip(span, other, strict=True)) > most:
                msg = (
                    f"{address}: the level {array.path!r} spans {span[0]:g}…"
                    f"{span[1]:g} along {dim!r}, and the finest one {other[0]:g}…"
                    f"{other[1]:g}: scale and translation contradict each other; "
                    "correct the metadata"
                )
                raise StoreError(msg)
