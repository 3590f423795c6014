"""The way into Zarr stores: groups that users name, and what their documents name.

Documents come from anywhere. A path in them must stay in its store, an array must hold
numbers, and no codec may unpickle. Every array that is opened here is checked as it is
read, see `checked_arrays`.
"""

from __future__ import annotations

import asyncio
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from xdreg.errors import InputError, StoreError, XdregError
from xdreg.stores import ome_checks
from xdreg.stores.paths import as_address, is_remote, local_path

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    import zarr
    from zarr.abc.store import Store

#: Seconds a web server may be silent, unless ``client_kwargs`` of fsspec say more.
HTTP_SECONDS = 30


def is_zarr_folder(path: Path) -> bool:
    """Return whether a local folder has the documents of a Zarr node."""
    names = ("zarr.json", ".zgroup", ".zattrs", ".zarray")
    return any((path / name).exists() for name in names)


def open_given(
    store: Any, storage_options: Mapping[str, Any] | None = None
) -> tuple[str, zarr.Group]:
    """Open what a user gave for a store; return its address and its group.

    Parameters
    ----------
    store
        A path or URL, a `zarr.Group`, a store of Zarr, or a mapping of fsspec.
    storage_options
        As in `open_group`.

    Raises
    ------
    InputError, StoreError
        As `open_group` does.
    """
    import zarr
    from fsspec.mapping import FSMap
    from zarr.abc.store import Store
    from zarr.storage import FsspecStore

    if isinstance(store, FSMap):
        store = FsspecStore.from_mapper(store, read_only=True)
    if isinstance(store, zarr.Group):
        place, path = store.store, store.path
    elif isinstance(store, Store):
        place, path = store, ""
    else:
        address = as_address(store, "store")
        return address, open_group(address, storage_options)
    address = f"{place}/{path}".rstrip("/").removeprefix("file://")
    return address, _checked_group(address, lambda: (place, path))


def open_group(address: str, storage_options: Mapping[str, Any] | None) -> zarr.Group:
    """Open a store for reading, at a path or URL that a user gave.

    Raises
    ------
    InputError
        If the options are no mapping.
    StoreError
        If there is no group that can be used, or it does not come in time.
    """
    if not isinstance(storage_options, Mapping | None):
        msg = (
            f"storage_options must be a dict for fsspec, such as {{'anon': True}}, got "
            f"{storage_options!r}"
        )
        raise InputError(msg)
    if not is_remote(address) and not (address and local_path(address).exists()):
        msg = f"{address or 'an empty path'} does not exist; check the path"
        raise StoreError(msg)
    return _checked_group(
        address, lambda: (_store_at(address, storage_options), _inside_zip(address))
    )


def _checked_group(address: str, place: Callable[[], tuple[Store, str]]) -> zarr.Group:
    """Open the group at a path of a store."""
    import zarr

    try:
        node = _open_node(*place())
    except (FileNotFoundError, NotADirectoryError) as error:
        msg = (
            f"{address} is not a Zarr store, or it cannot be reached; OME-Zarr images "
            "are directories with zarr.json or .zgroup inside; xdreg.open_image opens "
            "other files"
        )
        raise StoreError(msg) from error
    except ImportError as error:
        msg = f"{address} needs a package: {error}; pip install 'xdreg[remote]'"
        raise StoreError(msg) from error
    except XdregError:
        raise
    # Every remote client has its own exceptions.
    except Exception as error:
        msg = (
            f"{address} cannot be read: {type(error).__name__}: {error}; check the "
            "address, the storage_options and that its metadata is whole"
        )
        raise StoreError(msg) from error
    if isinstance(node, zarr.Array):
        msg = (
            f"{address} is a bare Zarr array without OME-Zarr metadata; open the image "
            "group above it, or make a DataArray with coordinates of your own"
        )
        raise StoreError(msg)
    return node


def open_array(
    address: str, group: zarr.Group, path: object, what: str = "array"
) -> zarr.Array[Any]:
    """Open an array that a document of a store names.

    Parameters
    ----------
    address
        The store, for errors.
    group
        The group that the path starts from.
    path
        The path as the document has it.
    what
        What the document calls it, for errors.

    Raises
    ------
    StoreError
        If the path leaves the store, there is no array, or it would run code or take
        more memory or time than any image.
    """
    import zarr

    node = open_named(address, group, path, what)
    if not isinstance(node, zarr.Array):
        msg = f"{address}: the {what} {path!r} is a group; expected an array"
        raise StoreError(msg)
    return node


