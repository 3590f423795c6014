"""Images in memory of other libraries, and arrays with a geometry that is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dask.array
import numpy as np
import xarray as xr
import zarr

from xdreg.coordinates import OTHER_DIMS, coordinates
from xdreg.errors import InputError
from xdreg.grid import SPATIAL_DIMS, Grid, is_finite, normalise_units, positive_per_axis
from xdreg.stores.itk_images import from_itk_image
from xdreg.stores.napari_layers import is_layer, placed_image
from xdreg.stores.ome_zarr import lazy_zarr
from xdreg.stores.systems import chosen_system, scale_and_shift

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Attribute in which spatialdata keeps the transformations of an element.
_TRANSFORM = "transform"


def make_image(
    array: Any,
    spacing: float | Sequence[float] | None = None,
    origin: float | Sequence[float] = 0.0,
    units: str | None = None,
    *,
    dims: str | None = None,
    coordinate_system: str | None = None,
) -> xr.DataArray | xr.DataTree:
    """Return an array with physical coordinates, or an image of another library.

    Parameters
    ----------
    array
        A numpy, Dask or Zarr array. Or an image of ITK or SimpleITK, an image or
        multiscale image of spatialdata, or a layer of napari, which have a geometry of
        their own.
    spacing
        Distance between the centres of voxels along ``[z], y, x``: one number, or one
        per axis. Needed for an array.
    origin
        Position of the centre of the first voxel.
    units
        Unit of length, such as ``"micrometer"``.
    dims
        A letter of ``tczyx`` for each axis. By default ``yx`` or ``zyx``.
    coordinate_system
        Which of the systems of a spatialdata element to place it in.

    Returns
    -------
    DataArray or DataTree
        ``([t], [c], [z], y, x)``. Lazy arrays stay lazy.

    Raises
    ------
    InputError
        If the geometry is missing, or the array cannot be such an image.

    Examples
    --------
    >>> image = make_image(np.zeros((2, 3, 4)), (2.0, 0.5, 0.5), units="micrometer")
    >>> float(image.z[1])
    2.0
    """
    own = image_of(array, coordinate_system)
    if own is not None:
        if spacing is not None or units is not None or dims is not None:
            msg = "the image has a geometry of its own; leave out spacing, units, dims"
            raise InputError(msg)
        return own
    values = _as_array(array)
    names = tuple(dims) if isinstance(dims, str) else SPATIAL_DIMS[-values.ndim :]
    known = set(names) <= {*SPATIAL_DIMS, *OTHER_DIMS} and len(set(names)) == len(names)
    if len(names) != values.ndim or not known:
        msg = (
            f"the array has {values.ndim} axes, of shape {values.shape}; name each "
            f"of them by a letter of 'tczyx', got {dims!r}"
        )
        raise InputError(msg, dims="tczyx"[-values.ndim :])
    if spacing is None:
        msg = "an array has no physical coordinates; give the size of a voxel"
        raise InputError(msg, spacing=..., units="micrometer")
    spatial = tuple(d for d in SPATIAL_DIMS if d in names)
    starts = np.ravel(np.asarray(origin, object)).tolist()
    starts = starts * len(spatial) if len(starts) == 1 else starts
    if len(starts) != len(spatial) or not all(map(is_finite, starts)):
        msg = f"origin must be a number, or {len(spatial)} of them, got {origin!r}"
        raise InputError(msg)
    grid = Grid(
        spatial,
        tuple(values.shape[names.index(d)] for d in spatial),
        positive_per_axis(spacing, len(spatial), "spacing"),
        tuple(map(float, starts)),
        normalise_units(units),
    )
    image = xr.DataArray(values, dims=names, coords=coordinates(grid), name="image")
    order = [d for d in (*OTHER_DIMS, *spatial) if d in names]
    return image if list(names) == order else image.transpose(*order)


def _as_array(array: Any) -> Any:
    """Return an array that xarray takes as it is, or raise if it is none."""
    if isinstance(array, zarr.Array):
        return lazy_zarr(array)
    if isinstance(array, dask.array.Array):
        return array
    values = np.asarray(array)
    if values.dtype.kind not in "biuf":
        kind = f"{type(array).__name__} of {values.dtype}"
        msg = f"expected an array of real numbers, got {kind}"
        raise InputError(msg)
    return values


def image_of(
    image: Any, coordinate_system: str | None = None
) -> xr.DataArray | xr.DataTree | None:
    """Return an image of ITK, SimpleITK, napari or spatialdata; None if of none."""
    if hasattr(image, "GetLargestPossibleRegion"):
        return from_itk_image(image)
    if is_layer(image):
        return placed_image(image)
    if type(image).__module__.startswith("SimpleITK"):
        return _of_simpleitk(image)
    if isinstance(image, xr.DataArray) and _is_element(image):
        return _placed(image, coordinate_system)
    if isinstance(image, xr.DataTree):
        nodes = {
            node.name: node.dataset["image"]
            for node in image.subtree
            if "image" in node.data_vars
        }
        if nodes and any(map(_is_element, nodes.values())):
            return xr.DataTree.from_dict(
                {
                    str(name): xr.Dataset({"image": _placed(level, coordinate_system)})
                    for name, level in nodes.items()
                }
            )
    return None


def _is_element(image: xr.DataArray) -> bool:
    """Return whether an array has transformations of spatialdata."""
    found = image.attrs.get(_TRANSFORM)
    return isinstance(found, Mapping) and all(
        hasattr(value, "to_affine_matrix") for value in found.values()
    )


def _placed(element: xr.DataArray, coordinate_system: str | None) -> xr.DataArray:
    """Return an element of spatialdata in one of its coordinate systems."""
    steps = element.attrs[_TRANSFORM]
    what = f"the element {element.name or 'image'!r}"
    name = chosen_system([*steps], coordinate_system, what)
    spatial = tuple(d for d in SPATIAL_DIMS if d in element.dims)
    matrix = steps[name].to_affine_matrix(input_axes=spatial, output_axes=spatial)
    scale, shift = scale_and_shift(matrix, f"{what} in {name!r}")
    if min(scale) <= 0:
        msg = f"{what} in {name!r} is mirrored; choose another system, or flip it"
        raise InputError(msg)
    # Pixels are counted from the corner of the first one.
    first = [float(element[d][0]) if d in element.coords else 0.5 for d in spatial]
    step = [
        float(element[d][1] - element[d][0])
        if d in element.coords and element.sizes[d] > 1
        else 1.0
        for d in spatial
    ]
    grid = Grid(
        spatial,
        tuple(element.sizes[d] for d in spatial),
        tuple(s * k for s, k in zip(scale, step, strict=True)),
        tuple(t + s * f for t, s, f in zip(shift, scale, first, strict=True)),
    )
    placed = element.drop_vars([d for d in spatial if d in element.coords])
    placed = placed.assign_coords(coordinates(grid))
    # Kept, the transformation would be applied again.
    placed.attrs = {k: v for k, v in element.attrs.items() if k != _TRANSFORM}
    return placed


def _of_simpleitk(image: Any) -> xr.DataArray:
    """Return an image of SimpleITK, by way of ITK."""
    import itk
    import SimpleITK

    values = SimpleITK.GetArrayFromImage(image)
    vector = image.GetNumberOfComponentsPerPixel() > 1
    twin = itk.image_from_array(np.ascontiguousarray(values), is_vector=vector)
    twin.SetSpacing(image.GetSpacing())
    twin.SetOrigin(image.GetOrigin())
    ndim = image.GetDimension()
    twin.SetDirection(
        itk.matrix_from_array(np.reshape(image.GetDirection(), (ndim, ndim)))
    )
    return from_itk_image(twin)
