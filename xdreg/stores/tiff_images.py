"""TIFF images, read lazily by tifffile: sizes, axes, channels and units of their own.

=================  ===================================================================
kind               where sizes and units are
=================  ===================================================================
OME-TIFF           its OME-XML; several files are one image
ImageJ             the description, and resolution tags for y and x
slides of Aperio   the description
others             resolution tags, if they are in centimetres or inches
=================  ===================================================================

A TIFF has no origin: the centre of its first voxel is at 0. What a file does not say is
asked for.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import xarray as xr
from dask.base import tokenize

from xdreg.coordinates import coordinates
from xdreg.errors import InputError, StoreError
from xdreg.grid import (
    SPATIAL_DIMS,
    Grid,
    is_finite,
    normalise_units,
    positive_per_axis,
    unit_ratio,
)
from xdreg.stores.channels import with_channels
from xdreg.stores.named_files import check_names
from xdreg.stores.ome_zarr import lazy
from xdreg.stores.paths import local_path
from xdreg.stores.reordered import Reordered

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import tifffile
    import zarr
    from numpy.typing import NDArray

#: First bytes of TIFF and BigTIFF.
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

#: Most voxels of a chunk that is joined of smaller ones, such as rows of a page.
_CHUNK_VOXELS = 2**22

#: Resolutions in dots per inch that programs write without having measured any.
_SCREEN = (72.0, 96.0)

#: Images of a slide that are not the slide itself.
_EXTRA = re.compile("thumbnail|label|macro|overview", re.I)

#: Axes of tifffile that have a dim here.
_DIMS = {"T": "t", "C": "c", "S": "c", "Z": "z", "Y": "y", "X": "x"}


def is_tiff(path: Path) -> bool:
    """Return whether a file begins as TIFF files do."""
    with path.open("rb") as file:
        return file.read(4) in _MAGIC


@dataclass
class _Sizes:
    """What a file says: spacing by dim, unit of space, time step, channels."""

    spacing: dict[str, float] = field(default_factory=dict)
    units: str | None = None
    step: tuple[float, str | None] | None = None
    channels: list[dict[str, Any]] = field(default_factory=list)


def open_tiff(
    path: Path,
    *,
    spacing: float | Sequence[float] | None = None,
    units: str | None = None,
    axes: str | None = None,
    series: int | None = None,
) -> xr.DataTree | xr.DataArray:
    """Open a TIFF lazily; parameters and result as of `xdreg.open_image`."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            _check_companions(path, file)
            number = _chosen_series(path, file, series)
            image = file.series[number]
            _check_whole(path, file, number)
            dims = _dims_of(path, image, axes, spacing)
            sizes = _sizes_of(path, file, number)
            levels = [
                TiffLevel(str(path), number, i, *_layout_of(level), _stamp(path))
                for i, level in enumerate(image.levels)
            ]
            name = image.name or path.stem
    except (InputError, StoreError):
        raise
    # tifffile does not document what it raises.
    except Exception as error:
        msg = f"{path} cannot be read as TIFF: {type(error).__name__}: {error}"
        raise StoreError(msg) from error
    spatial = [d for d in SPATIAL_DIMS if d in dims]
    steps, unit = _given_or_stated(path, spatial, sizes, spacing, units)
    arrays = [_placed(level, levels[0], dims, steps, unit, sizes) for level in levels]
    for array in arrays:
        array.attrs |= {"name": name}
        if spacing is None and units is None and axes is None and series is None:
            array.attrs["source"] = str(path)
    if len(arrays) == 1:
        return arrays[0]
    nodes = {f"scale{i}": xr.Dataset({"image": a}) for i, a in enumerate(arrays)}
    return xr.DataTree.from_dict(nodes, name=name.replace("/", "-"))


@dataclass(frozen=True)
class TiffLevel:
    """The voxels of a level of a series, which pickle as the name of their file."""

    address: str
    series: int
    level: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]
    stamp: tuple[tuple[str, int, int], ...]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        try:
            return np.asarray(_opened(self)[index])
        except OSError:
            raise
        except Exception as error:
            # An OSError would be tried again, and what is damaged stays so.
            msg = f"{self.address} is damaged: {type(error).__name__}: {error}"
            raise ValueError(msg) from error

    def identity(self) -> dict[str, Any]:
        """Return names, sizes and times of the files as they are now."""
        stamps = [_stamp_of(local_path(file)) for file, *_ in self.stamp]
        return {"series": self.series, "level": self.level, "files": tokenize(stamps)}