def open_named(
    address: str, group: zarr.Group, path: object, what: str = "node"
) -> zarr.Array[Any] | zarr.Group:
    """Open a group, or an array as `open_array` does, that a document names."""
    inner = _inner_path(address, path, what)
    whole = f"{group.path}/{inner}".lstrip("/")
    try:
        return _open_node(group.store, whole, group.metadata.zarr_format)
    except XdregError:
        raise
    # Zarr and its codecs do not document what they raise.
    except Exception as error:
        msg = f"{address} names a {what} {inner[:80]!r} that is missing or damaged"
        raise StoreError(msg) from error


def child_names(group: zarr.Group) -> list[str]:
    """Return the names below a group, in order."""
    from zarr.core.sync import sync

    from xdreg.stores.fetching import is_remote_store, known_deadline, persistently

    store = group.store

    async def names() -> list[str]:
        return sorted([v.rstrip("/") async for v in store.list_dir(group.path)])

    what, seconds = f"the list of {store}/{group.path}", known_deadline()
    return sync(
        persistently(names, what, remote=is_remote_store(store), seconds=seconds)
    )


def _inner_path(address: str, path: object, what: str) -> str:
    """Return a path of a document, or raise if it could lead out of its store."""
    if isinstance(path, str):
        # Backslashes, drives and dots at the end mean something on Windows; a server
        # decodes percent signs, and cuts off what follows a question mark.
        parts = unquote(path).replace("\\", "/").split("/")
        plain = not any(part.strip(". \t") == "" for part in parts)
        if plain and ":" not in parts[0] and not set(path) & set("\0?#"):
            return path
    msg = f"{address}: {what} path {path!r:.200} leaves the store; it is not opened"
    raise StoreError(msg)


def _store_at(address: str, storage_options: Mapping[str, Any] | None) -> Store:
    """Return the store at a path or URL."""
    from zarr.core.sync import sync
    from zarr.storage import FsspecStore, LocalStore, ZipStore

    if is_remote(address):
        options = dict(storage_options or {})
        if address.startswith(("http://", "https://")):
            options = _with_time_limit(options)
        return FsspecStore.from_url(address, options, read_only=True)
    # A relative path may not exist in a worker.
    if zipfile.is_zipfile(local_path(address)):
        return sync(ZipStore.open(local_path(address), mode="r", read_only=True))
    return LocalStore(local_path(address), read_only=True)


def _inside_zip(address: str) -> str:
    """Return the folder of a zip file that has the store; none if it is not zipped."""
    if is_remote(address) or not zipfile.is_zipfile(local_path(address)):
        return ""
    with zipfile.ZipFile(local_path(address)) as archive:
        names = archive.namelist()
    if {"zarr.json", ".zgroup", ".zarray"} & set(names):
        return ""
    tops = {name.partition("/")[0] for name in names}
    return tops.pop() if len(tops) == 1 else ""


def _with_time_limit(options: dict[str, Any]) -> dict[str, Any]:
    """Limit how long a web server may be silent. The default is five minutes."""
    try:
        import aiohttp
    except ImportError:  # fsspec raises and says what to install
        return options
    limit = aiohttp.ClientTimeout(sock_connect=HTTP_SECONDS, sock_read=HTTP_SECONDS)
    client = {"timeout": limit} | dict(options.get("client_kwargs") or {})
    return options | {"client_kwargs": client}


def _open_node(
    store: Store, path: str, version: int = 3
) -> zarr.Array[Any] | zarr.Group:
    """Open the node at a path, by its own documents.

    ``version`` is the newest format of Zarr to look for.
    """
    import zarr
    from zarr.core.sync import sync
    from zarr.storage import StorePath

    from xdreg.stores.checked_arrays import checked

    kind, document = sync(_documents(store, path, version))
    place = StorePath(store, path)
    if kind == "group":
        # What is consolidated in a group may differ from what its nodes say.
        document.pop("consolidated_metadata", None)
        return zarr.Group(zarr.AsyncGroup.from_dict(place, document))
    ome_checks.check_codecs(str(place), document)
    array = zarr.Array.from_dict(place, document)
    ome_checks.check_array(str(place), array)
    return checked(array)


async def _documents(
    store: Store, path: str, version: int
) -> tuple[str, dict[str, Any]]:
    """Return a node's type and its metadata with attributes."""
    from xdreg.stores.fetching import fetch_document, known_deadline

    seconds = known_deadline()

    def document(name: str) -> Coroutine[Any, Any, Any]:
        return fetch_document(store, f"{path}/{name}".lstrip("/"), seconds)

    found = await document("zarr.json") if version == 3 else None
    if found is not None:
        return str(found.get("node_type")), found
    names = (".zarray", ".zgroup", ".zattrs")
    array, group, attributes = await asyncio.gather(*map(document, names))
    if array is None and group is None:
        msg = f"there is no Zarr metadata at {path!r}"
        raise FileNotFoundError(msg)
    kind = "group" if array is None else "array"
    return kind, (group if array is None else array) | {"attributes": attributes or {}}
