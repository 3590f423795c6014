"""ITK's transform files ``.h5`` and ``.tfm``, also of 3D Slicer, SimpleITK and ANTs.

They map fixed points to moving ones, components ``x, y, z``, in ITK's axes (LPS) and by
convention in millimetres. Origins are voxel centres. A composite transform applies the
transform added last first. A displacement field is zero beyond its grid.

ITK reads and writes each file as a whole.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from xdreg.bridges.prepare import (
    MILLIMETRES,
    for_tool,
    in_world,
    itk_errors,
    turned_matrix,
)
from xdreg.bridges.vector_images import from_vector_image
from xdreg.fields.composition import as_one_field, split_affine
from xdreg.fields.field import facing
from xdreg.numerics.itk_transforms import displacement_to_itk, matrix_to_itk
from xdreg.stores.outputs import new_file
from xdreg.stores.paths import local_path

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from pathlib import Path

    import xarray as xr


def write(
    field: xr.Dataset,
    path: Path,
    *,
    affine: bool = False,
    step: int = 1,
    units: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write a field as a transform file; see `xdreg.bridges.write_transform`."""
    import itk

    prepared = for_tool(field, units, MILLIMETRES, step)
    transform = as_itk(prepared, affine=affine, step=step)
    with new_file(path, overwrite=overwrite) as partial, itk_errors(f"write {path}"):
        itk.transformwrite([transform], str(partial))


def as_itk(field: xr.Dataset, *, affine: bool, step: int) -> Any:
    """Return a field, coarsened by ``step``, as an ITK transform in its own unit.

    With ``affine``, as a composite of the displacements and then the affine part.
    """
    import itk

    if not affine:
        return displacement_to_itk(*in_world(field, step))
    matrix, rest = split_affine(field)
    values, grid = in_world(rest, step)
    matrix = turned_matrix(matrix, grid, facing(field))
    composite = itk.CompositeTransform[itk.D, grid.ndim].New()
    composite.AddTransform(matrix_to_itk(matrix))
    composite.AddTransform(displacement_to_itk(values, grid))
    return composite


def read(path: Path, *, like: Any = None, units: str | None = None) -> xr.Dataset:
    """Read a transform file; see `xdreg.bridges.open_transform`."""
    # A file has the order of a composite transform: the last is applied first.
    parts = [
        part
        for transform in reversed(read_transforms(path))
        for part in flat(transform)
    ]
    return from_parts(parts, like, units or MILLIMETRES, str(path))


def from_parts(
    parts: Sequence[Any], like: Any, units: str | None, place: str
) -> xr.Dataset:
    """Return ITK transforms in order of application as one field."""
    moves = [_as_move(part, units, place) for part in parts]
    return as_one_field(moves, like, units, place)


def flat(transform: Any) -> list[Any]:
    """Return the parts of an ITK transform in order of application."""
    import itk

    transform = itk.down_cast(transform)
    if not hasattr(transform, "GetNthTransform"):
        return [transform]
    count = int(transform.GetNumberOfTransforms())
    parts = [transform.GetNthTransform(i) for i in reversed(range(count))]
    return [inner for part in parts for inner in flat(part)]


def _as_move(transform: Any, units: str | None, place: str) -> Any:
    """Return a displacement field as a field, others unchanged."""
    if hasattr(transform, "GetDisplacementField"):
        return from_vector_image(transform.GetDisplacementField(), units, place)
    return transform


def read_transforms(path: str | os.PathLike[str]) -> list[Any]:
    """Return the ITK transforms of a file in the order of the file."""
    import itk

    # ITK crashes in a process that loads Elastix between two reads: it comes first.
    if "itk.itkTransformFileReaderPython" not in sys.modules:
        getattr(itk, "ElastixRegistrationMethod", None)
    with itk_errors(f"read {path}"):
        return list(itk.transformread(str(local_path(path))))
