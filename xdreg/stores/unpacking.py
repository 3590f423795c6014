"""Decompression of chunks that may be cut off, or unpack to more than they should.

numcodecs believes what a chunk's header says. From a Blosc chunk that is cut off it
reads the memory behind it, and a few kilobytes may unpack to gigabytes.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable
from typing import Any

from numcodecs.abc import Codec
from numcodecs.compat import ensure_contiguous_ndarray

#: First bytes of a Zstandard frame, and of one that holds no data (the last four bits
#: vary).
_ZSTD_FRAME, _ZSTD_SKIPPABLE = 0xFD2FB528, 0x184D2A50

#: Most bytes that a block of a Zstandard frame unpacks to.
_ZSTD_BLOCK = 2**17

#: Most bytes that a decoder of LZMA may use, the dictionary included.
_LZMA_MEMORY = 2**27


def unpack(codec: Codec, data: Any, size: int, most: int) -> Any:
    """Return the decompressed bytes of a chunk.

    Parameters
    ----------
    codec
        A codec of numcodecs. `BOUNDED` lists those that are checked here.
    data
        The compressed bytes.
    size, most
        How many bytes are expected, and how many are accepted. More are wanted of a
        codec whose output is input of another one.

    Raises
    ------
    ValueError
        If the data is cut off, or unpacks to more than ``most`` bytes.
    """
    view = memoryview(ensure_contiguous_ndarray(data)).cast("B")
    kind = codec.codec_id
    if kind in _STREAMS:
        return _unpack_stream(lambda: _STREAMS[kind](codec), view, most)
    declared = _DECLARED[kind](view) if kind in _DECLARED else None
    if declared is None and kind == "zstd" and _zstd_bound(view) > most:
        # Nothing says how much comes, so that it must fit what is expected.
        return codec.decode(data, out=bytearray(size))
    _check_size(declared or 0, most)
    return codec.decode(data)


def _check_size(size: int, most: int) -> None:
    if size > most:
        msg = f"it unpacks to {size} bytes, where at most {most} are expected"
        raise ValueError(msg)


def _check_whole(*, whole: bool) -> None:
    if not whole:
        msg = "it is cut off"
        raise ValueError(msg)


def _blosc_size(view: memoryview) -> int:
    """Return what a Blosc chunk unpacks to, after a look at its length."""
    _check_whole(whole=len(view) >= 16)
    size, _, packed = struct.unpack_from("<III", view, 4)
    if packed != len(view):
        msg = f"it has {len(view)} bytes, and {packed} by its header"
        raise ValueError(msg)
    return int(size)


def _lz4_size(view: memoryview) -> int:
    """Return what a chunk of numcodecs's LZ4 unpacks to."""
    _check_whole(whole=len(view) >= 4)
    return int.from_bytes(view[:4], "little")


def _zstd_size(view: memoryview) -> int | None:
    """Return what Zstandard frames unpack to, None if one of them does not say."""
    sizes = [declared for declared, _ in _zstd_frames(view)]
    return None if None in sizes else sum(size or 0 for size in sizes)


def _zstd_bound(view: memoryview) -> int:
    """Return the most that Zstandard frames can unpack to, by their blocks."""
    return sum(bound for _, bound in _zstd_frames(view))


def _zstd_frames(view: memoryview) -> list[tuple[int | None, int]]:
    """Return, for each Zstandard frame, the size that it declares and its bound."""
    found, at = [], 0
    while at < len(view):
        magic = _number(view, at, 4)
        if magic & ~15 == _ZSTD_SKIPPABLE:
            at += 8 + _number(view, at + 4, 4)
            continue
        if magic != _ZSTD_FRAME:
            msg = "it is no Zstandard frame"
            raise ValueError(msg)
        flags = _number(view, at + 4, 1)
        single = flags >> 5 & 1
        width = (single, 2, 4, 8)[flags >> 6]
        at += 5 + (1 - single) + (0, 1, 2, 4)[flags & 3]
        declared = _number(view, at, width) + (256 if width == 2 else 0)
        at += width
        bound, last = 0, False
        while not last:
            header = _number(view, at, 3)
            last, kind, length = bool(header & 1), header >> 1 & 3, header >> 3
            bound += _ZSTD_BLOCK if kind == 2 else length
            at += 3 + (1 if kind == 1 else length)
        at += 4 * (flags >> 2 & 1)
        found.append((declared if width else None, bound))
    _check_whole(whole=at == len(view) and bool(found))
    return found


def _number(view: memoryview, at: int, width: int) -> int:
    _check_whole(whole=at + width <= len(view))
    return int.from_bytes(view[at : at + width], "little")


def _unpack_stream(new: Callable[[], Any], view: Any, most: int) -> bytes:
    """Unpack one stream after the other, at most ``most`` bytes and one in all."""
    parts: list[bytes] = []
    while True:
        stream = new()
        try:
            part = stream.decompress(view, most + 1)
        except (OSError, zlib.error, lzma.LZMAError):
            if parts:  # what follows is no stream
                break
            raise
        _check_size(len(part), most)
        _check_whole(whole=stream.eof)
        parts.append(part)
        most -= len(part)
        view = stream.unused_data.lstrip(b"\0")
        if not view:
            break
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _lzma_stream(codec: Any) -> lzma.LZMADecompressor:
    limit = None if codec.format == lzma.FORMAT_RAW else _LZMA_MEMORY
    return lzma.LZMADecompressor(codec.format, memlimit=limit, filters=codec.filters)


#: What a chunk declares that it unpacks to, by codec.
_DECLARED: dict[str, Callable[[memoryview], int | None]] = {
    "blosc": _blosc_size,
    "lz4": _lz4_size,
    "zstd": _zstd_size,
}

#: Decoders that stop where they are told to, by codec.
_STREAMS: dict[str, Callable[[Codec], Any]] = {
    "gzip": lambda _: zlib.decompressobj(31),
    "zlib": lambda _: zlib.decompressobj(),
    "bz2": lambda _: bz2.BZ2Decompressor(),
    "lzma": _lzma_stream,
}

#: Codecs that `unpack` checks.
BOUNDED = frozenset(_DECLARED) | frozenset(_STREAMS)
