"""Which files a store's own documents account for, so that nothing else is removed.

An OME-Zarr image owns the arrays that its metadata names, a field also the group
``xdreg``, and BigWarp's N5 the datasets ``dfield`` and ``invdfield``. Images below an
image, such as labels, are others' and foreign, as is any other file. A group that names
no array of its own is a container and owns nothing.
"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

from xdreg.stores.ome_checks import MOST_BYTES
from xdreg.stores.posix import open_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    #: Returns the content of a document, None if there is none.
    Read = Callable[[str], bytes | None]

_GROUP = r"(?:zarr\.json|\.zgroup|\.zattrs|\.zmetadata)"
_ARRAY = r"(?:zarr\.json|\.zarray|\.zattrs)"
_CHUNK = r"(?:c|(?:c[/.])?\d+(?:[/.]\d+)*)"

#: What a writer of Zarr leaves if it is killed.
_HALF = r"(?:[^/]*\.[0-9a-f]{32}\.partial)"

#: Diagnostics and provenance of a field.
_EXTRA = rf"xdreg(?:_inverse)?/(?:zarr\.json|[^/]+/(?:{_ARRAY}|{_CHUNK}|{_HALF}))"

_N5 = r"attributes\.json|(?:inv)?dfield/(?:attributes\.json|\d+(?:/\d+)*)"

#: Files that systems put into any folder.
LITTER = re.compile(r"\.DS_Store|Thumbs\.db|desktop\.ini|\.nfs[0-9a-f]+")

#: Most groups that lead from a scene to an array.
_DEPTH = 4

#: What late tasks of a failed computation left at a URL: chunks without documents.
ORPHANS = re.compile(
    rf"(?:scale\d+/image|coordinateTransformations/[^/]+(?:/[^/]+){{1,2}})/{_CHUNK}"
)

Owned = re.Pattern[str]

#: An unfinished output of xdreg, which has no document at its root yet.
UNFINISHED: Owned = re.compile(
    rf"\.xdreg-unfinished(?:/.*)?|{_EXTRA}"
    rf"|(?:(?:scale\d+|coordinateTransformations(?:/[^/]+)?)/)?{_GROUP}"
    rf"|(?:scale\d+/image|coordinateTransformations/[^/]+(?:/[^/]+){{1,2}})"
    rf"/(?:{_ARRAY}|{_CHUNK}|{_HALF})"
)


def owned(read: Read) -> Owned | None:
    """Return the files of the image or field whose documents are read.

    None if they describe neither.
    """
    if isinstance(_parsed(read("attributes.json")).get("n5"), str):
        return re.compile(_N5)
    arrays, groups = set[str](), set[str]()
    is_scene = _collect(read, "", arrays, groups, _DEPTH)
    if not arrays or "" in arrays:
        return None
    between = {above for path in (*arrays, *groups) for above in _above(path)} - groups
    # An image in a folder of its own is one, whoever else names its arrays.
    others = {path for path in between if _is_image(read, path)}
    arrays = {path for path in arrays if others.isdisjoint(_above(path))}
    groups |= between - others
    if not arrays:
        return None
    folders = "|".join(re.escape(path) for path in sorted(groups - arrays - {""}))
    places = "|".join(re.escape(path) for path in sorted(arrays))
    return re.compile(
        rf"(?:(?:{folders})/)?(?:{_GROUP}|{_HALF})"
        rf"|(?:{places})/(?:{_ARRAY}|{_CHUNK}|(?:[\d./c]*/)?{_HALF})"
        + (f"|{_EXTRA}" if is_scene else "")
    )


def first_foreign(names: Iterable[str], own: Owned | None) -> str | None:
    """Return the first file that is not owned, by its path below the store.

    A name that ends in a slash is an empty folder.
    """
    return next((name for name in names if not _is_own(name, own)), None)


def _is_own(name: str, own: Owned | None) -> bool:
    last = name.rpartition("/")[2]
    if LITTER.fullmatch(last):
        return True
    if own is None:
        return False
    if name.endswith("/"):
        return bool(own.fullmatch(f"{name}zarr.json") or own.fullmatch(f"{name}0"))
    if last.startswith("._"):  # macOS keeps attributes of a file so, on other disks
        name = name[: -len(last)] + last[2:]
    return own.fullmatch(name) is not None


def _collect(
    read: Read, path: str, arrays: set[str], groups: set[str], depth: int
) -> bool:
    """Add the arrays and groups that a node and its transformations name.

    Return whether it is a scene.
    """
    documents = [_parsed(read(_join(path, name))) for name in ("zarr.json", ".zattrs")]
    node, old = documents
    if node.get("node_type") == "array" or read(_join(path, ".zarray")) is not None:
        arrays.add(path)
        return False
    groups.add(path)
    attributes = node.get("attributes")
    new = attributes.get("ome") if isinstance(attributes, dict) else None
    metadata = [part for part in (new, old) if isinstance(part, dict)]
    for part in metadata:
        for image in _dicts(part.get("multiscales")):
            for dataset in _dicts(image.get("datasets")):
                arrays |= set(_below(path, dataset.get("path")))
    if depth:
        for name in {n for part in metadata for n in _transformation_paths(part)}:
            for place in _below(path, name):
                _collect(read, place, arrays, groups, depth - 1)
    return any("scene" in part for part in metadata)


def _above(path: str) -> list[str]:
    """Return the paths of all groups above a path, but for the root."""
    parts = path.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]


def _is_image(read: Read, path: str) -> bool:
    """Return whether the documents of a group name images or fields of its own."""
    new, old = (_parsed(read(_join(path, n))) for n in ("zarr.json", ".zattrs"))
    return any('"multiscales"' in json.dumps(part) for part in (new, old))


def _transformation_paths(value: Any) -> Iterator[Any]:
    """Yield the paths of arrays and fields; those of ends name images."""
    if isinstance(value, list):
        for part in value:
            yield from _transformation_paths(part)
    elif isinstance(value, dict):
        if "type" in value and "path" in value:
            yield value["path"]
        for key, part in value.items():
            if key not in ("input", "output"):
                yield from _transformation_paths(part)


def _below(path: str, name: Any) -> Iterator[str]:
    """Yield the path of a child if a document names one below its own node."""
    if isinstance(name, str) and not {"", ".", ".."} & set(name.strip("/").split("/")):
        yield _join(path, name.strip("/"))


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _dicts(values: Any) -> list[dict[str, Any]]:
    found = values if isinstance(values, list) else []
    return [value for value in found if isinstance(value, dict)]


def _parsed(content: bytes | None) -> dict[str, Any]:
    try:
        value = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def local_reader(folder: Path) -> Read:
    """Return a reader of the documents in a local store."""

    def read(name: str) -> bytes | None:
        try:
            fd = open_regular(folder / name, os.O_RDONLY)
        except OSError:
            return None
        with os.fdopen(fd, "rb") as file:
            return file.read(MOST_BYTES)

    return read


def local_names(folder: Path) -> Iterator[str]:
    """Yield all files in a folder by path, and empty folders with a slash at the end.

    A link counts as what its name says. It is not followed, here or by a removal.
    """
    pending = [""]
    while pending:
        path = pending.pop()
        with os.scandir(folder / path) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        if path and not entries:
            yield f"{path}/"
        for entry in entries:
            name = _join(path, entry.name)
            if entry.is_dir(follow_symlinks=False):
                pending.append(name)
            else:
                yield f"{name}/" if entry.is_dir() else name
