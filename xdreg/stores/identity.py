"""What the voxels of an image are known by, which changes when they are rewritten.

======================  ==============================================================
source                  what counts
======================  ==============================================================
local Zarr store        the document of the array; name, size and modification time of
                        every chunk or shard; the content of `FEW` of them
beyond `MOST_FILES`     the same, of `MANY` chunks in place of all
URL                     size and ETag or modification time, as the server tells them,
                        of the document and of `SAMPLE` chunks; without them the content
zip file                names, sizes and CRC-32 of its entries
Zarr store in memory    the content
any other Zarr store    the content of the document and of `FEW` chunks
array in memory         the content
other Dask array        its name, and all Zarr arrays in its graph
======================  ==============================================================

Samples are spread evenly. The place of a local store does not count: it may be moved,
as long as it keeps its times.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import itertools
import json
import math
import os
import stat
import time
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dask.base import tokenize

from xdreg.errors import StoreError
from xdreg.stores.files import read_file
from xdreg.stores.ome_checks import MOST_BYTES
from xdreg.stores.retrying import FIRST_WAIT, TRIES, is_permanent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    import zarr

#: Most files of an array of which each is looked at.
MOST_FILES = 2**21

#: Number of files that are looked at if there are more, of chunks that a server is
#: asked about, and of chunks of which the content counts.
MANY, SAMPLE, FEW = 100_000, 32, 8

#: Most bytes that are read from the middle of a chunk.
SAMPLE_BYTES = 2**16

#: Seconds after which a server's silence about a chunk is taken as no answer.
LOOK_SECONDS = 30

#: Questions that a server is asked at once. A simple one lets more wait for a second.
TOGETHER = 5

#: A mark that a server did not give. It agrees with every other.
UNKNOWN = "unknown"

_MISSING = "missing"

#: Beginning of the name of a chunk in a local store.
_LOCAL = "file://"

#: Chunks that are taken as they were: their stamps, by place.
_DAMAGED: ContextVar[Mapping[str, str]] = ContextVar(
    "xdreg.damaged", default=MappingProxyType({})
)

#: Entries of fsspec's description of a file that change with its content.
_MARKS = (
    *("size", "ETag", "etag", "Last-Modified", "LastModified", "last_modified"),
    *("mtime", "updated", "generation", "Content-MD5", "created"),
    *("CRC", "date_time", "modify", "modified", "sha"),
)

#: Files that are looked at together. Beyond this many seconds for each, the disk is
#: one of a network, which answers several threads at once.
_BATCH, _SLOW, _THREADS = 4096, 1e-4, 32


def identity_of(source: Any) -> dict[str, Any]:
    """Return what the voxels of a source are known by now, as values for JSON.

    Parameters
    ----------
    source
        A Zarr or numpy array, or an object that states its ``identity()``.

    Raises
    ------
    StoreError
        If a local store is gone.
    """
    import zarr

    if hasattr(source, "identity"):
        return source.identity()  # type: ignore[no-any-return]
    if isinstance(source, zarr.Array):
        return _of_zarr(source)
    return {"content": tokenize(source)}


def key_of(source: Any) -> tuple[object, ...]:
    """Return the address and the identity of a source, for keys of tasks."""
    store = getattr(source, "store", None)
    place = (str(store), source.path) if store is not None else ()
    return (*place, identity_of(source))


def same_voxels(one: Any, other: Any) -> bool:
    """Return whether two identities agree, as far as both are known."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            same_voxels(one[key], other[key]) for key in one
        )
    if isinstance(one, list) and isinstance(other, list):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(same_voxels(*pair) for pair in pairs)
    return one == other or UNKNOWN in (one, other)


@contextlib.contextmanager
def as_damaged(stamps: Mapping[str, str]) -> Iterator[None]:
    """Take chunks as they were when they could not be read, by `damaged_chunk`.

    An image of which a damaged chunk was put right is then known as before.
    """
    token = _DAMAGED.set(stamps)
    try:
        yield
    finally:
        _DAMAGED.reset(token)


def damaged_chunk(chunk: str) -> tuple[str, str]:
    """Return the place of a chunk that cannot be read, and what it is known by now."""
    if not chunk.startswith(_LOCAL):
        return chunk, UNKNOWN
    path = Path(chunk.removeprefix(_LOCAL))
    return os.path.realpath(path.parent) + "/" + path.name, _stamp(str(path))


def _damaged_in(folder: Path) -> dict[str, str]:
    """Return the stamps of damaged chunks in a folder, by their names in it."""
    place = os.path.realpath(folder)
    found = _DAMAGED.get().items()
    return {k.removeprefix(place): v for k, v in found if k.startswith(f"{place}/")}


