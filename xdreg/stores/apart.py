"""Outputs that are, hold or lie in what is read for them, which are refused.

Replacing an image while it is read, or before it is read again, gives wrong numbers.
Where an array comes from is found in its Dask graph, however it was derived.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import dask
import xarray as xr
import zarr

from xdreg.errors import StoreError
from xdreg.stores.ownership import local_reader, owned
from xdreg.stores.paths import as_address, filesystem, is_remote, local_path

#: Tasks of a layer that are searched for sources, which all tasks of it share.
_TASKS = 128

#: Most objects between an array and its source.
_DEPTH = 24


def check_apart(
    output: str | os.PathLike[str], *inputs: Any, what: str = "output"
) -> None:
    """Raise if an output is, holds or lies in an input.

    Inputs are paths, URLs, images, fields, or several of these; None is no input.
    """
    address = as_address(output, "path" if what == "output" else what)
    for place in {place for given in inputs for place in _places(given)}:
        relation = _relation(address, place)
        if relation:
            other = "an input" if address == place else place
            msg = (
                f"the {what} {address} {relation} {other}, which is read; choose "
                "another place"
            )
            raise StoreError(msg)


def _relation(output: str, place: str) -> str | None:
    """Return in words how an output lies to an input; None if apart."""
    if is_remote(output) != is_remote(place):
        return None
    if is_remote(output):
        one, other = _key(output), _key(place)
        is_in, holds = one[: len(other)] == other, other[: len(one)] == one
    else:
        one_path, other_path = local_path(output), local_path(place)
        is_in, holds = _lies_in(one_path, other_path), _lies_in(other_path, one_path)
    if is_in and holds:
        return "is"
    return "lies in" if is_in else "holds" if holds else None


def _lies_in(inner: Path, outer: Path) -> bool:
    """Return whether a path is another one or below it, also through links."""
    real = Path(os.path.realpath(inner))
    for place in (real, *real.parents):
        try:
            if place.samefile(outer):
                return True
        except OSError:
            if place == Path(os.path.realpath(outer)):
                return True
    return False


def _key(url: str) -> tuple[str, ...]:
    """Return the protocol and the parts of the path of a URL."""
    try:
        files, place = filesystem(url)
    except (ImportError, ValueError):
        return (url,)
    return (type(files).__name__, *place.strip("/").split("/"))


def _places(given: Any) -> Iterator[str]:
    """Yield the addresses of an input."""
    if given is None:
        return
    if isinstance(given, str | os.PathLike):
        yield as_address(given)
        return
    found: list[str] = []
    _search(given, found, {}, 0)
    yield from found


def _search(value: Any, found: list[str], seen: dict[int, Any], depth: int) -> None:
    """Add the addresses of all stores from which an object reads."""
    if depth > _DEPTH or id(value) in seen:
        return
    seen[id(value)] = value  # kept, so that no other object gets its number
    if isinstance(value, zarr.Array):
        found.extend(_address_of(value))
    elif hasattr(value, "kvstore") and hasattr(value, "domain"):  # of tensorstore
        path = value.kvstore.spec().to_json().get("path")
        found.extend([str(path)] if path else [])
    else:
        for part in _parts(value):
            _search(part, found, seen, depth + 1)


def _parts(value: Any) -> Iterator[Any]:
    """Yield the objects in which the sources of an object may be."""
    if isinstance(value, xr.DataTree):
        yield from (node.dataset for node in value.subtree)
    elif isinstance(value, xr.Dataset):
        yield from (array.variable for array in value.data_vars.values())
    elif isinstance(value, xr.DataArray):
        yield value.variable
    elif isinstance(value, xr.Variable):
        yield value._data
    elif dask.is_dask_collection(value):
        graph: Any = value.__dask_graph__()
        yield from getattr(graph, "layers", graph).values()
    elif isinstance(value, dask.highlevelgraph.MaterializedLayer):
        yield from islice(value.mapping.values(), _TASKS)
    elif isinstance(value, dask.highlevelgraph.Layer):
        yield from _attributes(value)  # its tasks would be made for their values
    elif isinstance(value, Mapping):
        yield from islice(value.values(), _TASKS)
    elif isinstance(value, list | tuple | set | frozenset):
        yield from islice(value, _TASKS)
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif type(value).__module__.partition(".")[0] in ("dask", "xarray", "xdreg"):
        yield from _attributes(value)


def _attributes(value: Any) -> Iterator[Any]:
    names = {name for kind in type(value).__mro__ for name in _slots(kind)}
    yield from (getattr(value, name, None) for name in sorted(names))
    yield from getattr(value, "__dict__", {}).values()


def _slots(kind: type) -> tuple[str, ...]:
    slots = kind.__dict__.get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _address_of(array: zarr.Array[Any]) -> list[str]:
    """Return the address of the image, or else the array, that is read."""
    store: Any = getattr(array.store, "_store", array.store)
    root = getattr(store, "root", None)
    if isinstance(root, Path):
        return [str(_image_of(root, array.path))]
    files, path = getattr(store, "fs", None), getattr(store, "path", None)
    if files is None or path is None:
        return []
    files = getattr(files, "sync_fs", files)  # made asynchronous for Zarr
    whole = f"{path}/{array.path}" if array.path else str(path)
    return [whole if "file" in files.protocol else str(files.unstrip_protocol(whole))]


def _image_of(root: Path, path: str) -> Path:
    """Return the folder of the image or field that has an array, or of the array."""
    parts = path.split("/") if path else []
    for count in range(len(parts)):
        folder = root.joinpath(*parts[:count])
        own = owned(local_reader(folder))
        if own is not None and own.fullmatch("/".join([*parts[count:], "zarr.json"])):
            return folder
    return root.joinpath(*parts)
