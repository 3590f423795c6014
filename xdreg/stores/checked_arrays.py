"""Zarr arrays whose chunks are checked as they are read.

A chunk that is missing holds the fill value only while the array's own metadata can
still be read: if a disk is unmounted, every chunk is missing. A chunk that is cut off,
that unpacks to more than a chunk, or that does not come in time raises.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import math
import socket
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import zarr
from zarr.abc.codec import BytesBytesCodec, Codec
from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.codecs import ShardingCodec
from zarr.codecs._v2 import V2Codec
from zarr.core.codec_pipeline import BatchedCodecPipeline
from zarr.core.metadata import ArrayV2Metadata, ArrayV3Metadata
from zarr.registry import get_numcodec

from xdreg.errors import UnavailableError, UnreadableError
from xdreg.stores.fetching import (
    BYTES_IN_TIME,
    fetch,
    fetch_document,
    is_remote_store,
    known_deadline,
    persistently,
    read_deadline,
)
from xdreg.stores.retrying import is_store_error
from xdreg.stores.unpacking import BOUNDED, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zarr.abc.store import ByteRequest
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, BufferPrototype
    from zarr.storage import StorePath


#: Most chunks of a server that are given up in a look at a whole level. More mean that
#: the server is gone.
MOST_LOST = 8


@dataclass
class ChunkCount:
    """The chunks, or shards, that were read, and those that were missing.

    ``failed`` keeps why chunks could not be read, so that no look at a part of an image
    waits for them again. ``lost`` are those that a server did not send.
    """

    read: int = 0
    missing: int = 0
    failed: dict[str, UnreadableError] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)

    @property
    def share(self) -> float:
        """The share of the chunks that were missing, NaN where none was read."""
        return self.missing / self.read if self.read else math.nan

    def check(self, name: str) -> None:
        """Raise if a chunk failed before, or so many did that there is no hope."""
        if len(self.lost) > MOST_LOST:
            error = self.failed[min(self.lost)]
            msg = f"the storage does not answer; of {len(self.lost)} chunks, {error}"
            raise UnavailableError(msg) from error
        if name in self.failed:
            raise self.failed[name]


_COUNT: ContextVar[ChunkCount | None] = ContextVar("xdreg.chunks", default=None)


@contextlib.contextmanager
def counting_chunks(*, apart: bool = False) -> Iterator[ChunkCount]:
    """Count the chunks that checked arrays read in this thread.

    Those of an inner count are part of the outer one, unless it is kept ``apart``.
    """
    count, outer = ChunkCount(), _COUNT.get()
    token = _COUNT.set(count)
    try:
        yield count
    finally:
        _COUNT.reset(token)
        if outer is not None and not apart:
            outer.read += count.read
            outer.missing += count.missing


def checked(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """Return a Zarr array of which every chunk is checked as it is read.

    Raises
    ------
    InputError
        If the time limit in Dask's configuration is none.
    """
    inner = array.async_array
    if isinstance(inner.codec_pipeline, CheckedPipeline):
        return array
    pipeline = CheckedPipeline.of(inner.metadata, inner.store_path, known_deadline())
    inner = copy.copy(inner)
    object.__setattr__(inner, "codec_pipeline", pipeline)
    return zarr.Array(inner)


@dataclass(frozen=True)
class CheckedPipeline(BatchedCodecPipeline):
    """Zarr's way from a store to an array, with checks of what is stored.

    Zarr calls `read` for a selection of an array, which calls `read_batch` for each of
    its chunks. ``place`` is that of the array in its store.
    """

    metadata: Any = None
    place: Any = None
    seconds: float | None = math.inf

    @classmethod
    def of(
        cls,
        metadata: ArrayV2Metadata | ArrayV3Metadata,
        place: StorePath,
        seconds: float | None,
    ) -> CheckedPipeline:
        """Return the pipeline of an array.

        ``seconds`` are those of a chunk, None for the `read_deadline` of the time.
        """
        plain = cls.from_codecs(_checked_codecs(metadata), batch_size=1)
        return replace(plain, metadata=metadata, place=place, seconds=seconds)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the codecs, which the metadata holds too."""
        seconds = read_deadline() if self.seconds is None else self.seconds
        return CheckedPipeline.of, (self.metadata, self.place, seconds)

    def __dask_tokenize__(self) -> object:
        """Return a token of the class: all else is in the array's metadata."""
        return "xdreg.CheckedPipeline"

    async def read(self, batch_info: Any, out: Any, drop_axes: Any = ()) -> None:
        """Read the chunks of a selection; account for those that are missing."""
        missing: set[str] = set()
        chunks = [
            (_Chunk(getter, self._most_stored, missing), *selection)
            for getter, *selection in batch_info
        ]
        await super().read(chunks, out, drop_axes)
        if missing:
            await self._check_metadata(len(missing))
        count = _COUNT.get()
        if count is not None:
            count.read += len(chunks)
            count.missing += len(missing)

    async def read_batch(self, batch_info: Any, out: Any, drop_axes: Any = ()) -> None:
        """Read one chunk, again after faults that may pass, or raise in time."""
        name, count = batch_info[0][0].name, _COUNT.get()
        if count is not None:
            count.check(name)
        try:
            await self._persistently(
                partial(super().read_batch, batch_info, out, drop_axes), name
            )
        except MemoryError:
            raise
        # Stores, codecs and clients do not document what they raise.
        except Exception as error:
            reason = self._reason(error, name)
            reason.chunk = f"{self.place.store}/{name}"
            if count is not None:
                count.failed[name] = reason
                if self._remote and is_store_error(error):
                    count.lost.add(name)
            raise reason from error

    async def _persistently(self, read: Callable[[], Any], name: str) -> Any:
        seconds = known_deadline() if self.seconds is None else self.seconds
        scale = max(1.0, self._chunk_bytes / BYTES_IN_TIME)
        return await persistently(
            read,
            f"{self.place.store}/{name}",
            remote=self._remote,
            seconds=None if seconds is None else scale * seconds,
            scale=scale,
        )

    def _reason(self, error: Exception, name: str) -> UnreadableError:
        if isinstance(error, UnreadableError):
            return error
        text = str(error).strip() or "no message"
        return UnreadableError(
            f"{self.place.store}/{name} cannot be read: {type(error).__name__}: {text}"
        )

    async def _check_metadata(self, missing: int) -> None:
        """Raise if the array's own metadata is missing too, or cannot be read."""
        own = "zarr.json" if self.metadata.zarr_format == 3 else ".zarray"
        key, cause = f"{self.place.path}/{own}".lstrip("/"), None
        try:
            if await fetch_document(self.place.store, key, self.seconds) is not None:
                return
        except Exception as error:  # as of any chunk
            cause = error
        msg = (
            f"{self.place}: {missing} chunks are missing, and so is {own}"
            + (f" ({type(cause).__name__}: {cause})" if cause else "")
            + f". Was a disk unmounted, or does {socket.gethostname()} not see it? Run "
            "the same again once it is there"
        )
        raise UnavailableError(msg) from cause

    @cached_property
    def _remote(self) -> bool:
        return is_remote_store(self.place.store)

    @cached_property
    def _chunk_bytes(self) -> int:
        """The unpacked bytes of a chunk, or of a shard."""
        return math.prod(self._outer) * _item_size(self.metadata)

    @cached_property
    def _outer(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.metadata.shards or self.metadata.chunks
        return shape

    @cached_property
    def _most_stored(self) -> int:
        """The most bytes that a chunk or shard may have in the store."""
        inner: int = math.prod(self._outer) // max(math.prod(self.metadata.chunks), 1)
        return _most(self._chunk_bytes) + inner * _most(0)


class _Chunk:
    """One chunk of a selection, from which codecs get the stored bytes."""

    def __init__(self, getter: StorePath, most: int, missing: set[str]) -> None:
        self.name, self._store = getter.path, getter.store
        self._most, self._missing = most, missing

    async def get(
        self, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the bytes, None if they are missing."""
        wanted = None
        if isinstance(byte_range, RangeByteRequest):
            wanted = byte_range.end - byte_range.start
        elif isinstance(byte_range, SuffixByteRequest):
            wanted = byte_range.suffix
        found = await fetch(self._store, self.name, prototype, self._most, byte_range)
        if found is None:
            self._missing.add(self.name)
        # Zarr takes nothing, as beyond the end of a shard, for a missing chunk.
        elif not len(found) or (wanted is not None and len(found) != wanted):
            came = f"{len(found)} bytes" + (f" of {wanted}" if wanted else "")
            msg = f"it is cut off: {came} came"
            raise ValueError(msg)
        return found


def _checked_codecs(metadata: ArrayV2Metadata | ArrayV3Metadata) -> list[Codec]:
    """Return the codecs of an array, those that decompress with a limit."""
    if isinstance(metadata, ArrayV3Metadata):
        return [_checked(codec) for codec in metadata.codecs]
    size = math.prod(metadata.chunks) * _item_size(metadata)
    filters = metadata.filters
    if filters:
        # They may change the type of a number, to one of at most 16 bytes.
        size = max(size, math.prod(metadata.chunks) * 16)
        filters = tuple(_checked_v2(codec, size) for codec in filters)
    return [V2Codec(filters, _checked_v2(metadata.compressor, size))]


def _checked_v2(codec: Any, size: int) -> Any:
    known = codec is not None and codec.codec_id in BOUNDED
    return _BoundedV2(codec, size) if known else codec


def _checked(codec: Codec) -> Codec:
    if isinstance(codec, ShardingCodec):
        return replace(codec, codecs=tuple(_checked(inner) for inner in codec.codecs))
    if not isinstance(codec, BytesBytesCodec):
        return codec
    stored: Any = codec.to_dict()
    kind = str(stored["name"]).removeprefix("numcodecs.")
    if kind not in BOUNDED:
        return codec
    # To unpack, only LZMA needs to know how it was packed.
    options = stored.get("configuration", {}) if kind == "lzma" else {}
    return _Bounded(codec, get_numcodec({"id": kind, **options}))


def _most(size: int) -> int:
    """Return the most bytes that codecs may make of a chunk before the last one."""
    return 2 * size + 4096


def _item_size(metadata: ArrayV2Metadata | ArrayV3Metadata) -> int:
    return int(metadata.dtype.to_native_dtype().itemsize)


class _BoundedV2:
    """A codec of numcodecs that unpacks to a bounded size."""

    def __init__(self, codec: Any, size: int) -> None:
        self._codec, self._size = codec, size

    def decode(self, data: Any) -> Any:
        """Return the unpacked data."""
        return unpack(self._codec, data, self._size, _most(self._size))


@dataclass(frozen=True)
class _Bounded(BytesBytesCodec):
    """A codec of Zarr that unpacks to a bounded size, by its twin in numcodecs."""

    codec: BytesBytesCodec
    twin: Any
    is_fixed_size = False

    def to_dict(self) -> dict[str, Any]:
        """Return the metadata of the codec."""
        return self.codec.to_dict()

    def compute_encoded_size(self, length: int, spec: ArraySpec) -> int:
        """Return the packed size, as the codec does."""
        return self.codec.compute_encoded_size(length, spec)

    async def _decode_single(self, data: Buffer, spec: ArraySpec) -> Buffer:
        size = math.prod(spec.shape) * spec.dtype.to_native_dtype().itemsize
        values = await asyncio.to_thread(
            unpack, self.twin, data.as_numpy_array(), size, _most(size)
        )
        return spec.prototype.buffer.from_bytes(values)