def zarr_arrays_in(graph: Any) -> list[zarr.Array[Any]]:
    """Return the Zarr arrays that a Dask graph reads, as far as it pickles."""
    import cloudpickle
    import numpy as np
    import zarr

    found: list[zarr.Array[Any]] = []

    class Finder(cloudpickle.Pickler):  # type: ignore[misc]
        """Pickler that collects arrays in place of their content."""

        def persistent_id(self, value: Any) -> str | None:
            if isinstance(value, zarr.Array):
                found.append(value)
            return "array" if isinstance(value, zarr.Array | np.ndarray) else None

    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        try:
            Finder(nowhere, protocol=5).dump(graph)
        except Exception:
            return found
    return found


def folder_identity(
    folder: Path, document: str, keys: Callable[[int], list[str]], depth: int
) -> dict[str, Any]:
    """Return what the voxels of an array in a local folder are known by.

    Parameters
    ----------
    folder
        Folder of the array.
    document
        Name of the file that describes it.
    keys
        Returns the names of at most so many chunks, evenly spread.
    depth
        Most folders below it.
    """
    if not folder.is_dir():
        msg = f"{folder} is gone; make sure that its disk is mounted, and try again"
        raise StoreError(msg)
    damaged = _damaged_in(folder)
    try:
        start = hashlib.blake2b(_described(folder / document), digest_size=16)
        digest = start.copy()
        files = itertools.islice(_files(str(folder), depth), MOST_FILES + 1)
        if _add_stamps(digest, str(folder), files, damaged) > MOST_FILES:
            digest, few = start, (f"{folder}/{key}" for key in keys(MANY))
            _add_stamps(digest, str(folder), few, damaged)
    except OSError as error:
        msg = f"{folder} cannot be read: {error}; see that it may be, and try again"
        raise StoreError(msg) from error
    content = {
        key: UNKNOWN if f"/{key}" in damaged else _short(_middle(folder / key))
        for key in keys(FEW)
    }
    return {"files": digest.hexdigest(), "content": content}


