"""Real pairs with landmarks, downloaded from the repositories of their publishers.

Files come from a fixed commit. The repository names each by a hash of its content, the
git object id, which is checked. Images are then kept as OME-Zarr in a cache.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xdreg.errors import InputError, StoreError, warn
from xdreg.stores.ome_writer import write_ome_zarr
from xdreg.stores.ome_zarr import open_ome_zarr
from xdreg.stores.outputs import new_file
from xdreg.stores.progress import working

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

#: Where a file of a repository is downloaded from.
ADDRESS = "https://raw.githubusercontent.com/{repository}/{commit}/{path}"

#: Seconds without an answer after which a download is given up.
PATIENCE = 30

SIDES = ("fixed", "moving")


@dataclass(frozen=True)
class RealPair:
    """A real pair of images with corresponding points.

    Parameters
    ----------
    fixed, moving : DataTree ([c], [z], y, x)
        The images.
    fixed_points, moving_points : (n, ndim)
        Corresponding points, in dims order and physical units.
    fixed_mask, moving_mask : DataTree or None
        What counts of each image, where that was published.
    folder
        Where the images lie as OME-Zarr, and the points as CSV.
    source, licence
        Where the pair comes from, and under which licence.
    """

    fixed: xr.DataTree
    moving: xr.DataTree
    fixed_points: NDArray[np.float64]
    moving_points: NDArray[np.float64]
    fixed_mask: xr.DataTree | None
    moving_mask: xr.DataTree | None
    folder: Path
    source: str
    licence: str


@dataclass(frozen=True)
class Published:
    """Where a pair is published.

    ``files`` are path and git object id by the names of what a pair consists of.
    """

    title: str
    licence: str
    repository: str
    commit: str
    files: dict[str, tuple[str, str]]
    dims: tuple[str, ...]
    open_options: dict[str, Any]

    @property
    def images(self) -> list[str]:
        """Names of the images and masks."""
        return [name for name in self.files if not name.endswith("_landmarks")]

    def address(self, name: str) -> str:
        """Return the URL of a file."""
        path = self.files[name][0]
        return ADDRESS.format(repository=self.repository, commit=self.commit, path=path)

    @property
    def source(self) -> str:
        """The commit, for people."""
        return f"https://github.com/{self.repository}/tree/{self.commit}"


_LUNG, _KIDNEY = "examples/data/CT_3D_lung_", "data-images/rat-kidney_/scale-5pc/"
PAIRS = {
    "lung_ct": Published(
        "two CT scans of a lung, with 51 landmarks and lung masks",
        "Apache-2.0",
        "InsightSoftwareConsortium/ITKElastix",
        "a55098204de32d0ee50b4e19bb9912f0bd972690",
        {
            "fixed": (
                f"{_LUNG}fixed.mha", "689abc699fb782c18df92af921c83a4470032f27"
            ),
            "moving": (
                f"{_LUNG}moving.mha", "69a58c5e0bb900d344be12f2a05eb49f00acd832"
            ),
            "fixed_mask": (
                f"{_LUNG}fixed_mask.mha", "6af236b419035c0b2dd68bbf3927f84d86c27140"
            ),
            "moving_mask": (
                f"{_LUNG}moving_mask.mha", "43c80e68abd18dd719275ec9f3f21aebdad6d30f"
            ),
            "fixed_landmarks": (
                f"{_LUNG}fixed_point_set_corrected.txt",
                "cd93352d24b85bc1c120f6ae53bfc7fff03924a9",
            ),
            "moving_landmarks": (
                f"{_LUNG}moving_point_set_corrected.txt",
                "d20992204e0c52122c3e11f91082224a7b955ebe",
            ),
        },
        ("z", "y", "x"),
        {"units": "millimeter"},
    ),
    # The size of a pixel was not published.
    "histology_kidney": Published(
        "two sections of a rat kidney in two stains, with 69 landmarks; a pixel "
        "counts as a micrometre",
        "BSD-3-Clause",
        "Borda/BIRL",
        "f1648b293664e3bea50736280a19b846d60841f1",
        {
            "fixed": (
                f"{_KIDNEY}Rat-Kidney_HE.jpg",
                "212c66fceb1e5d4eb77f63e1f662b1025de5df5e",
            ),
            "moving": (
                f"{_KIDNEY}Rat-Kidney_PanCytokeratin.jpg",
                "f7a37d6826ea09873b2e3e2b8cc7af31d1aef5ee",
            ),
            "fixed_landmarks": (
                f"{_KIDNEY}Rat-Kidney_HE.csv",
                "b1cb202bb9bfa5132693f42cfa79df2871ff0cbb",
            ),
            "moving_landmarks": (
                f"{_KIDNEY}Rat-Kidney_PanCytokeratin.csv",
                "11e3356260a6d795d9ac2259ba2c0d1e1b29c3bb",
            ),
        },
        ("y", "x"),
        {"spacing": 1.0, "units": "micrometer"},
    ),
}  # fmt: skip


def fetch(name: str, folder: str | os.PathLike[str] | None = None) -> RealPair:
    """Open a real pair with landmarks; download it the first time.

    Source and licence are printed.

    Parameters
    ----------
    name
        ``"lung_ct"``, two CT scans of a lung, or ``"histology_kidney"``, two sections
        of a kidney in different stains.
    folder
        Folder to keep pairs in, each in a folder of its name. By default that of the
        environment variable ``XDREG_DATA``, else the user's cache folder.

    Returns
    -------
    RealPair

    Raises
    ------
    InputError
        If there is no such pair.
    StoreError
        If a file cannot be downloaded, differs from the published one, or cannot be
        written. The message says what to put where.
    ImportError
        If the pair is not there yet and pooch is missing.

    Examples
    --------
    >>> fetch("a_moon")
    Traceback (most recent call last):
    ...
    xdreg.errors.InputError: name must be 'lung_ct' or 'histology_kidney', got 'a_moon'
    """
    if name not in PAIRS:
        msg = f"name must be {' or '.join(map(repr, PAIRS))}, got {name!r}"
        raise InputError(msg)
    pair = PAIRS[name]
    target = _root(folder) / name
    missing = [part for part in pair.files if not _place(target, part).exists()]
    if missing:
        _bring(pair, missing, target)
    print(f"{name}: {pair.title}. Licence: {pair.licence}. From {pair.source}")
    images = {part: open_ome_zarr(_place(target, part)) for part in pair.images}
    fixed, moving = (_read_points(_place(target, f"{v}_landmarks")) for v in SIDES)
    return RealPair(
        images["fixed"],
        images["moving"],
        fixed,
        moving,
        images.get("fixed_mask"),
        images.get("moving_mask"),
        target,
        pair.source,
        pair.licence,
    )


def _root(folder: str | os.PathLike[str] | None) -> Path:
    chosen = folder or os.environ.get("XDREG_DATA")
    return Path(chosen) if chosen else Path(_pooch().os_cache("xdreg"))


def _pooch() -> Any:
    try:
        import pooch
    except ImportError as error:
        msg = "real pairs are downloaded with pooch: pip install 'xdreg[data]'"
        raise ImportError(msg) from error
    return pooch


def _place(target: Path, part: str) -> Path:
    """Return where a part of a pair is kept."""
    ending = ".csv" if part.endswith("_landmarks") else ".ome.zarr"
    return target / f"{part}{ending}"


def _bring(pair: Published, parts: list[str], target: Path) -> None:
    """Download what is missing of a pair, and write it as OME-Zarr and CSV."""
    downloads = target / "downloads"
    try:
        downloads.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{downloads} cannot be made: {error.strerror}; choose another folder"
        raise StoreError(msg) from error
    with working("downloading", enabled=True):
        files = {part: _download(pair, part, downloads) for part in parts}
    for part in pair.images:
        if part in files:
            image = _open_download(pair, part, files[part])
            write_ome_zarr(
                image,
                _place(target, part),
                name=f"{target.name} {part}".replace("_", " "),
                labels=part.endswith("_mask"),
            )
    landmarks = [f"{side}_landmarks" for side in SIDES]
    if any(part in files for part in landmarks):
        _write_points(pair, [_download(pair, v, downloads) for v in landmarks], target)


def _open_download(pair: Published, part: str, file: Path) -> xr.DataArray:
    from xdreg.stores.image_files import open_image

    image: Any = open_image(file, **pair.open_options)
    if part.endswith("_mask"):
        image = (image > 0).astype("uint8")
    return image  # type: ignore[no-any-return]


def _download(pair: Published, part: str, downloads: Path) -> Path:
    """Return a file of a pair, downloaded unless it is there; check its content."""
    pooch = _pooch()
    path, blob = pair.files[part]
    file = downloads / Path(path).name
    log = pooch.get_logger()
    level = log.level
    log.setLevel(logging.WARNING)  # it would ask for a hash of its own kind
    try:
        pooch.retrieve(
            pair.address(part),
            known_hash=None,
            fname=file.name,
            path=downloads,
            downloader=pooch.HTTPDownloader(timeout=PATIENCE),
        )
    except OSError as error:
        raise StoreError(_what_to_do(pair, downloads, error)) from error
    finally:
        log.setLevel(level)
    content = file.read_bytes()
    found = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if found != blob:
        try:
            file.unlink()
        except OSError as error:
            warn(f"{file} cannot be removed: {error.strerror}")
        msg = (
            f"{pair.address(part)} is not the file that was published: its git object "
            f"id is {found}, expected {blob}; fetch it again"
        )
        raise StoreError(msg)
    return file


def _what_to_do(pair: Published, downloads: Path, error: OSError) -> str:
    addresses = "\n".join(f"  {pair.address(part)}" for part in pair.files)
    return (
        f"{pair.repository} cannot be reached ({type(error).__name__}). Where there is "
        f"a network, download these files:\n{addresses}\nPut them into {downloads} and "
        "call again"
    )


def _write_points(pair: Published, files: list[Path], target: Path) -> None:
    """Write landmarks as CSV, row i of both for the same place."""
    tables = [_published_points(file) for file in files]
    count = min(len(table) for table in tables)
    for side, table in zip(SIDES, tables, strict=True):
        place = _place(target, f"{side}_landmarks")
        with (
            new_file(place, overwrite=True) as file,
            file.open("w", encoding="utf-8", newline="") as text,
        ):
            rows = csv.writer(text)
            rows.writerow(pair.dims)
            rows.writerows(table[:count, ::-1].tolist())


def _published_points(file: Path) -> NDArray[np.float64]:
    """Read the points of elastix' or BIRL's file, ``(n, ndim)`` with x first."""
    if file.suffix == ".csv":
        # A number, X and Y.
        return np.loadtxt(file, delimiter=",", skiprows=1, ndmin=2)[:, 1:]
    # The words "point" and how many there are.
    return np.loadtxt(file, skiprows=2, ndmin=2)


def _read_points(file: Path) -> NDArray[np.float64]:
    return np.loadtxt(file, delimiter=",", skiprows=1, ndmin=2)
