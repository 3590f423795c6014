"""Transform files, in the format that their suffix names.

| suffix | content | read, write |
|---|---|---|
| ``.ome.zarr``, ``.zarr`` | OME-Zarr 0.6 | both, in chunks |
| ``.n5`` | BigWarp's ``dfield`` and ``invdfield`` | both, in chunks |
| ``.h5``, ``.hdf5``, ``.tfm`` | ITK transforms: 3D Slicer, SimpleITK, ANTs | both |
| ``.mat``, ``.txt`` | ITK or ANTs linear transforms | read |
| ``.nii``, ``.nii.gz`` | ANTs warps, NIfTI | both |
| ``.nrrd``, ``.mha`` | displacement images: ITK, 3D Slicer, SimpleITK | both |
| ``.txt`` | elastix transform parameters | both |
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from xdreg.bridges import bigwarp, elastix_files, transform_files, vector_images
from xdreg.bridges.prepare import for_tool
from xdreg.errors import InputError, StoreError
from xdreg.fields.composition import compose
from xdreg.fields.field import field_grid, fixed_grid
from xdreg.fields.store import open_field, save_field
from xdreg.grid import normalise_units
from xdreg.stores.apart import check_apart
from xdreg.stores.named_files import why_not_a_file
from xdreg.stores.outputs import check_file
from xdreg.stores.paths import as_address, is_remote, local_path

if TYPE_CHECKING:
    import os

#: Formats by suffix, the longer first where one ends in another.
KINDS = {
    **dict.fromkeys((".ome.zarr", ".zarr"), "ome_zarr"),
    **dict.fromkeys((".n5",), "n5"),
    **dict.fromkeys((".h5", ".hdf5", ".tfm", ".mat"), "itk"),
    **dict.fromkeys((".nii.gz", ".nii", ".nrrd", ".mha", ".nhdr", ".mhd"), "image"),
    **dict.fromkeys((".txt",), "text"),
}

_READ_ONLY = (".mat", ".nhdr", ".mhd")


def write_transform(
    field: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    inverse: xr.Dataset | None = None,
    affine: bool = False,
    step: int = 1,
    dense: bool = False,
    units: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write a field as a file of another tool, in the format of its suffix.

    ``.ome.zarr``, ``.n5`` (BigWarp), ``.h5`` and ``.tfm`` (ITK, 3D Slicer, SimpleITK,
    ANTs), ``.nii.gz`` and ``.nii`` (ANTs), ``.nrrd`` and ``.mha`` (ITK's displacement
    images), ``.txt`` (transformix, with the vectors next to it as ``.mha``).

    Parameters
    ----------
    field : Dataset
        A displacement field.
    path
        File or directory to write. It appears complete or not at all.
    inverse : Dataset, optional
        The field moving → fixed, for ``.ome.zarr`` and ``.n5``, which hold both.
    affine
        Write the affine part of the field separately, for ``.ome.zarr``, ``.n5``,
        ``.h5`` and ``.tfm``. Tools then apply it beyond the field's grid, too.
    step
        Take every ``step``-th point of the field. All formats but ``.ome.zarr`` and
        ``.n5`` are written from memory.
    dense
        Write the field at every voxel of the fixed image, for tools that interpolate it
        otherwise than linearly.
    units
        Unit to write lengths in. By default millimetres for ITK's formats, if the field
        has a unit, and the field's own for ``.ome.zarr`` and ``.n5``.
    overwrite
        Replace an existing output.

    Raises
    ------
    InputError
        If the suffix is unknown, the format cannot hold an inverse or an affine part,
        units do not convert, or the field does not fit into memory.
    StoreError
        If the output exists and ``overwrite`` is false, or it cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from xdreg.fields.displacement import make_field
    >>> from xdreg.grid import Grid
    >>> grid = Grid(("y", "x"), (4, 5), (20.0, 10.0), (0.0, 0.0), "micrometer")
    >>> field = make_field(np.full((2, 4, 5), 5.0, np.float32), grid)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_transform(field, f"{folder}/warp.nii.gz")
    ...     back = open_transform(f"{folder}/warp.nii.gz", like=field).load()
    >>> round(float(back.displacement.mean()), 4), back.displacement.units
    (5.0, 'micrometer')
    """
    address, kind, suffix = _kind_of(path)
    field_grid(field)
    if dense:
        fine = compose(field, like=fixed_grid(field))
        field = fine.assign_attrs({**field.attrs, **fine.attrs})
    _check_options(kind, suffix, inverse=inverse, affine=affine)
    if inverse is not None and field_grid(inverse).dims != field_grid(field).dims:
        msg = f"the inverse has the dimensions {field_grid(inverse).dims}"
        raise InputError(msg)
    if kind == "ome_zarr":
        save_field(
            for_tool(field, units, None, step),
            address,
            inverse=None if inverse is None else for_tool(inverse, units, None, step),
            affine=affine,
            overwrite=overwrite,
        )
        return
    target = _local(address)
    check_apart(target, field, inverse)
    options: dict[str, Any] = {"step": step, "units": units, "overwrite": overwrite}
    if kind == "n5":
        bigwarp.write(field, target, inverse=inverse, affine=affine, **options)
        return
    check_file(target, overwrite=overwrite)
    if kind == "itk":
        transform_files.write(field, target, affine=affine, **options)
    elif kind == "image":
        vector_images.write(field, target, **options)
    else:
        elastix_files.write(field, target, **options)