def evenly(values: Any, count: int) -> list[Any]:
    """Return at most ``count`` values of a sequence: the ends, and some in between."""
    last = len(values) - 1
    if last < count:
        return list(values)
    return [values[i * last // (count - 1)] for i in range(count)]


def _of_zarr(source: zarr.Array[Any]) -> dict[str, Any]:
    from zarr.core.sync import sync
    from zarr.storage import (
        FsspecStore,
        LocalStore,
        MemoryStore,
        WrapperStore,
        ZipStore,
    )

    store: Any = source.store
    while isinstance(store, WrapperStore):
        store = store._store
    metadata = {k: v for k, v in source.metadata.to_dict().items() if k != "attributes"}
    kept = {"metadata": tokenize(metadata)}
    document = "zarr.json" if source.metadata.zarr_format == 3 else ".zarray"
    if isinstance(store, LocalStore):
        folder = Path(store.root) / source.path
        keys = functools.partial(_chunk_keys, source)
        return kept | folder_identity(folder, document, keys, source.ndim + 1)
    prefix = f"{source.path}/" if source.path else ""
    if isinstance(store, ZipStore):
        return kept | {"entries": _of_zip(Path(store.path), prefix)}
    address = {"address": f"{store}/{source.path}"}
    if isinstance(store, MemoryStore):
        names = sync(_listed(store, prefix))
        return kept | {"content": tokenize(sync(_marks(_content, store, names)))}
    few = SAMPLE if isinstance(store, FsspecStore) else FEW
    names = [prefix + name for name in (document, *_chunk_keys(source, few))]
    if not isinstance(store, FsspecStore):
        return kept | address | {"chunks": sync(_marks(_content, store, names))}
    store.fs.invalidate_cache()
    return kept | address | {"chunks": sync(_marks(_description, store, names))}


def _chunk_keys(source: zarr.Array[Any], count: int) -> list[str]:
    """Return the names of at most ``count`` chunks or shards, evenly spread."""
    sizes = zip(source.shape, source.shards or source.chunks, strict=True)
    counts = [-(-n // size) for n, size in sizes]
    numbers = evenly(range(math.prod(counts)), count)
    keys = []
    for number in numbers:
        place = []
        for n in counts[::-1]:
            number, index = divmod(number, n)
            place.append(index)
        keys.append(source.metadata.encode_chunk_key(tuple(place[::-1])))
    return keys


def _described(document: Path) -> bytes:
    """Return an array's document without attributes, which no voxel depends on."""
    try:
        text = read_file(document, MOST_BYTES)
    except FileNotFoundError:
        return b""
    try:
        values = json.loads(text)
        values.pop("attributes", None)
        return json.dumps(values, sort_keys=True).encode()
    except (ValueError, AttributeError):
        return text


def _files(folder: str, depth: int) -> Iterator[str]:
    """Yield the chunks in a folder and below it, in the order of their names."""
    names, folders = [], set()
    with os.scandir(folder) as found:
        for entry in found:
            if _is_chunk(entry.name):
                names.append(entry.name)
                if depth and entry.is_dir():
                    folders.add(entry.name)
    names.sort()
    for name in names:
        if name in folders:
            yield from _files(f"{folder}/{name}", depth - 1)
        else:
            yield f"{folder}/{name}"


def _is_chunk(name: str) -> bool:
    """Return whether a name is a chunk's or part of it: ``c``, ``0``, ``c.0.1``."""
    return name[0] != "." and not name.strip("c.0123456789")


def _add_stamps(
    digest: Any, root: str, files: Iterator[str], damaged: Mapping[str, str]
) -> int:
    """Add names, sizes and times of files to a digest; return how many there are."""
    count, slow = 0, False
    with ThreadPoolExecutor(_THREADS) as pool:
        while batch := list(itertools.islice(files, _BATCH)):
            began = time.perf_counter()
            stamps = pool.map(_stamp, batch) if slow else map(_stamp, batch)
            names = (file[len(root) :] for file in batch)
            lines = [
                f"{name} {damaged.get(name, stamp)}\n"
                for name, stamp in zip(names, stamps, strict=True)
            ]
            digest.update("".join(lines).encode())
            slow = slow or time.perf_counter() - began > _SLOW * len(batch)
            count += len(batch)
    return count


def _stamp(file: str) -> str:
    try:
        found = os.stat(file)  # noqa: PTH116 - of a million, a Path costs as much
    except FileNotFoundError:  # a link without a target
        return _MISSING
    return f"{found.st_size} {found.st_mtime_ns}"


def _middle(chunk: Path) -> bytes:
    """Return the bytes in the middle of a chunk."""
    try:
        status = chunk.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait
            return b""
        with chunk.open("rb") as file:
            file.seek(max(status.st_size - SAMPLE_BYTES, 0) // 2)
            return file.read(SAMPLE_BYTES)
    except OSError:
        return b""


def _of_zip(path: Path, prefix: str) -> str:
    with zipfile.ZipFile(path) as archive:
        entries = [
            (entry.filename, entry.file_size, entry.CRC)
            for entry in archive.infolist()
            if entry.filename.startswith(prefix)
        ]
    return str(tokenize(sorted(entries)))


async def _listed(store: Any, prefix: str) -> list[str]:
    return sorted([key async for key in store.list_prefix(prefix)])


async def _marks(
    look: Callable[[Any, str], Awaitable[str]], store: Any, keys: list[str]
) -> dict[str, str]:
    """Return a mark for every key; `UNKNOWN` where there is no answer."""
    marks = dict.fromkeys(keys, UNKNOWN)
    turns = asyncio.Semaphore(TOGETHER)
    damaged = {key for key in keys if f"{store}/{key}" in _DAMAGED.get()}

    async def ask(key: str) -> None:
        try:
            async with turns:
                marks[key] = await look(store, key)
        # Clients do not document what they raise. Some hide the cause.
        except Exception as error:
            cause = error.__cause__
            if is_permanent(cause if isinstance(cause, Exception) else error):
                marks[key] = _MISSING

    try:
        async with asyncio.timeout(LOOK_SECONDS):
            for attempt in range(TRIES):
                silent = [k for k in keys if marks[k] == UNKNOWN and k not in damaged]
                await asyncio.gather(*(ask(key) for key in silent))
                if all(marks[key] != UNKNOWN for key in silent):
                    break
                await asyncio.sleep(FIRST_WAIT * 2**attempt)
    except TimeoutError:
        pass
    return marks


async def _content(store: Any, key: str) -> str:
    from zarr.core.buffer import default_buffer_prototype

    buffer = await store.get(key, default_buffer_prototype())
    return _MISSING if buffer is None else _short(buffer.to_bytes())


async def _description(store: Any, key: str) -> str:
    info = await store.fs._info(f"{store.path}/{key}")
    marks = [f"{name}={info[name]}" for name in _MARKS if info.get(name) is not None]
    if len(marks) < 2:
        marks.append(await _content(store, key))
    return _short(" ".join(marks).encode())


def _short(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
