"""Images of other libraries: each written by the library, and placed as it says.

The same rows are a table of the documentation.
"""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import xdreg
from tests.helpers import readers, writers
from tests.helpers.interpreters import interpreter_with, run_script, version_of
from tests.helpers.writers import ORIGIN, SHAPE, SPACING, VALUES
from xdreg.coordinates import grid_of

PAGE = Path(__file__).parents[2] / "docs" / "other_writers.md"

#: Library, function of `tests.helpers.writers`, unit that is read, whether it stores an
#: origin, options of the opener.
SYSTEM = {"coordinate_system": "microns"}
WRITERS = [
    ("bioio-ome-tiff", "bioio_ome_tiff", "micrometer", False, {}),
    ("bioio-ome-zarr", "bioio_ome_zarr_04", "micrometer", False, {}),
    ("bioio-ome-zarr", "bioio_ome_zarr_05", "micrometer", False, {}),
    ("iohub==0.2", "iohub_fov_04", "micrometer", True, {}),
    ("iohub==0.2", "iohub_hcs_04", "micrometer", True, {}),
    ("iohub==0.3", "iohub_fov_05", "micrometer", True, {}),
    ("iohub==0.3", "iohub_hcs_05", "micrometer", True, {}),
    ("multiview-stitcher", "multiview_stitcher_zarr", "micrometer", True, {}),
    ("ngff-zarr", "ngff_zarr_04", "micrometer", True, {}),
    ("ngff-zarr", "ngff_zarr_05", "micrometer", True, {}),
    ("ngff-zarr", "ngff_zarr_06", "micrometer", True, {}),
    ("ngff-zarr", "ngff_zarr_zipped", "micrometer", True, {}),
    ("nibabel", "nibabel_nifti", "millimeter", True, {}),
    ("ome-zarr", "ome_zarr_py_04", "micrometer", True, {}),
    ("ome-zarr", "ome_zarr_py_05", "micrometer", True, {}),
    ("pydicom", "pydicom", "millimeter", True, {}),
    ("pynrrd", "pynrrd", "micrometer", True, {}),
    ("SimpleITK", "simpleitk_metaimage", "millimeter", True, {}),
    ("SimpleITK", "simpleitk_nifti", "millimeter", True, {}),
    ("SimpleITK", "simpleitk_nrrd", "millimeter", True, {}),
    ("spatialdata", "spatialdata_image", None, True, SYSTEM),
    ("spatialdata", "spatialdata_multiscale", None, True, SYSTEM),
    ("tifffile", "tifffile_imagej", "micrometer", False, {}),
    ("tifffile", "tifffile_ome", "micrometer", False, {}),
    (
        "tifffile",
        "tifffile_plain",
        "micrometer",
        False,
        {"spacing": SPACING, "units": "um"},
    ),
    ("webknossos", "webknossos_ome_zarr", "nanometer", True, {}),
]

#: Library, function of `tests.helpers.readers`, version of OME-Zarr, whether it has an
#: origin.
READERS = [
    ("bioio-ome-zarr", "bioio", "0.4", False),
    ("bioio-ome-zarr", "bioio", "0.5", False),
    ("iohub==0.2", "iohub", "0.4", True),
    ("iohub==0.3", "iohub", "0.5", True),
    ("multiview-stitcher", "multiview_stitcher", "0.4", True),
    ("multiview-stitcher", "multiview_stitcher", "0.5", True),
    ("ngff-zarr", "ngff_zarr", "0.4", True),
    ("ngff-zarr", "ngff_zarr", "0.5", True),
    ("ngff-zarr", "ngff_zarr", "0.6", True),
    ("ome-zarr", "ome_zarr_py", "0.4", True),
    ("ome-zarr", "ome_zarr_py", "0.5", True),
]


def rows_of(heading):
    """Return the cells of the rows of a table of the page."""
    text = PAGE.read_text(encoding="utf-8").partition(f"## {heading}")[2]
    table = text.partition("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def documented(heading, key):
    """Return the voxels of error that the page states for a row."""
    found = [row for row in rows_of(heading) if f"`{key}`" in row[0]]
    assert len(found) == 1, f"{PAGE.name} has {len(found)} rows of {key}"
    return float(re.search(r"[\d.e-]+", found[0][-1])[0])


@pytest.mark.parametrize(("library", "name", "units", "origin", "options"), WRITERS)
def test_what_a_library_writes(library, name, units, origin, options, tmp_path):
    stated = documented("Images in", name)
    python = interpreter_with(library)
    # In the process of the tests, where the library is there.
    if python == sys.executable:
        place = tmp_path / getattr(writers, name)(tmp_path)
    else:
        place = tmp_path / run_script(python, "writers", name, tmp_path)
    stored = any((place / n).exists() for n in ("zarr.json", ".zattrs"))
    zarr = stored or place.suffix == ".ozx"
    opener = xdreg.open_ome_zarr if zarr else xdreg.open_image
    image = xdreg.image_levels(opener(place, **options), "image")[0]
    grid = grid_of(image.isel({d: 0 for d in ("t", "c") if d in image.dims}))
    assert grid.units == units
    factor = 1000 if units == "nanometer" else 1
    start = np.multiply(ORIGIN if origin else (0, 0, 0), factor)
    spacing = np.multiply(SPACING, factor)
    # The first and the last voxel, by their values, and by their positions.
    for index in [(0, 0, 0), tuple(n - 1 for n in SHAPE)]:
        position = start + spacing * index
        point = dict(zip("zyx", position, strict=True))
        found = image.sel(point, method="nearest").squeeze()
        assert int(found) == VALUES[index]
        error = [abs(float(found[d]) - v) for d, v in point.items()] / spacing
        assert error.max() <= stated <= 0.02


@pytest.mark.parametrize(("library", "name", "version", "origin"), READERS)
def test_what_a_library_reads(library, name, version, origin, tmp_path):
    stated = documented("Results out", f"{name}_{version.replace('.', '')}")
    # multiview-stitcher fails at Zarr 3 of fewer axes, iohub 0.2 without channel names.
    image = xdreg.make_image(
        VALUES[None, None], SPACING, ORIGIN, "micrometer", dims="tczyx"
    )
    path = tmp_path / "image.ome.zarr"
    xdreg.save(image.assign_coords(c=["a"]), path, version=version)
    python = interpreter_with(library)
    if python == sys.executable:
        found = getattr(readers, name)(str(path))
    else:
        found = json.loads(run_script(python, "readers", name, path))
    start = np.array(ORIGIN if origin else (0, 0, 0))
    last = start + np.multiply(SPACING, np.subtract(SHAPE, 1))
    assert found["value"] == VALUES[-1, -1, -1]
    for position, true in ((found["first"], start), (found["last"], last)):
        error = np.abs(np.subtract(position, true)) / SPACING
        assert error.max() <= stated <= 0.02


def test_elements_of_spatialdata_in_memory():
    python = interpreter_with("spatialdata", "xdreg")
    stated = documented("Images in", "element in memory")
    assert float(run_script(python, "spatialdata_pair")) <= stated <= 0.02


def test_each_row_of_the_page_is_tested():
    tested = {name for _, name, *_ in WRITERS} | {"element in memory"}
    assert {row[0].split("`")[-2] for row in rows_of("Images in")} == tested
    read = {f"{name}_{version.replace('.', '')}" for _, name, version, _ in READERS}
    assert {row[0].split("`")[-2] for row in rows_of("Results out")} == read
    # What is installed next to xdreg is of the versions that the page names.
    for library in ("ngff-zarr", "tifffile"):
        assert version_of(interpreter_with(library), library)
