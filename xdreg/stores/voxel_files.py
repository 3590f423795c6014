"""Image files that hold fewer voxels than they say, or say that voxels lie elsewhere.

ITK reads any file that a header of MetaImage or NRRD names. Where voxels are missing,
many of its readers return what happens to be in memory.
"""

from __future__ import annotations

import locale
import math
import os
import re
import struct
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from xdreg.errors import StoreError
from xdreg.stores.files import read_end
from xdreg.stores.named_files import check_names

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: How headers of MetaImage and NRRD name the files of their voxels.
_VOXELS = re.compile(
    rb"(?:^|[\r\n])[ \t]*(?:ElementDataFile|data ?file)[ \t]*[=:]([^\r\n]*)", re.I
)

#: A header of MetaImage with compressed voxels.
_COMPRESSED = re.compile(rb"(?:^|[\r\n])\s*CompressedData\s*=\s*(?:True|1)", re.I)

#: Most bytes of a header.
_MOST_HEADER = 2**20

#: Readers of ITK that do not notice a file that is too short, unless it is compressed.
_UNAWARE = ("NiftiImageIO", "GiplImageIO", "MRCImageIO", "VTKImageIO")

_GZIP = b"\x1f\x8b"

#: Size of the header of NIfTI 1 and 2, where it has the bits of a voxel and the place
#: of the first, and the type of that.
_NIFTI = {348: (72, 108, "f"), 540: (14, 168, "q")}

#: The last line before the voxels in a file of VTK.
_VTK = re.compile(rb"\n(?:LOOKUP_TABLE|(?:COLOR_SCALARS|VECTORS|TENSORS) )[^\n]*\n")


def check_voxels(path: Path) -> None:
    """Raise if an image file lacks voxels, or names files outside its folder."""
    text, names, pieces = _named(path)
    check_names(path, names, "its voxels")
    image = _described(path)
    kind = "" if image is None else image.GetNameOfClass()
    if kind == "MetaImageIO":
        shape = [image.GetDimensions(i) for i in range(image.GetNumberOfDimensions())]
        if pieces is not None and pieces >= len(shape):
            pieces = -1  # as by default
        if pieces is not None and len(names) < (most := math.prod(shape[pieces:])):
            msg = f"{path} names {len(names)} files for its voxels; expected {most}"
            raise StoreError(msg)
        if pieces is None and _COMPRESSED.search(text):
            within = not names
            voxels = path if within else path.parent / names[0]
            start = next(_VOXELS.finditer(text)).end() + 1 if within else 0
            _check_size(path, _unpacked(voxels, start), image.GetImageSizeInBytes())
    elif kind in _UNAWARE:
        voxels = path.with_suffix(".img") if path.suffix == ".hdr" else path
        if text.startswith(_GZIP):
            text = zlib.decompressobj(wbits=47).decompress(text, 1024)
            expected = _stored_size(image, kind, text)
            if _last_number(voxels) != expected % 2**32:
                _check_size(path, _unpacked(voxels, 0), expected)
        elif b"\nASCII" not in text[:1024]:
            _check_size(path, voxels.stat().st_size, _stored_size(image, kind, text))


def _last_number(path: Path) -> int:
    """Return the last number of a file: in a gzip stream, what it unpacks to."""
    return int.from_bytes(read_end(path, 4) or b"", "little")


def _check_size(path: Path, size: int, expected: int) -> None:
    if size < expected:
        msg = f"{path} is cut off: its voxels are {expected} bytes, and it has {size}"
        raise StoreError(msg)


def _named(path: Path) -> tuple[bytes, list[str], int | None]:
    """Return the start of a file, and the files it names for its voxels.

    No names mean that they follow. The number is of the axes of each of several files.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_HEADER)
    except OSError:  # ITK will say so
        return b"", [], None
    nrrd = text.startswith(b"NRRD")
    if not nrrd and path.suffix.lower() not in (".mhd", ".mha"):
        return text, [], None
    matches = list(_VOXELS.finditer(text))
    ended = re.search(rb"\r?\n\r?\n", text) if nrrd else matches
    if len(text) == _MOST_HEADER and not ended:
        msg = f"{path} has a header of over {_MOST_HEADER} bytes; it is not read"
        raise StoreError(msg)
    found: list[str] = []
    pieces = None
    for match in matches:
        value = os.fsdecode(match[1]).strip()
        listed = re.fullmatch(r"LIST(?:\s+(\d+))?", value, re.I)
        name, *numbers = value.split() or [""]
        if listed:
            found += os.fsdecode(text[match.end() :]).splitlines()
            pieces = int(listed[1] or -1)
        elif "%" in name and not nrrd:
            # A pattern such as slice%03d.raw, with the first and last number, and step.
            found += _by_pattern(path, name, numbers)
            pieces = -1
        elif value.upper() != "LOCAL":
            found.append(name if "%" in name else value)
    return text, [name.strip() for name in found if name.strip()], pieces


def _by_pattern(path: Path, name: str, numbers: list[str]) -> list[str]:
    try:
        first, last, step = map(int, numbers)
        if step > 0:
            return [name % n for n in range(first, last + 1, step)[:_MOST_HEADER]]
    except (TypeError, ValueError):
        pass
    # ITK divides by the step, and Python ends if it is missing.
    msg = f"{path} names {name!r}; expected the first and last number and a step after"
    raise StoreError(msg)


@contextmanager
def kept_locale() -> Iterator[None]:
    """Restore the process's locale, which ITK's reader of VTK leaves at ``C``."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        if locale.setlocale(locale.LC_ALL) != before:
            locale.setlocale(locale.LC_ALL, before)


@kept_locale()
def _described(path: Path) -> Any:
    """Return ITK's reader of a file, after the header; None if ITK has none."""
    import itk

    try:
        mode = itk.CommonEnums.IOFileMode_ReadMode
        reader = itk.ImageIOFactory.CreateImageIO(str(path), mode)
        if reader is not None:
            reader.SetFileName(str(path))
            reader.ReadImageInformation()
    except RuntimeError:  # itk.imread will say so
        return None
    return reader


def _stored_size(image: Any, kind: str, text: bytes) -> int:
    """Return the bytes of an image on disk, with the header before its voxels."""
    size = int(image.GetImageSizeInBytes())
    if kind == "NiftiImageIO":
        for order in "<>":
            places = _NIFTI.get(struct.unpack_from(f"{order}i", text)[0])
            if places is not None:
                # ITK says the type of values after they were scaled.
                bits = struct.unpack_from(f"{order}h", text, places[0])[0]
                start = struct.unpack_from(order + places[2], text, places[1])[0]
                return int(image.GetImageSizeInPixels() * bits // 8 + start)
    elif kind == "GiplImageIO":
        size += 256
    elif kind == "MRCImageIO":
        size += 1024 + min(struct.unpack_from(f"{o}I", text, 92)[0] for o in "<>")
    elif starts := [*_VTK.finditer(text)]:
        size += starts[-1].end()
    return size


def _unpacked(path: Path, start: int) -> int:
    """Return how many bytes a zlib or gzip stream in a file unpacks to."""
    unpack, size = zlib.decompressobj(wbits=47), 0
    with path.open("rb") as file:
        file.seek(start)
        while part := file.read(2**20):
            size += len(unpack.decompress(part))
            while unpack.unused_data.startswith(_GZIP):  # another stream follows
                part, unpack = unpack.unused_data, zlib.decompressobj(wbits=47)
                size += len(unpack.decompress(part))
    return size
