"""Displacement fields as images of vectors: ANTs warps (NIfTI), NRRD, MetaImage.

Vectors are on the fixed grid and map fixed points to moving ones, components
``x, y, z``, in millimetres, along ITK's axes: left, posterior, superior. Origins are
voxel centres. NIfTI's own axes are right, anterior, superior, but ANTs and ITK write
vectors along ITK's axes with the intent code 1007 (vector). ITK flips vectors on
reading if the code is 1006 (displacement).

ITK reads and writes each file as a whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xdreg.bridges.prepare import MILLIMETRES, for_tool, in_world, itk_errors
from xdreg.coordinates import grid_of
from xdreg.errors import InputError
from xdreg.fields.composition import as_one_field
from xdreg.fields.displacement import make_field
from xdreg.numerics.itk_transforms import displacement_image
from xdreg.stores.itk_images import from_itk_image, read_image
from xdreg.stores.outputs import new_file

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr


def write(
    field: xr.Dataset,
    path: Path,
    *,
    step: int = 1,
    units: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write a field as an image of vectors; see `xdreg.bridges.write_transform`."""
    import itk

    prepared = for_tool(field, units, MILLIMETRES, step)
    image = displacement_image(*in_world(prepared, step))
    with new_file(path, overwrite=overwrite) as partial, itk_errors(f"write {path}"):
        itk.imwrite(image, str(partial))


def read(path: Path, *, like: Any = None, units: str | None = None) -> xr.Dataset:
    """Read an image of vectors; see `xdreg.bridges.open_transform`."""
    units = units or MILLIMETRES
    move = from_vector_image(read_image(path), units, str(path))
    return as_one_field([move], like, units, str(path))


def from_vector_image(image: Any, units: str | None, place: str) -> Any:
    """Return an ITK image of vectors as a field. ``place`` names its source in errors.

    Its grid may be flipped, permuted or oblique.
    """
    ndim = int(image.GetImageDimension())
    count = int(image.GetNumberOfComponentsPerPixel())
    if count != ndim:
        msg = (
            f"{place} is an image of {ndim} dimensions and {count} component(s); "
            f"expected vectors of {ndim}. xdreg.open_image opens images"
        )
        raise InputError(msg)
    array = from_itk_image(image, units=units)
    grid = grid_of(array, place)
    vectors = array.values[::-1]
    if grid.direction is not None:
        vectors = np.tensordot(grid.from_world[:-1, :-1], vectors, 1)
    return make_field(vectors.astype(np.float32), grid)
