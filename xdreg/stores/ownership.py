"""Which files a store's own documents account for, so that nothing else is removed.

An OME-Zarr image owns the arrays that its metadata names, a field also the group
``xdreg``, the field of a time series the arrays that it names, an image that was warped
the labels that were warped along, and BigWarp's N5 the datasets ``dfield`` and
``invdfield``. Other images below an image are foreign, as is any other file. A group
that names no array of its own is a container and owns nothing; neither does one that
names arrays of an image below it. Files are chunks if they lie in the grid of their
array.
"""

from __future__ import annotations

import functools
import json
import operator
import os
import re
from dataclasses import dataclass
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

#: Groups of the diagnostics and the provenance of a field, and diagnostics in them.
_EXTRA = r"xdreg(?:_inverse)?"
_DIAGNOSTIC = r"(?:(?:stage\d+_)?block_[a-z_]+|stage_blocks)"

#: Attribute of such a group: the names of its arrays.
ARRAYS = "arrays"

#: Attribute of a store with the field of a time series: the names of its arrays.
SERIES = "xdreg_series"

#: Attribute of the group of an image's labels: the names of those warped along with it.
WARPED = "xdreg_warped"

#: What the metadata of a group hold that is a node of its own for readers.
_OF_NODES = {"multiscales", "plate", "well", "labels", "bioformats2raw.layout", "ome"}

_N5 = re.compile(
    r"attributes\.json"
    r"|(?P<array>(?:inv)?dfield)/(?:attributes\.json|(?P<chunk>\d+(?:/\d+)*))"
)

#: Files that systems put into any folder.
LITTER = re.compile(r"\.DS_Store|Thumbs\.db|desktop\.ini|\.nfs[0-9a-f]+")

#: Most groups that lead from a scene to an array.
_DEPTH = 4

#: What late tasks of a failed computation left at a URL: chunks without documents.
ORPHANS = re.compile(
    rf"(?:scale\d+/image|coordinateTransformations/[^/]+(?:/[^/]+){{1,2}})/{_CHUNK}"
    rf"|(?:labels/[^/]+/)?\d{{1,2}}/c(?:/\d+)+"
    rf"|xdreg/displacement/{_CHUNK}"
)


@dataclass(frozen=True)
class _OfDocuments:
    """Names by a pattern; those in its group ``chunk`` are chunks of ``array``."""

    pattern: re.Pattern[str]
    counts: Callable[[str], tuple[int, ...]]

    def fullmatch(self, name: str) -> re.Match[str] | None:
        """Match a name, of a chunk only if it lies in the grid of its array."""
        found = self.pattern.fullmatch(name)
        if found is None or found["chunk"] is None:
            return found
        chunk, counts = found["chunk"], self.counts(found["array"])
        place = re.findall(r"\d+", chunk)
        # Version 2 stores an array without axes in a chunk 0.
        counts = counts if counts or chunk == "c" else (1,)
        is_in = len(place) == len(counts) and all(
            map(operator.lt, map(int, place), counts)
        )
        keys = {sep.join([*c, *place]) for sep in "/." for c in ("", "c")}
        is_plain = all(part == str(int(part)) for part in place)
        return found if is_in and is_plain and chunk in keys else None


