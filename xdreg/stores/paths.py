"""Paths and URLs as users give them.

Everything that is not a URL is a local path and means what the operating system means
by it: ``#``, ``%20``, ``::``, ``[ab]`` and ``*`` are characters of a name like others.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xdreg.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    StorageOptions = Mapping[str, Any] | None

#: A URL, also a chained one of fsspec. One letter is a drive of Windows.
_URL = re.compile(r"(?:[a-z][a-z0-9+.-]*::)*[a-z][a-z0-9+.-]+://", re.IGNORECASE)

_FILE_URL = re.compile(r"(?:file|local)://([^/]*)(/.*)?", re.IGNORECASE | re.DOTALL)


def as_address(path: object, name: str = "path") -> str:
    """Return a path or URL as text; ``name`` is that of the argument in an error.

    A ``file://`` URL becomes the local path that it names.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(text, str) or "\0" in text:
        msg = f"{name} must be a path or a URL as text, got {path!r}"
        raise InputError(msg)
    found = _FILE_URL.fullmatch(text)
    if found is None:
        return text
    host, place = found.groups()
    if host not in ("", "localhost") or place is None:
        msg = f"{name} is {text}; expected a path, or a URL such as file:///data/image"
        raise InputError(msg)
    from urllib.request import url2pathname  # takes long to import

    return url2pathname(place)


def is_remote(address: str) -> bool:
    """Return whether an address is a URL."""
    return _URL.match(address) is not None


def local_path(address: str | os.PathLike[str], folder: Path = Path()) -> Path:
    """Return a local path as an absolute one; it is relative to ``folder``.

    ``~`` at the start is the home folder, unless the folder has an entry of that name.
    ``~name`` is a name like others.

    Raises
    ------
    InputError
        If it is relative to the current folder, and that was removed.
    """
    path = Path(address)
    if path.parts[:1] == ("~",) and not os.path.lexists(folder / "~"):
        path = path.expanduser()
    try:
        return (folder / path).absolute()
    except FileNotFoundError as error:
        msg = (
            f"{path} is a relative path, and the current folder was removed; go to "
            "another folder, or give an absolute path"
        )
        raise InputError(msg) from error


def filesystem(address: str, options: StorageOptions = None) -> tuple[Any, str]:
    """Return the file system of a URL or path, and the path in it."""
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    if not is_remote(address):
        return LocalFileSystem(), str(local_path(address))
    files, place = fsspec.core.url_to_fs(address, **(options or {}))
    return files, str(place).rstrip("/")
