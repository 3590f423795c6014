"""Compressed chunks: whole, cut off, and far larger than they should be."""

import bz2
import gzip
import lzma
import struct
import tracemalloc
import zlib

import numcodecs
import numpy as np
import pytest

from xdreg.stores.unpacking import BOUNDED, unpack

VALUES = np.random.default_rng(0).integers(0, 50, 30_000).astype(np.uint16)
SIZE = VALUES.nbytes
STREAM_ERRORS = zlib.error, lzma.LZMAError
CODECS = [
    *(numcodecs.Blosc(cname) for cname in ("lz4", "zstd", "zlib", "blosclz")),
    numcodecs.Blosc("lz4", clevel=0),
    numcodecs.Zstd(1),
    numcodecs.Zstd(3, checksum=True),
    numcodecs.GZip(1),
    numcodecs.Zlib(1),
    numcodecs.BZ2(1),
    numcodecs.LZMA(preset=0),
    numcodecs.LZMA(
        format=lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0}]
    ),
    numcodecs.LZ4(),
]


def as_bytes(values):
    return np.frombuffer(numcodecs.compat.ensure_bytes(values), np.uint8).tobytes()


def test_every_codec_that_is_checked_is_tried():
    assert {codec.codec_id for codec in CODECS} == BOUNDED


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_a_whole_chunk_comes_back_and_a_part_of_it_does_not(codec):
    packed = bytes(codec.encode(VALUES))
    assert as_bytes(unpack(codec, packed, SIZE, SIZE)) == VALUES.tobytes()
    for kept in (0, 1, 3, 15, 17, len(packed) // 3, len(packed) - 1):
        with pytest.raises((ValueError, RuntimeError, OSError, *STREAM_ERRORS)):
            unpack(codec, packed[:kept], SIZE, SIZE)


def test_blosc_never_reads_behind_a_chunk():
    codec = numcodecs.Blosc("lz4")
    packed = bytes(codec.encode(VALUES))
    assert len(packed) > 1000
    for length in (16, 500, len(packed) - 1, len(packed) + 1):
        with pytest.raises(ValueError, match=f"it has {length} bytes, and"):
            unpack(codec, packed[:length].ljust(length, b"x"), SIZE, SIZE)


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_a_chunk_unpacks_to_no_more_than_a_chunk(codec):
    bomb = bytes(codec.encode(np.zeros(2**24, np.uint8)))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="where at most 1000 are expected"):
            unpack(codec, bomb, 500, 1000)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def zstd_frame(*blocks, size=None):
    """Return a frame of raw blocks, or of runs ``(byte, count)``."""
    stored = b"\x28\xb5\x2f\xfd"
    stored += b"\x00\x58" if size is None else b"\xe0" + struct.pack("<Q", size)
    for number, block in enumerate(blocks):
        last = number == len(blocks) - 1
        run = isinstance(block, tuple)
        length = block[1] if run else len(block)
        header = last | run << 1 | length << 3
        stored += header.to_bytes(3, "little") + (block[0] if run else block)
    return stored


def test_zstd_frames_without_their_size_are_bounded_too():
    codec = numcodecs.Zstd()
    whole = zstd_frame(b"abc", (b"d", 7))
    assert bytes(unpack(codec, whole, 10, 10)) == b"abc" + 7 * b"d"
    with pytest.raises((ValueError, RuntimeError)):
        unpack(codec, whole, 9, 9)
    bomb = zstd_frame(*[(b"\0", 2**17)] * 1000)
    with pytest.raises((ValueError, RuntimeError)):
        unpack(codec, bomb, 1000, 1000)
    # Blocks of which nobody knows how much they hold, in a frame of the right size.
    packed = bytes(numcodecs.Zstd(3).encode(VALUES))
    at = packed.index(b"\x28\xb5\x2f\xfd") + 4
    width = (1, 2, 4, 8)[packed[at] >> 6]
    unsized = packed[:at] + b"\x00\x58" + packed[at + 1 + width :]
    assert bytes(unpack(codec, unsized, SIZE, SIZE)) == VALUES.tobytes()


def test_zstd_frames_are_added_up():
    codec = numcodecs.Zstd()
    first, second = zstd_frame(b"ab", size=2), zstd_frame(b"cde", size=3)
    assert bytes(unpack(codec, first + second, 5, 5)) == b"abcde"
    skipped = struct.pack("<II", 0x184D2A53, 4) + b"junk"
    assert bytes(unpack(codec, first + skipped + second, 5, 5)) == b"abcde"
    with pytest.raises(ValueError, match="unpacks to 5 bytes"):
        unpack(codec, first + second, 4, 4)
    # A size that is a lie allocates nothing.
    with pytest.raises(ValueError, match="unpacks to 1099511627776 bytes"):
        unpack(codec, zstd_frame(b"ab", size=2**40), 5, 5)


def test_streams_in_a_row_and_padding_are_read_as_by_numcodecs():
    a, b = b"a" * 500, b"b" * 300
    for codec, pack in (
        (numcodecs.GZip(), gzip.compress),
        (numcodecs.BZ2(), bz2.compress),
        (numcodecs.LZMA(), lzma.compress),
    ):
        for tail in (b"", bytes(8)):
            assert unpack(codec, pack(a) + pack(b) + tail, 800, 800) == a + b
        with pytest.raises(ValueError, match="at most"):
            unpack(codec, pack(a) + pack(b), 700, 700)
    assert unpack(numcodecs.Zlib(), zlib.compress(a) + b"tail", 500, 500) == a


def test_random_damage_of_blosc_harms_nothing():
    """Bits may be wrong, for Blosc has no checksum; the process goes on."""
    rng = np.random.default_rng(1)
    for cname in ("lz4", "zstd", "blosclz"):
        packed = bytearray(numcodecs.Blosc(cname).encode(VALUES))
        for _ in range(300):
            damaged = bytearray(packed)
            for at in rng.integers(0, len(packed), 3):
                damaged[at if rng.random() < 0.5 else at % 16] ^= 1 << rng.integers(8)
            try:
                found = unpack(numcodecs.Blosc(), bytes(damaged), SIZE, SIZE)
            except (ValueError, RuntimeError):
                continue
            assert len(found) <= SIZE
