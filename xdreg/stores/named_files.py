"""Files and addresses that a document names, and which of them may be opened.

A field names its images, a parameter file its initial transform, a header its voxels.
Documents come from anywhere, and their user has not chosen what they name. Opening an
address may call a server or a computer in the network, and some protocols run code. So
only local files are opened, and what lies below the document's folder on its server.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from xdreg.errors import StoreError, warn
from xdreg.stores.paths import is_remote, local_path

if TYPE_CHECKING:
    from collections.abc import Iterable

#: A protocol, with or without slashes after it. A single letter is a drive of Windows.
_PROTOCOL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")

#: Folders whose entries are computers, which are called when a path goes through them.
_MOUNTED_ON_USE = ("net", "afs", "Network")

#: Folders of files that the system makes when they are read.
_NOT_STORED = ("proc", "sys")


def is_local(address: str) -> bool:
    """Return whether an address is the path of a local file or folder."""
    return _kind_of(address) is None


def absolute(address: str) -> str:
    """Return a local path of a user as an absolute one; URLs are unchanged."""
    return address if is_remote(address) else os.path.normpath(local_path(address))


def is_elsewhere(address: str, document: str) -> str | None:
    """Return what an address in a document is if it leads to another computer, or None.

    ``document`` is the document's own address. What it names below its own folder on a
    server, or on its own network share, is not elsewhere.
    """
    what = _kind_of(address)
    if what == "a URL" and _is_below(address, document):
        return None
    share = _share_of(address)
    return None if share and share == _share_of(document) else what


def why_not_a_file(path: str) -> str | None:
    """Return why a local path is no stored file or folder; None also if it is missing.

    Devices and pipes never end or never begin. Links are followed.
    """
    try:
        found = Path(path).resolve(strict=True)
        mode = found.stat().st_mode
    except (OSError, RuntimeError, ValueError):
        return None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return "a device, a pipe or a socket"
    if found.parts[1:2] and found.parts[1] in _NOT_STORED:
        return "a file of the system itself"
    return None


def companion(name: str, document: Path) -> Path:
    """Return the local file that a document names, also if both were moved.

    Warns of a file outside the document's folder.

    Raises
    ------
    StoreError
        If it is missing, on another computer, or no stored file.
    """
    folder = document.absolute().parent
    beside = folder / re.split(r"[\\/]", name)[-1]
    places = [folder / name, Path(name).absolute(), beside]
    why = is_elsewhere(name, str(document))
    for place in [beside] if why else places:
        path = os.path.normpath(place)
        refused = is_elsewhere(path, str(document)) or why_not_a_file(path)
        why = why or refused
        if refused is None and Path(path).is_file():
            if not _is_within(path, folder):
                warn(f"{document} names {path}, outside its folder; it is read")
            return Path(path)
    what = f"{why}, which is not opened" if why else "which is missing"
    msg = f"{document} names {name!r}, {what}; put both in one folder"
    raise StoreError(msg)


def check_names(document: Path, names: Iterable[str], what: str) -> None:
    """Raise if a document names a file outside its folder, or what is no stored file.

    ``what`` is what the document names files for.
    """
    folder = document.absolute().parent
    for name in names:
        path = os.path.normpath(folder / name)
        why = is_elsewhere(name, str(document)) or why_not_a_file(path)
        if why is None and not _is_within(path, folder):
            why = "outside its folder"
        if why is not None:
            msg = (
                f"{document} names {name!r} for {what}, {why}, which is not opened; "
                "put both in one folder"
            )
            raise StoreError(msg)


def _kind_of(address: str) -> str | None:
    """Return what an address is that is no local path, None for a local path."""
    if "::" in address:
        return "a chain of protocols"
    if _PROTOCOL.match(address):
        return "a URL"
    return "a path in the network" if _share_of(address) else None


def _is_below(address: str, document: str) -> bool:
    """Return whether a URL lies below the folder of a document on the same server."""
    folder = document.rstrip("/").rpartition("/")[0]
    if "://" not in folder or "::" in folder or not address.isprintable():
        return False
    one, other = urlsplit(address), urlsplit(folder)
    path = unquote(one.path)
    # What a server may take for a way up, or for a question, is elsewhere.
    plain = not one.query and not one.fragment and not {"%", "\\"} & set(path)
    return (
        plain
        and (one.scheme, one.netloc) == (other.scheme, other.netloc)
        and path.startswith(unquote(other.path).rstrip("/") + "/")
        and ".." not in path.split("/")
    )


def _is_within(path: str, folder: Path) -> bool:
    """Return whether a path leads into a folder; links in it may lead anywhere."""
    return Path(path).is_relative_to(os.path.normpath(folder))


def _share_of(path: str) -> tuple[str, ...]:
    """Return the computer and the share of a path in the network, else nothing."""
    parts = path.replace("\\", "/").split("/")
    if len(parts) > 2 and parts[:2] == ["", ""]:
        return tuple(parts[2:4])
    if len(parts) > 2 and parts[0] == "" and parts[1] in _MOUNTED_ON_USE:
        return tuple(parts[1:3])
    return ()
