"""Conversion to and from transforms of ITK, SimpleITK and ITK-Wasm in memory.

All three map fixed points to moving ones, components ``x, y, z``, with origins at voxel
centres and no displacement beyond a field's grid. They have no unit: a field keeps its
own, like images in `xdreg.to_itk_image`. All hold the whole field in double precision.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import xarray as xr

from xdreg.bridges.prepare import (
    MILLIMETRES,
    coarsened,
    in_world,
    needed,
    turned_matrix,
)
from xdreg.bridges.transform_files import as_itk, flat, from_parts, read
from xdreg.coordinates import grid_of
from xdreg.errors import InputError
from xdreg.fields.composition import split_affine
from xdreg.fields.displacement import make_field
from xdreg.fields.field import facing
from xdreg.fields.targets import grid_like
from xdreg.grid import Grid
from xdreg.numerics.itk_transforms import displacement_from_itk, set_geometry
from xdreg.stores.locks import scratch


def to_itk_transform(field: xr.Dataset, *, affine: bool = False, step: int = 1) -> Any:
    """Return a field as an ITK transform, in the field's own unit.

    Parameters
    ----------
    field : Dataset
        A displacement field.
    affine
        Return a composite of displacements and then the affine part, which also applies
        beyond the field's grid.
    step
        Take every ``step``-th point of the field, which must fit into memory.

    Returns
    -------
    itk.DisplacementFieldTransform or itk.CompositeTransform

    Raises
    ------
    InputError
        If the field does not fit into memory.
    """
    return as_itk(coarsened(field, step), affine=affine, step=step)


def from_itk_transform(transform: Any, grid: Grid | xr.DataArray) -> xr.Dataset:
    """Return an ITK transform as a field.

    Parameters
    ----------
    transform : itk.Transform
        Fixed → moving, in the unit of the grid.
    grid : Grid or DataArray
        Grid to sample it on: that of the fixed image, or a coarser one.

    Raises
    ------
    InputError
        If transform and grid differ in dimension.
    """
    target = grid if isinstance(grid, Grid) else grid_of(grid, "grid")
    return make_field(displacement_from_itk(transform, target), target)


def to_simpleitk(field: xr.Dataset, *, affine: bool = False, step: int = 1) -> Any:
    """Return a field as a transform of SimpleITK; parameters of `to_itk_transform`.

    Returns
    -------
    SimpleITK.DisplacementFieldTransform or SimpleITK.CompositeTransform
    """
    sitk = needed("SimpleITK", "xdreg[simpleitk]")
    field = coarsened(field, step)
    moving = facing(field)
    matrix, field = split_affine(field) if affine else (None, field)
    values, grid = in_world(field, step)
    vectors = np.moveaxis(values[::-1], 0, -1).astype(np.float64)
    image = sitk.GetImageFromArray(np.ascontiguousarray(vectors), isVector=True)
    set_geometry(image, grid)
    # SimpleITK moves the image into the transform.
    displacements = sitk.DisplacementFieldTransform(image)
    if matrix is None:
        return displacements
    matrix = turned_matrix(matrix, grid, moving)
    linear = sitk.AffineTransform(grid.ndim)
    linear.SetMatrix(matrix[:-1, :-1][::-1, ::-1].ravel().tolist())
    linear.SetTranslation(matrix[:-1, -1][::-1].tolist())
    composite = sitk.CompositeTransform(grid.ndim)
    composite.AddTransform(linear)
    composite.AddTransform(displacements)
    return composite


def from_simpleitk(
    transform: Any, like: Any = None, *, units: str | None = None
) -> xr.Dataset:
    """Return a transform of SimpleITK as a field.

    Parameters
    ----------
    transform : SimpleITK.Transform
        Of any kind, fixed → moving.
    like : Dataset, DataArray, DataTree or Grid, optional
        Grid to sample it on; by default that of its displacement field.
    units
        Unit of lengths; by default that of ``like``, else millimetres.

    Raises
    ------
    InputError
        If ``like`` is needed, or it is not a transform of SimpleITK.
    """
    sitk = needed("SimpleITK", "xdreg[simpleitk]")
    if not isinstance(transform, sitk.Transform):
        msg = f"expected a SimpleITK.Transform, got {type(transform).__name__}"
        raise InputError(msg)
    # ITK and SimpleITK share transforms of every kind only as files.
    with scratch() as folder:
        path = folder / "transform.h5"
        sitk.WriteTransform(transform, str(path))
        return read(path, like=like, units=_units(units, like))


def to_itkwasm(field: xr.Dataset, *, affine: bool = False, step: int = 1) -> list[Any]:
    """Return a field as ITK-Wasm's ``TransformList``; see `to_itk_transform`.

    Returns
    -------
    list of itkwasm.Transform
        The last is applied first: with ``affine``, the displacements.
    """
    import itk

    transform = to_itk_transform(field, affine=affine, step=step)
    itkwasm = needed("itkwasm", "itkwasm")
    return [
        itkwasm.Transform(**itk.dict_from_transform(part))
        for part in reversed(flat(transform))
    ]


def from_itkwasm(
    transforms: Any, like: Any = None, *, units: str | None = None
) -> xr.Dataset:
    """Return ITK-Wasm's ``TransformList`` as a field.

    Parameters
    ----------
    transforms : list of itkwasm.Transform or of dict, or one
        Fixed → moving, the last applied first. Dictionaries are those of ITK.
    like, units
        As for `from_simpleitk`.

    Raises
    ------
    InputError
        If ``like`` is needed, or one is not a transform of ITK-Wasm.
    """
    import itk

    entries = transforms if isinstance(transforms, list | tuple) else [transforms]
    plain = [_plain(entry) for entry in entries]
    # A list from ITK-Wasm may begin with an entry that only marks it as composite.
    parts = [
        itk.transform_from_dict(entry)
        for entry in plain
        if entry["transformType"]["transformParameterization"] != "Composite"
    ]
    return from_parts(parts[::-1], like, _units(units, like), "the list of transforms")


def _plain(entry: Any) -> dict[str, Any]:
    """Return a transform of ITK-Wasm as a dictionary for ITK."""
    itkwasm = needed("itkwasm", "itkwasm")
    values = entry
    if isinstance(entry, itkwasm.Transform):
        values = dataclasses.asdict(entry)
    if not isinstance(values, dict) or "transformType" not in values:
        msg = (
            "expected a list of ITK-Wasm transforms, each with a 'transformType', got "
            f"{entry!r:.80} in it"
        )
        raise InputError(msg)
    # The transform is made in double precision, whatever the precision of the entry.
    kind = {**values["transformType"], "parametersValueType": "float64"}
    numbers = {
        key: np.asarray(values[key], np.float64)
        for key in ("parameters", "fixedParameters")
        if values.get(key) is not None
    }
    return {**values, **numbers, "transformType": kind}


def _units(units: str | None, like: Any) -> str | None:
    if units is not None:
        return units
    grid = grid_like(like)
    return MILLIMETRES if grid is None else grid.units