def _counts(read: Read, array: str) -> tuple[int, ...]:
    """Return how many chunks an array has along each axis, (-1,) if nothing says so."""
    for name in ("zarr.json", ".zarray", "attributes.json"):
        found = _parsed(read(_join(array, name)))
        shape = _sizes(found.get("shape", found.get("dimensions")))
        if shape is None:
            continue
        grid = found.get("chunk_grid")
        inner = grid.get("configuration") if isinstance(grid, dict) else None
        new = inner.get("chunk_shape") if isinstance(inner, dict) else None
        sizes = _sizes(new or found.get("chunks") or found.get("blockSize"))
        if sizes is None or len(sizes) != len(shape) or not all(sizes):
            # In a grid of another kind, chunks are of one voxel or more.
            sizes = [1] * len(shape)
        return tuple(-(-n // size) for n, size in zip(shape, sizes, strict=True))
    return (-1,)


def _sizes(value: Any) -> list[int] | None:
    """Return a list of sizes; None if it is something else."""
    is_list = isinstance(value, list)
    return (
        value if is_list and all(isinstance(n, int) and n >= 0 for n in value) else None
    )


#: More axes than arrays of images and fields have.
_MOST_AXES = 8

Owned = re.Pattern[str] | _OfDocuments

#: An unfinished output of xdreg, which has no document at its root yet.
UNFINISHED: Owned = re.compile(
    rf"\.xdreg-unfinished(?:/.*)?"
    rf"|{_EXTRA}/(?:zarr\.json|[^/]+/(?:{_ARRAY}|{_CHUNK}|{_HALF}))"
    rf"|(?:(?:scale\d+|labels(?:/[^/]+)?|coordinateTransformations(?:/[^/]+)?)/)?"
    rf"{_GROUP}"
    rf"|(?:(?:labels/[^/]+/)?\d{{1,2}}|scale\d+/image|coordinateTransformations/[^/]+(?:/[^/]+){{1,2}})"
    rf"/(?:{_ARRAY}|{_CHUNK}|{_HALF})"
)


def owned(read: Read) -> Owned | None:
    """Return the files of the image or field whose documents are read.

    None if they describe neither.
    """
    counts = functools.cache(functools.partial(_counts, read))
    if isinstance(_parsed(read("attributes.json")).get("n5"), str):
        return _OfDocuments(_N5, counts)
    arrays, groups = set[str](), set[str]()
    is_scene = _collect(read, "", arrays, groups, _DEPTH)
    arrays |= set(_series_arrays(read))
    if not arrays or "" in arrays:
        return None
    for place in _warped_labels(read):
        groups.add("labels")
        _collect(read, place, arrays, groups, 0)
    between = {above for path in (*arrays, *groups) for above in _above(path)} - groups
    # An image in a folder of its own is one, whoever else names its arrays.
    others = {path for path in between if _is_node(read, path)}
    arrays = {path for path in arrays if others.isdisjoint(_above(path))}
    groups |= between - others
    if not arrays:
        return None
    folders = "|".join(re.escape(path) for path in sorted(groups - arrays - {""}))
    places = "|".join(re.escape(path) for path in sorted(arrays))
    if is_scene:
        extra = "|".join(_extra_arrays(read))
        folders, places = f"{folders}|{_EXTRA}", f"{places}|{extra}"
    pattern = re.compile(
        rf"(?:(?:{folders})/)?(?:{_GROUP}|{_HALF})"
        rf"|(?P<array>{places})"
        rf"/(?:{_ARRAY}|(?P<chunk>{_CHUNK})|(?:[\d./c]*/)?{_HALF})"
    )
    return _OfDocuments(pattern, counts)


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
        # A folder of chunks may lack more than one part of their names.
        inside = ["", "zarr.json", *("/".join("0" * n) for n in range(1, _MOST_AXES))]
        return any(own.fullmatch(name + end) for end in inside)
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


def _is_node(read: Read, path: str) -> bool:
    """Return whether a group is an image, a plate, a well or the like by itself."""
    new, old = (_parsed(read(_join(path, n))) for n in ("zarr.json", ".zattrs"))
    attributes = new.get("attributes")
    own = attributes if isinstance(attributes, dict) else {}
    return not _OF_NODES.isdisjoint({*own, *old})


def _extra_arrays(read: Read) -> Iterator[str]:
    """Yield patterns of the arrays in the groups next to a field."""
    yield f"{_EXTRA}/{_DIAGNOSTIC}"
    for group in ("xdreg", "xdreg_inverse"):
        attributes = _parsed(read(f"{group}/zarr.json")).get("attributes")
        names = attributes.get(ARRAYS) if isinstance(attributes, dict) else None
        for name in names if isinstance(names, list) else ():
            yield from map(re.escape, _below(group, name))


def _series_arrays(read: Read) -> Iterator[str]:
    """Yield the paths of the arrays of a time series' field."""
    attributes = _parsed(read("zarr.json")).get("attributes")
    names = attributes.get(SERIES) if isinstance(attributes, dict) else None
    for name in names if isinstance(names, list) else ():
        yield from _below("xdreg", name)


def _warped_labels(read: Read) -> Iterator[str]:
    """Yield the paths of labels that xdreg has warped along with their image."""
    new, old = (_parsed(read(f"labels/{n}")) for n in ("zarr.json", ".zattrs"))
    attributes = new.get("attributes")
    for own in (attributes, old):
        names = own.get(WARPED) if isinstance(own, dict) else None
        for name in names if isinstance(names, list) else ():
            yield from _below("labels", name)


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