def open_transform(
    path: str | os.PathLike[str],
    *,
    like: Any = None,
    units: str | None = None,
    inverse: bool = False,
) -> xr.Dataset:
    """Open a transform of another tool as a field.

    Formats are those of `write_transform`, ``.mat`` and ``.txt`` of ITK and ANTs,
    ``.nhdr`` and ``.mhd``. A ``.txt`` of elastix is recognised by its content.

    Parameters
    ----------
    path
        File or directory.
    like : Dataset, DataArray, DataTree or Grid, optional
        The fixed image or a field, on whose grid and in whose unit the transform is
        sampled. By default the grid in the file; linear transforms and B-splines of ITK
        have none and need ``like``.
    units
        Unit of lengths in the file. By default millimetres for ITK's formats, and for
        ``.n5`` the unit in the store, if any. OME-Zarr always states its unit.
    inverse
        Return the transform moving → fixed, of a file that holds both.

    Returns
    -------
    Dataset
        A displacement field. Lazy, except for files that ITK reads as a whole.

    Raises
    ------
    StoreError
        If the file is missing, of another format, or damaged.
    InputError
        If ``like`` is needed, units do not convert, or the kind of transform is not
        supported.
    """
    address, kind, _ = _kind_of(path)
    units = normalise_units(units)
    if inverse and kind not in ("ome_zarr", "n5"):
        msg = (
            f"{address} holds one transform; only .ome.zarr and .n5 hold an inverse, "
            "too. Invert it: xdreg.inverse(field, moving)"
        )
        raise InputError(msg)
    if kind == "ome_zarr":
        if units is not None:
            msg = f"{address} states its unit; leave out units {units!r}"
            raise InputError(msg)
        return open_field(address, inverse=inverse, like=like)
    target = _local(address)
    if not target.exists():
        msg = f"{address} does not exist; check the path"
        raise StoreError(msg)
    why = why_not_a_file(str(target))
    if why is not None:
        msg = f"{address} is {why}; expected a file"
        raise StoreError(msg)
    if kind == "n5":
        return bigwarp.read(target, like=like, units=units, inverse=inverse)
    if kind == "image":
        return vector_images.read(target, like=like, units=units)
    if kind == "itk" or not elastix_files.is_elastix(target):
        return transform_files.read(target, like=like, units=units)
    return elastix_files.read(target, like=like, units=units)


def _kind_of(path: object) -> tuple[str, str, str]:
    """Return the address, the format and the suffix of a path."""
    address = as_address(path).rstrip("/")
    for suffix, kind in KINDS.items():
        if address.lower().endswith(suffix):
            return address, kind, suffix
    known = ", ".join(KINDS)
    msg = f"{address} has no suffix of a transform file; expected one of {known}"
    raise InputError(msg)


def _check_options(
    kind: str, suffix: str, *, inverse: xr.Dataset | None, affine: bool
) -> None:
    if suffix in _READ_ONLY:
        instead = ".tfm" if suffix == ".mat" else ".nrrd or .mha"
        msg = f"{suffix} files are read, not written; write {instead}"
        raise InputError(msg)
    if inverse is not None and kind not in ("ome_zarr", "n5"):
        msg = f"a {suffix} file holds one transform; write the inverse to another"
        raise InputError(msg)
    if affine and kind not in ("ome_zarr", "n5", "itk"):
        msg = (
            f"a {suffix} file holds displacements only; leave affine out, or write .h5"
        )
        raise InputError(msg)


def _local(address: str) -> Path:
    if is_remote(address):
        msg = f"{address} is a URL; only OME-Zarr is read and written there"
        raise InputError(msg)
    return local_path(address)
