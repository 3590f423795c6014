"""Regions of label images through a field: their volumes, and which points are in them.

A label is a whole number, 0 the background. Labels are read in full resolution, piece
by piece.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import dask
import dask.array
import numpy as np
import pandas as pd

from xdreg.coordinates import grid_of
from xdreg.errors import InputError
from xdreg.fields.composition import between
from xdreg.fields.displacement import open_displacement
from xdreg.fields.field import facing, field_grid, fixed_grid
from xdreg.fields.points import transform_points
from xdreg.fields.warp import warp
from xdreg.numerics import folding, kernels
from xdreg.numerics.point_tables import read_table
from xdreg.stores.graphs import shared
from xdreg.stores.pyramid import image_levels
from xdreg.stores.region_names import region_names

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    from xdreg.fields.reader import FieldReader
    from xdreg.grid import Grid

#: Largest pieces of labels that are read at once, in bytes.
PIECE = 2**25


def label_image(image: Any, name: str) -> xr.DataArray:
    """Return the finest level of a label image, in dims order.

    Raises
    ------
    InputError
        If it is not of whole numbers, or has several channels or time points.
    """
    level = image_levels(image, name)[0]
    for dim in ("t", "c"):
        if level.sizes.get(dim) == 1:
            level = level.isel({dim: 0}, drop=True)
    if level.dtype.kind not in "biu":
        msg = f"{name} must be whole numbers, got {level.dtype}; use .astype('uint16')"
        raise InputError(msg)
    grid = grid_of(level, name)
    if len(level.dims) != grid.ndim:
        msg = f"{name} have dimensions {level.dims}; choose one channel and time point"
        raise InputError(msg)
    return level.transpose(*grid.dims)


def region_volumes(
    field: xr.Dataset,
    labels: Any,
    names: Any = None,
    *,
    image: Literal["moving", "fixed"] = "moving",
) -> pd.DataFrame:
    """Return the volume of each region of a label image, in both images.

    Parameters
    ----------
    field : Dataset
        A displacement field.
    labels : DataArray, DataTree or itk.Image ([z], y, x), whole numbers
        Such as the annotation of an atlas; 0 is the background.
    names
        What is known of the regions: a table with a column ``id``, ``label`` or
        ``index``, or its path, such as ``structures.csv`` of an atlas of BrainGlobe; or
        a dict from labels to names.
    image
        The image that the labels belong to.

    Returns
    -------
    DataFrame
        One row per label: the columns of ``names``; ``fixed_volume`` and
        ``moving_volume``, in a plane areas, in the field's unit, see
        ``table.attrs["units"]``; and ``ratio``, the fixed relative to the moving one.
        Labels of the moving image are warped and counted in the fixed one, as far as
        that reaches. Labels of the fixed image are integrated over the field's Jacobian
        determinant, also beyond the moving image.

    Raises
    ------
    InputError
        If the labels are not whole numbers, or do not overlap their image.

    Examples
    --------
    >>> import xarray as xr
    >>> from xdreg.fields.displacement import make_field
    >>> from xdreg.grid import Grid
    >>> grid = Grid(("y", "x"), (8, 8), (2.0, 2.0), (0.0, 0.0))
    >>> field = make_field(np.zeros((2, 8, 8), np.float32), grid)
    >>> labels = xr.zeros_like(field.displacement.isel(component=0, drop=True), int)
    >>> labels[2:5, 2:4] = 7
    >>> print(*region_volumes(field, labels, {7: "liver"}).loc[7])
    liver 24.0 24.0 1.0
    """
    if image not in ("moving", "fixed"):
        msg = f"image must be 'moving' or 'fixed', got {image!r}"
        raise InputError(msg)
    known = region_names(names)
    own = label_image(labels, "labels")
    unit = field_grid(field).units
    grid = grid_of(own, "labels").to_units(unit, "labels")
    _check_overlap(field, grid, image)
    voxel = float(np.prod(grid.spacing))
    here = {label: voxel * count for label, count in _counted(own).items()}
    if image == "moving":
        voxel = float(np.prod(fixed_grid(field).spacing))
        there = _counted(warp(field, own, order=0))
    else:
        reader = open_displacement(between(field, grid, None))
        there = _counted(own, _Volumes(reader, grid))
    there = {label: voxel * count for label, count in there.items()}
    volumes = (there, here) if image == "moving" else (here, there)
    index = pd.Index(sorted(here.keys() | there.keys()), name="label")
    table = known.reindex(index)
    for name, values in zip(("fixed_volume", "moving_volume"), volumes, strict=True):
        table[name] = [float(values.get(label, 0.0)) for label in index]
    table["ratio"] = table["fixed_volume"] / table["moving_volume"]
    table.attrs["units"] = f"{unit or 'coordinates'}^{grid.ndim}"
    return table


def point_regions(
    field: xr.Dataset,
    points: Any,
    labels: Any,
    names: Any = None,
    *,
    inverse: bool = False,
) -> pd.DataFrame:
    """Return the region of the moving image in which each point of the fixed one lies.

    Parameters
    ----------
    field : Dataset
        A displacement field.
    points
        As for `transform_points`.
    labels, names
        As for `region_volumes`; the labels of the moving image.
    inverse
        The points are those of the moving image, and the labels the fixed one's.

    Returns
    -------
    DataFrame
        One row per point, with the index and columns of a table that was given. The
        coordinates are replaced by those where the point goes. ``label`` is 0 outside
        all regions, and missing where the point cannot be mapped or goes outside the
        labels. The columns of ``names`` follow.

    Raises
    ------
    InputError
        If the labels are not whole numbers, or the points do not fit the field.

    Examples
    --------
    >>> import xarray as xr
    >>> from xdreg.fields.displacement import make_field
    >>> from xdreg.grid import Grid
    >>> grid = Grid(("y", "x"), (8, 8), (2.0, 2.0), (0.0, 0.0))
    >>> field = make_field(np.zeros((2, 8, 8), np.float32), grid)
    >>> labels = xr.zeros_like(field.displacement.isel(component=0, drop=True), int)
    >>> labels[2:5, 2:4] = 7
    >>> cells = [[4.5, 5.0], [12.0, 1.0], [99.0, 0.0]]
    >>> point_regions(field, cells, labels, {7: "liver"})["name"].tolist()
    ['liver', nan, nan]
    """
    known = region_names(names)
    dims = field_grid(field).dims
    moved = transform_points(field, points, inverse=inverse)
    places = read_table(moved, dims).values
    found = labels_at(field, places, labels, inverse=inverse)
    table = moved
    if not isinstance(moved, pd.DataFrame):
        table = pd.DataFrame(places, columns=list(dims))
    named = known.reindex(found.fillna(0).astype("int64"))
    return table.assign(
        label=found.to_numpy(), **{str(c): named[c].to_numpy() for c in named}
    ).astype({"label": "Int64"})


def labels_at(
    field: xr.Dataset, places: NDArray[np.float64], labels: Any, *, inverse: bool
) -> pd.Series[Any]:
    """Return the labels at points ``(n, ndim)`` of the world; missing outside."""
    own = label_image(labels, "labels")
    grid = grid_of(own, "labels").to_units(field_grid(field).units, "labels")
    _check_overlap(field, grid, "fixed" if inverse else "moving")
    along = places @ grid.from_world[:-1, :-1].T
    inside = grid.contains(along)
    index = np.rint(grid.physical_to_index(along[inside])).astype(np.int64)
    index = np.clip(index, 0, np.subtract(grid.shape, 1))
    found = pd.Series(pd.NA, range(len(places)), dtype="Int64")
    if len(index):
        values = dask.array.asarray(own.data).vindex[tuple(index.T)].compute()
        found[inside] = values.astype(np.int64)
    return found


def _check_overlap(field: xr.Dataset, grid: Grid, image: str) -> None:
    """Raise if labels do not overlap the image that they belong to."""
    own = fixed_grid(field) if image == "fixed" else facing(field)
    if own.ndim != grid.ndim:
        msg = f"labels have the dimensions {grid.dims}, and the field {own.dims}"
        raise InputError(msg)
    (low, high), (lower, upper) = own.bounds, grid.bounds
    if own.is_parallel(grid) and ((upper <= low) | (high <= lower)).any():
        msg = (
            f"labels span {lower.tolist()} to {upper.tolist()} and the {image} image "
            f"{low.tolist()} to {high.tolist()} {own.units or ''}: they do not "
            "overlap. Do the labels belong to the other image, or have another unit?"
        )
        raise InputError(msg)


@dataclass(frozen=True)
class _Volumes:
    """The volume to which a field maps each voxel of a grid, in voxels."""

    reader: FieldReader
    grid: Grid

    def of(self, shape: tuple[int, ...], start: tuple[int, ...]) -> NDArray[np.float32]:
        """Return those of a piece."""
        # One more voxel on every side, for central differences.
        window = [
            slice(max(a - 1, 0), min(a + n + 1, size))
            for a, n, size in zip(start, shape, self.grid.shape, strict=True)
        ]
        part = self.grid.window(window)
        values = kernels.resample_displacement(*self.reader.read_around(part), part)
        inner = tuple(
            slice(a - w.start, a - w.start + n)
            for a, n, w in zip(start, shape, window, strict=True)
        )
        return np.abs(folding.jacobian_determinant(values, part)[inner])


def _counted(labels: xr.DataArray, volumes: _Volumes | None = None) -> dict[int, float]:
    """Return the number of voxels of each label, or the sum of their volumes."""
    data = dask.array.asarray(labels.data).rechunk("auto", block_size_limit=PIECE)
    starts = (np.cumsum([0, *sizes[:-1]]).tolist() for sizes in data.chunks)
    places = itertools.product(*starts)
    node = None if volumes is None else shared(volumes, "regions")
    count = dask.delayed(_count)
    blocks = zip(data.to_delayed().ravel(), places, strict=True)
    total: Counter[int] = Counter()
    for part in dask.compute(*(count(block, start, node) for block, start in blocks)):
        total.update(part)
    return dict(total)


def _count(
    values: NDArray[Any], start: tuple[int, ...], volumes: _Volumes | None
) -> dict[int, float]:
    marked = values != 0
    labels, place = np.unique(values[marked], return_inverse=True)
    weights = None if volumes is None else volumes.of(values.shape, start)[marked]
    totals = np.bincount(place.reshape(-1), weights, len(labels))
    return dict(zip(labels.tolist(), totals.tolist(), strict=True))
