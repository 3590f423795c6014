"""Image files of any format: each opened by the library made for it."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from xdreg.coordinates import coordinates, grid_of
from xdreg.errors import InputError, StoreError, warn
from xdreg.grid import (
    SPATIAL_DIMS,
    UNIT_METRES,
    Grid,
    normalise_units,
    positive_per_axis,
)
from xdreg.stores.dicom_series import read_series
from xdreg.stores.itk_images import from_itk_image, read_image
from xdreg.stores.orientation import CONVENTION
from xdreg.stores.paths import as_address, is_remote, local_path
from xdreg.stores.tiff_images import is_tiff, open_tiff

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import xarray as xr

#: Formats of microscopes that bioio reads, and the package that does.
_BIOIO = {
    ".czi": "bioio-czi", ".nd2": "bioio-nd2", ".lif": "bioio-lif",
    ".lsm": "bioio-tifffile", ".oib": "bioio-bioformats", ".oif": "bioio-bioformats",
    ".vsi": "bioio-bioformats", ".ims": "bioio-bioformats",
}  # fmt: skip

#: Formats of pictures, which have no size of a voxel.
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")

#: How headers of MetaImage and NRRD state a unit of length.
_NRRD_UNITS = rb"^(?:space )?units: *((?:\"[^\"]*\" *)+)"
_UNITS = {
    ".nrrd": _NRRD_UNITS,
    ".nhdr": _NRRD_UNITS,
    ".mha": rb"^(?:DistanceUnits *=|Comment *=.*?units? *[:=]?) *([^\s;,]+)",
    ".mhd": rb"^(?:DistanceUnits *=|Comment *=.*?units? *[:=]?) *([^\s;,]+)",
}

#: Most bytes of a header.
_MOST_HEADER = 2**16


def open_image(
    path: str | os.PathLike[str],
    *,
    spacing: float | Sequence[float] | None = None,
    units: str | None = None,
    axes: str | None = None,
    series: int | str | None = None,
) -> xr.DataArray | xr.DataTree:
    """Open an image file: TIFF, NRRD, MetaImage, NIfTI, DICOM and what else ITK reads.

    TIFF is opened lazily; other files are read whole. What a file does not state is
    asked for.

    Parameters
    ----------
    path
        The file, or a folder with one series of DICOM.
    spacing
        Size of a voxel along ``[z], y, x``, in place of what the file states.
    units
        Unit of length, in place of what the file states. By default millimetres for a
        format that has no place for a unit, as ITK takes it.
    axes
        A letter of ``tczyx`` for each axis of a TIFF, if it does not state them.
    series
        Which image of a TIFF, by number, or which series of a DICOM folder, by its
        identifier, if there are several.

    Returns
    -------
    DataArray or DataTree
        ``([t], [c], [z], y, x)``; of a TIFF with a pyramid a tree, as of
        `open_ome_zarr`. TIFF has no origin: the first voxel's centre is at 0.

    Raises
    ------
    StoreError
        If the file does not exist, is damaged, or cannot be read.
    InputError
        If something must be given.
    """
    address = as_address(path)
    place = local_path(address)
    given = spacing is not None or units is not None or series is not None
    if not is_remote(address) and place.is_file() and is_tiff(place):
        number: Any = series
        return open_tiff(place, spacing=spacing, units=units, axes=axes, series=number)
    if axes is not None or (series is not None and not place.is_dir()):
        msg = f"{address} states its axes and has one image; leave out axes and series"
        raise InputError(msg)
    if place.suffix.lower() in _BIOIO:
        result = _with_bioio(place)
    else:
        folder = place.is_dir() and not is_remote(address)
        image = read_series(place, series) if folder else read_image(path)
        if place.suffix.lower() in _PICTURES and spacing is None:
            msg = f"{address} is a picture, which has no size of a voxel; give it"
            raise InputError(msg, spacing=..., units="micrometer")
        result = _with_stated_units(from_itk_image(image), image, place, units)
        if spacing is None and _is_dicom(image) and result.sizes.get("z") == 1:
            result = _one_slice(result, image, address)
        if _is_dicom(image) or folder or ".nii" in place.suffixes:
            result.attrs["orientation"] = CONVENTION
    if spacing is not None:
        grid = grid_of(result)
        steps = positive_per_axis(spacing, grid.ndim, "spacing")
        result = result.assign_coords(coordinates(replace(grid, spacing=steps)))
    if not given:
        result.attrs["source"] = address
    return result


def _with_stated_units(
    array: xr.DataArray, image: Any, place: Path, units: str | None
) -> xr.DataArray:
    """Return an image that ITK read in the unit that is given, or that it states."""
    pattern = _UNITS.get(place.suffix.lower())
    if units is None and pattern is not None:
        with place.open("rb") as file:
            text = file.read(_MOST_HEADER)
        header = re.split(rb"\r?\n\r?\n|ElementDataFile", text)[0]
        units = _one_unit(re.findall(pattern, header, re.I | re.M), place)
    if units is None:
        return array
    if not isinstance(units, str):
        normalise_units(units)  # raises
    grid, unit = grid_of(array), normalise_units(units)
    metadata = image.GetMetaDataDictionary()
    # ITK has converted what a NIfTI states to millimetres.
    if metadata.HasKey("xyzt_units") and int(metadata["xyzt_units"]) & 7:
        return array.assign_coords(coordinates(grid.to_units(unit, str(place))))
    return array.assign_coords(coordinates(replace(grid, units=unit)))


def _one_unit(found: list[bytes], place: Path) -> str | None:
    """Return the unit of a header's entries, None if it states none."""
    texts = [t for entry in found for t in entry.decode("latin-1").split('"')]
    names: set[Any] = {normalise_units(t.strip()) for t in texts if t.strip()}
    known = {name for name in names if name is not None and name in UNIT_METRES}
    names -= {None, "none", "???", *known}
    # Of MetaImage it is a comment, which may say anything.
    if names and not known and place.suffix.lower() in (".nrrd", ".nhdr"):
        msg = (
            f"{place} states the units {sorted(names)}, none of them known as a "
            "length; give the one it means"
        )
        raise InputError(msg, units="micrometer")
    if len(known) > 1:
        msg = f"{place} states different units of length, {sorted(known)}; give one"
        raise InputError(msg, units=sorted(known)[0])
    return known.pop() if known else None