@functools.lru_cache(maxsize=32)
def _opened(level: TiffLevel) -> zarr.Array[Any]:
    """Return a level as an array of Zarr. Its file stays open."""
    import tifffile
    import zarr

    file = tifffile.TiffFile(level.address)
    store = file.series[level.series].aszarr(level=level.level)
    array = zarr.open_array(store, mode="r")
    if array.shape != level.shape or array.dtype != level.dtype:
        msg = f"{level.address} has changed since it was opened; open it again"
        raise StoreError(msg)
    return array


def _layout_of(
    level: tifffile.TiffPageSeries,
) -> tuple[tuple[int, ...], np.dtype[Any], tuple[int, ...]]:
    """Return shape, dtype and chunks of a level; small chunks are joined."""
    import zarr

    array = zarr.open_array(level.aszarr(level=0), mode="r")
    chunks = list(array.chunks)
    for axis in range(array.ndim)[::-1]:
        room = max(_CHUNK_VOXELS // math.prod(chunks), 1)
        most = -(-array.shape[axis] // chunks[axis])
        chunks[axis] *= min(room, most)
    return array.shape, array.dtype, tuple(chunks)


def _stamp(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Return name, size and time of all files of an image."""
    files = [path, *(path.parent / name for name in _companions(path))]
    return tuple(_stamp_of(file) for file in sorted(set(files)))


def _stamp_of(file: Path) -> tuple[str, int, int]:
    try:
        found = file.stat()
    except FileNotFoundError as error:
        msg = f"{file} is gone; make sure that its disk is mounted, and try again"
        raise StoreError(msg) from error
    return str(file), found.st_size, found.st_mtime_ns


def _ome_root(file: tifffile.TiffFile) -> Any:
    """Return the root of the OME-XML; None if there is none that can be read."""
    text = file.ome_metadata
    try:
        return None if text is None else ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return None


def _companions(path: Path) -> list[str]:
    """Return the names of further files that an OME-TIFF names for its planes."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        root = _ome_root(file)
    found = [] if root is None else root.iterfind(".//{*}TiffData/{*}UUID")
    return sorted({v.get("FileName") for v in found if v.get("FileName")})


def _check_companions(path: Path, file: tifffile.TiffFile) -> None:
    """Raise if the OME-XML is damaged, in another file, or names missing files."""
    if file.ome_metadata is None:
        return
    root = _ome_root(file)
    if root is None:
        msg = f"{path} has OME-XML that is no XML; correct it, or write the image anew"
        raise StoreError(msg)
    binary = root.find("{*}BinaryOnly")
    if binary is not None:
        master = str(binary.get("MetadataFile"))
        msg = f"{path} is a part of an image of several files; open {master!r}"
        raise StoreError(msg)
    names = _companions(path)
    check_names(path, names, "its planes")
    missing = [n for n in names if not (path.parent / n).is_file()]
    # A file on its own may have been renamed.
    if missing and len(names) > 1:
        msg = f"{path} names {missing[0]!r} for its planes, which is missing"
        raise StoreError(msg)


def _chosen_series(path: Path, file: tifffile.TiffFile, given: int | None) -> int:
    """Return the number of the image to open, if the file has several."""
    found = file.series
    if not found:
        msg = f"{path} holds no image"
        raise StoreError(msg)
    if file.ome_metadata is not None and found[0].kind != "ome":
        msg = (
            f"{path} has OME-XML that does not fit its pages; correct it, or write the "
            "image anew"
        )
        raise StoreError(msg)
    if given is not None:
        if isinstance(given, bool) or given not in range(len(found)):
            msg = f"{path} has images 0 to {len(found) - 1}, not {given!r}"
            raise InputError(msg, series=0)
        return int(given)
    main = [i for i, s in enumerate(found) if not (i and _EXTRA.search(s.name or ""))]
    if len(main) > 1:
        names = [f"{i}: {found[i].name or found[i].shape}" for i in main]
        msg = f"{path} holds {len(main)} images, {names}; choose one"
        raise InputError(msg, series=0)
    return main[0]


def _check_whole(path: Path, file: tifffile.TiffFile, number: int) -> None:
    """Raise if planes of a series are missing, or cut off."""
    image = file.series[number]
    # tifffile stops at a page that lies beyond the end, or was there before.
    place, handle = file.pages.next_page_offset, file.filehandle
    following = bytes(file.tiff.offsetsize)
    if place is not None:
        handle.seek(place)
        following = handle.read(file.tiff.offsetsize)
    if len(following) < file.tiff.offsetsize or any(following):
        msg = f"{path} is damaged: its list of pages has no end; copy it anew"
        raise StoreError(msg)
    for level in image.levels:
        for page in level.pages:
            if page is None:
                msg = f"{path} lacks planes that its metadata names; copy it anew"
                raise StoreError(msg)
            size = page.parent.filehandle.size
            parts = zip(page.dataoffsets, page.databytecounts, strict=False)
            if any(offset + count > size for offset, count in parts):
                msg = (
                    f"{page.parent.filehandle.name or path} is cut off: it has {size} "
                    "bytes and names more; copy it anew"
                )
                raise StoreError(msg)
        first = level.pages[0]
        if level.dataoffset is not None and first and len(level.pages) == 1:
            size = first.parent.filehandle.size
            if level.dataoffset + level.nbytes > size:
                msg = f"{path} is cut off: it has {size} bytes; copy it anew"
                raise StoreError(msg)
    alone = image.kind == "ome" and len(file.series) == 1
    if alone and len(_companions(path)) < 2 and len(file.pages) > len(image.pages):
        msg = (
            f"{path} has {len(file.pages)} pages, and its OME-XML describes "
            f"{len(image.pages)}; correct it"
        )
        raise StoreError(msg)


def _dims_of(path: Path, image: Any, axes: str | None, spacing: Any) -> tuple[str, ...]:
    """Return the dims of the axes of a series."""
    found, shape = image.axes, image.shape
    if axes is not None:
        dims = tuple(axes) if isinstance(axes, str) else ()
        known = set(dims) <= set(_DIMS.values()) and len(set(dims)) == len(dims)
        if len(dims) != len(shape) or not known:
            msg = (
                f"axes must name the {len(shape)} axes of {path}, of shape {shape}, "
                f"out of t, c, z, y and x; got {axes!r}"
            )
            raise InputError(msg, axes="tczyx"[-len(shape) :])
        return dims
    unknown = [axis for axis in found if axis not in _DIMS]
    dims = tuple(_DIMS.get(axis, "?") for axis in found)
    if len(unknown) == 1 and "z" not in dims and np.size(spacing) == 3:
        return tuple("z" if dim == "?" else dim for dim in dims)
    if unknown or len(set(dims)) < len(dims):
        msg = (
            f"{path} has the axes {found} of shape {shape}, and does not say which of "
            "them are z, channels or times; name each"
        )
        guess = "".join(dims).lower().replace("?", "z")
        raise InputError(msg, axes=guess if len(set(guess)) == len(guess) else ...)
    return dims


def _given_or_stated(
    path: Path, spatial: Sequence[str], sizes: _Sizes, spacing: Any, units: str | None
) -> tuple[dict[str, float], str | None]:
    """Return spacing and unit: those that the user gave, else those of the file."""
    unit = sizes.units if units is None else normalise_units(units)
    if spacing is not None:
        values = positive_per_axis(spacing, len(spatial), "spacing")
        return dict(zip(spatial, values, strict=True)), unit
    missing = [dim for dim in spatial if dim not in sizes.spacing]
    remedy: dict[str, Any] = {}
    if missing:
        remedy["spacing"] = ...
    if unit is None:
        remedy["units"] = "micrometer"
    if remedy:
        known = {d: f"{v:g} {sizes.units}" for d, v in sizes.spacing.items()}
        what = f"the size of its voxels along {', '.join(missing)}" if missing else ""
        msg = (
            f"{path} does not state {what or 'a unit of length'}"
            f"{f'; it has {known}' if known else ''}; give {' and '.join(remedy)}"
        )
        raise InputError(msg, **remedy)
    return {dim: sizes.spacing[dim] for dim in spatial}, unit


def _placed(
    level: TiffLevel,
    finest: TiffLevel,
    dims: tuple[str, ...],
    spacing: dict[str, float],
    units: str | None,
    sizes: _Sizes,
) -> xr.DataArray:
    """Return a level with coordinates. All levels span the same region."""
    spatial = tuple(d for d in SPATIAL_DIMS if d in dims)
    target = (*(d for d in ("t", "c") if d in dims), *spatial)
    order = [dims.index(d) for d in target]
    ratio = {d: finest.shape[i] / level.shape[i] for i, d in enumerate(dims)}
    # Writers halve, dropping a remainder.
    ratio = {d: round(r) if r >= 1.5 else r for d, r in ratio.items()}
    grid = Grid(
        spatial,
        tuple(level.shape[dims.index(d)] for d in spatial),
        tuple(spacing[d] * ratio[d] for d in spatial),
        tuple(spacing[d] * (ratio[d] - 1) / 2 for d in spatial),
        units,
    )
    source: Any = level
    if order != sorted(order):
        source = Reordered(level, order, [False] * len(order))
    array = xr.DataArray(
        lazy(source), dims=target, coords=coordinates(grid), name="image"
    )
    if "t" in dims and sizes.step is not None:
        step, unit = sizes.step
        array = array.assign_coords(t=step * np.arange(array.sizes["t"]))
        array["t"].attrs |= {} if unit is None else {"units": unit}
    return with_channels(array, sizes.channels)


def _sizes_of(path: Path, file: tifffile.TiffFile, number: int) -> _Sizes:
    """Return what a file says of a series."""
    image = file.series[number]
    if image.kind == "ome":
        return _of_ome(path, file, number)
    described = file.imagej_metadata or {}
    if not described and file.shaped_metadata and number < len(file.shaped_metadata):
        described = file.shaped_metadata[number]
    page = image.keyframe
    if image.kind == "svs":
        found = re.search(r"MPP ?= ?([\d.]+)", page.description)
        if found is not None:
            step = float(found[1])
            return _Sizes({"y": step, "x": step}, "micrometer")
    return _of_tags(page, described)


def _of_tags(page: Any, described: Any) -> _Sizes:
    """Return the sizes of resolution tags, and of a description by ImageJ."""
    sizes = _Sizes()
    name = str(described.get("unit", "")).encode().decode("unicode_escape", "replace")
    named = {"x": "XResolution", "y": "YResolution"}
    tags = {d: page.tags[tag].value for d, tag in named.items() if tag in page.tags}
    density = {d: v[0] / v[1] for d, v in tags.items() if v[0] > 0 and v[1] > 0}
    stated = page.tags.get("ResolutionUnit")
    kind = 2 if stated is None else int(stated.value)  # as TIFF 6.0 has it
    length = {2: "inch", 3: "centimeter"}.get(kind)
    if name and name.lower() not in ("pixel", "pixels"):
        sizes.units = normalise_units(name)
        sizes.spacing = {d: 1 / v for d, v in density.items()}
    elif length is not None and not (
        kind == 2 and set(density.values()) <= set(_SCREEN)
    ):
        factor = unit_ratio(length, "micrometer")
        sizes.units = "micrometer"
        sizes.spacing = {d: factor / v for d, v in density.items()}
    depth = described.get("spacing")
    if is_finite(depth) and depth > 0 and sizes.units and name:
        sizes.spacing["z"] = float(depth)
    interval = described.get("finterval")
    if is_finite(interval) and interval > 0:
        sizes.step = float(interval), str(described.get("tunit", "second"))
    return sizes


def _of_ome(path: Path, file: tifffile.TiffFile, number: int) -> _Sizes:
    """Return the sizes of OME-XML."""
    images = _ome_root(file).findall("{*}Image")
    series = file.series[number]
    if len(images) != len(file.series):
        images = [image for image in images if image.get("Name") == series.name]
        number = 0
    pixels = images[number].find("{*}Pixels") if len(images) > number else None
    if pixels is None:
        msg = f"{path} has OME-XML without the image {series.name!r}; correct it"
        raise StoreError(msg)
    sizes = _Sizes()
    for dim in "zyx":
        value = pixels.get(f"PhysicalSize{dim.upper()}")
        unit = normalise_units(pixels.get(f"PhysicalSize{dim.upper()}Unit", "µm"))
        if value is None or unit in ("pixel", "reference frame"):
            continue
        if not _is_positive(value):
            msg = (
                f"{path} has OME-XML with PhysicalSize{dim.upper()}={value!r}; "
                "expected a number above zero. Correct it"
            )
            raise StoreError(msg)
        # All in the unit of the last axis, and this one if it has none.
        sizes.spacing[dim] = float(value)
        for other in sizes.spacing if sizes.units not in (None, unit) else ():
            if other != dim:
                sizes.spacing[other] *= unit_ratio(sizes.units, unit, str(path))
        sizes.units = unit
    step = pixels.get("TimeIncrement")
    if step is not None and _is_positive(step):
        sizes.step = float(step), pixels.get("TimeIncrementUnit", "s")
    sizes.channels = [
        {"label": c.get("Name")} | _colour(c.get("Color"))
        for c in pixels.findall("{*}Channel")
    ]
    return sizes


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


def _colour(text: str | None) -> dict[str, str]:
    """Return a colour of OME-XML, a signed number RGBA, as OME-Zarr has it."""
    try:
        value = int(text or "") & 0xFFFFFFFF
    except ValueError:
        return {}
    return {"color": f"{value >> 8:06X}"}
