"""A series of DICOM slices in a folder, read by ITK, which checks little of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from xdreg.errors import InputError, StoreError, warn
from xdreg.stores.nodes import is_zarr_folder

#: Most difference between the steps of slices, as a share of one.
_UNEVEN = 1e-2

#: Most difference of direction and spacing within a series.
_SAME = 1e-4

#: Tags: position of a slice, and the start of pixels as stored.
_POSITION = "0020|0032"
_PIXELS = b"\xe0\x7f\x10\x00"


def read_series(folder: Path, series: Any) -> Any:
    """Read the one series of DICOM in a folder as an ``itk.Image``."""
    import itk

    if is_zarr_folder(folder):
        msg = f"{folder} is a Zarr store; open it with xdreg.open_ome_zarr"
        raise StoreError(msg)
    if (folder / "attributes.json").exists() or folder.suffix == ".n5":
        msg = (
            f"{folder} is N5; convert it to OME-Zarr, for example with Fiji: File › "
            "Save As › HDF5/N5/Zarr/OME-NGFF, and open that with xdreg.open_ome_zarr"
        )
        raise StoreError(msg)
    finder = itk.GDCMSeriesFileNames.New()
    finder.SetUseSeriesDetails(False)
    finder.SetDirectory(str(folder))
    found = list(finder.GetSeriesUIDs())
    if not found:
        msg = (
            f"{folder} is a directory without a series of DICOM; expected a file, or "
            "open it as OME-Zarr with xdreg.open_ome_zarr"
        )
        raise StoreError(msg)
    if series not in found and (series is not None or len(found) > 1):
        msg = f"{folder} has the series {found}; choose one of them"
        raise InputError(msg, series=found[0])
    names = list(finder.GetFileNames(series or found[0]))
    _check_left_out(folder, [n for one in found for n in finder.GetFileNames(one)])
    _check_slices(names)
    try:
        image = itk.imread(names)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        msg = f"ITK cannot read the series in {folder}. It says: {reason}"
        raise StoreError(msg) from error
    key = "ITK_non_uniform_sampling_deviation"
    metadata = image.GetMetaDataDictionary()
    deviation = float(metadata[key]) if metadata.HasKey(key) else 0.0
    if deviation > _UNEVEN * list(image.GetSpacing())[-1]:
        msg = (
            f"the slices in {folder} are not evenly spaced, by up to {deviation:g} "
            "mm: some are missing, or it is more than one volume; complete the series"
        )
        raise StoreError(msg)
    return image


def _check_slices(names: list[str]) -> None:
    """Raise if a slice has no position, or lies otherwise than the first."""
    import itk

    first = None
    for name in names:
        reader = itk.GDCMImageIO.New()
        reader.SetFileName(name)
        reader.ReadImageInformation()
        if not reader.GetMetaDataDictionary().HasKey(_POSITION):
            msg = f"{name} does not state its position, so its slice has no place"
            raise StoreError(msg)
        found = [
            *(reader.GetDimensions(i) for i in (0, 1)),
            *(reader.GetSpacing(i) for i in (0, 1)),
            *reader.GetDirection(0),
            *reader.GetDirection(1),
        ]
        first = found if first is None else first
        if not np.allclose(found, first, atol=_SAME):
            msg = (
                f"{name} has another size, spacing or direction than {names[0]}: they "
                "are not slices of one volume; remove it from the folder"
            )
            raise StoreError(msg)


def _check_left_out(folder: Path, known: list[str]) -> None:
    """Raise if a file with pixels is in no series, as one that is cut off."""
    taken = {Path(name).name for name in known}
    for path in sorted(folder.iterdir()):
        if path.name in (*taken, "DICOMDIR") or not path.is_file():
            continue
        with path.open("rb") as file:
            if file.read(132)[128:] != b"DICM":
                continue
            content = file.read()
        if _PIXELS in content:
            msg = f"{path} is cut off, or otherwise damaged; copy it anew"
            raise StoreError(msg)
        warn(f"{path} is DICOM without an image; it is left out")