def _is_dicom(image: Any) -> bool:
    return bool(image.GetMetaDataDictionary().HasKey("0008|0016"))


def _one_slice(array: xr.DataArray, image: Any, address: str) -> xr.DataArray:
    """Return a slice of DICOM with its own thickness, for which ITK has 1."""
    metadata = image.GetMetaDataDictionary()
    text = metadata["0018|0050"] if metadata.HasKey("0018|0050") else ""
    try:
        thickness = float(text)
    except ValueError:
        thickness = 0.0
    if not thickness > 0:
        msg = (
            f"{address} is one slice of DICOM, which does not state its thickness; "
            "open the folder of its series, or give the size of a voxel"
        )
        raise InputError(msg, spacing=...)
    warn(f"{address} is one slice of DICOM; open the folder of its series for a volume")
    grid = grid_of(array)
    steps = (thickness, *grid.spacing[1:])
    return array.assign_coords(coordinates(replace(grid, spacing=steps)))


def _with_bioio(place: Path) -> xr.DataArray:
    """Open a file of a microscope by bioio, lazily."""
    if not place.is_file():
        msg = f"{place} does not exist; check the path"
        raise StoreError(msg)
    reader = _BIOIO[place.suffix.lower()]
    if not importlib.util.find_spec("bioio"):
        msg = (
            f"{place} needs bioio: pip install bioio {reader}; or convert it to "
            "OME-Zarr: bioformats2raw INPUT OUTPUT.zarr"
        )
        raise StoreError(msg)
    import bioio

    try:
        image = bioio.BioImage(place)
        data, sizes = image.xarray_dask_data, image.physical_pixel_sizes
    # Its readers are plug-ins, which do not document what they raise.
    except Exception as error:
        msg = f"bioio cannot open {place}: {error}; pip install {reader}"
        raise StoreError(msg) from error
    data = data.rename({d: d.lower() for d in data.dims})
    data = data.squeeze([d for d in data.dims if data.sizes[d] == 1 and d in "tcz"])
    spatial = tuple(d for d in SPATIAL_DIMS if d in data.dims)
    spacing = tuple(getattr(sizes, d.upper()) for d in spatial)
    if None in spacing:
        msg = f"{place} does not state the size of its voxels; it has {sizes}"
        raise StoreError(msg)
    shape = tuple(data.sizes[d] for d in spatial)
    grid = Grid(spatial, shape, spacing, (0.0,) * len(shape), "micrometer")
    names = {"c": data["c"]} if "c" in data.coords else {}
    plain = data.reset_coords(drop=True).drop_vars([*data.indexes], errors="ignore")
    result: xr.DataArray = plain.assign_coords(names).assign_coords(coordinates(grid))
    return result
