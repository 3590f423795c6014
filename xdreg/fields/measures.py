"""Measures of a field: Jacobian determinant, folding, statistics, consistency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import dask
import dask.array
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xdreg.coordinates import coordinates
from xdreg.fields.composition import FieldMove
from xdreg.fields.displacement import (
    FIELD_CHUNK,
    open_displacement,
    ordered_displacement,
)
from xdreg.fields.field import facing, field_grid, fixed_grid
from xdreg.fields.preimage import field_orientation
from xdreg.fields.reader import FieldReader
from xdreg.grid import Grid, whole_per_axis
from xdreg.numerics import folding, kernels
from xdreg.partition import Partition
from xdreg.stores.graphs import shared


def jacobian_determinant(field: xr.Dataset) -> xr.DataArray:
    """Return the Jacobian determinant of a field on the field's own grid, lazily.

    Parameters
    ----------
    field : Dataset
        A displacement field.

    Returns
    -------
    DataArray ([z], y, x)
        1 where volume is preserved; zero or less where the field folds. The sign is
        relative to the field's affine part, so that a mirrored image does not fold.
    """
    reader = open_displacement(field)
    grid = reader.grid
    data = dask.array.asarray(ordered_displacement(field, grid).data).rechunk({0: -1})
    determinant = dask.array.map_overlap(
        _jacobian_chunk,
        data,
        depth={0: 0} | dict.fromkeys(range(1, grid.ndim + 1), 1),
        boundary="none",
        drop_axis=0,
        dtype=np.float32,
        meta=np.empty((0,) * grid.ndim, np.float32),
        grid=grid,
    )
    sign = dask.delayed(field_orientation, pure=True)(shared(reader, "orientation"))
    determinant = determinant * dask.array.from_delayed(sign, (), dtype=np.float32)
    return xr.DataArray(
        determinant,
        dims=grid.dims,
        coords=coordinates(grid),
        name="jacobian_determinant",
        attrs={"long_name": "Jacobian determinant"},
    )


def _jacobian_chunk(values: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    part = replace(grid, shape=values.shape[1:])
    return folding.jacobian_determinant(values, part)


def folded_share(field: xr.Dataset) -> xr.DataArray:
    """Return the share of a field's points where it folds, lazily.

    Parameters
    ----------
    field : Dataset
        A displacement field.

    Returns
    -------
    DataArray ()
        Share of the points of the field's grid whose Jacobian determinant is zero or
        less.

    Examples
    --------
    >>> from xdreg.fields.displacement import make_field
    >>> grid = Grid(("y", "x"), (8, 8), (1.0, 1.0), (0.0, 0.0))
    >>> float(folded_share(make_field(np.zeros((2, 8, 8), np.float32), grid)))
    0.0
    """
    share = (jacobian_determinant(field) <= 0).mean().rename("folded_share")
    return share.assign_attrs(long_name="share of points at which the field folds")


_STATISTICS = {
    "mean_displacement": "mean length of the displacement",
    "max_displacement": "largest length of the displacement",
    "min_jacobian": "smallest Jacobian determinant",
    "max_jacobian": "largest Jacobian determinant",
    "folded_share": "share of points at which the field folds",
}


def statistics(
    field: xr.Dataset, *, block_shape: int | Sequence[int] | None = None
) -> xr.Dataset:
    """Return measures of a field per block, lazily.

    Parameters
    ----------
    field : Dataset
        A displacement field.
    block_shape
        Points of the field's grid per block, one number or one per dim; by default 96
        in 3-D and 512 in 2-D. The last block of an axis may be smaller.

    Returns
    -------
    Dataset
        On ``(block_z, block_y, block_x)``: ``mean_displacement`` and
        ``max_displacement`` in physical units, ``min_jacobian``, ``max_jacobian`` and
        ``folded_share``. The coordinates are the centres of the blocks.

    Examples
    --------
    >>> from xdreg.fields.displacement import make_field
    >>> grid = Grid(("y", "x"), (8, 8), (1.0, 1.0), (0.0, 0.0))
    >>> field = make_field(np.full((2, 8, 8), 3.0, np.float32), grid)
    >>> statistics(field, block_shape=4).max_displacement.values
    array([[4.2426405, 4.2426405],
           [4.2426405, 4.2426405]], dtype=float32)
    """
    reader = open_displacement(field)
    grid = reader.grid
    size = FIELD_CHUNK[grid.ndim] if block_shape is None else block_shape
    shape = whole_per_axis(size, grid.ndim, "block_shape", minimum=1)
    # One more point on every side gives the gradient of the whole field.
    partition = Partition(grid, shape, (1,) * grid.ndim, (1,) * grid.ndim)
    node = shared(_Blocks(reader, partition), "statistics")
    numbers = dask.array.map_blocks(
        _statistics_block,
        chunks=((len(_STATISTICS),), *((1,) * n for n in partition.counts)),
        dtype=np.float32,
        meta=np.empty((0,) * (grid.ndim + 1), np.float32),
        blocks=node,
        sign=dask.delayed(_orientation, pure=True)(node),
    )
    dims = [f"block_{dim}" for dim in grid.dims]
    result = xr.Dataset()
    for number, (name, long_name) in enumerate(_STATISTICS.items()):
        attrs = {"long_name": long_name}
        if name.endswith("displacement") and grid.units is not None:
            attrs["units"] = grid.units
        result[name] = xr.Variable(dims, numbers[number], attrs)
    for axis, dim in enumerate(grid.dims):
        starts = np.arange(partition.counts[axis]) * shape[axis]
        stops = np.minimum(starts + shape[axis], grid.shape[axis])
        centres = grid.origin[axis] + grid.spacing[axis] * (starts + stops - 1) / 2
        attrs = {} if grid.units is None else {"units": grid.units}
        result.coords[f"block_{dim}"] = (f"block_{dim}", centres, attrs)
    return result


@dataclass(frozen=True)
class _Blocks:
    reader: FieldReader
    partition: Partition


def _orientation(blocks: _Blocks) -> float:
    return field_orientation(blocks.reader)


def _statistics_block(
    blocks: _Blocks, sign: float, block_info: Any = None
) -> NDArray[np.float32]:
    """Return the measures of one block, in the order of `_STATISTICS`."""
    index = block_info[None]["chunk-location"][1:]
    core, window = blocks.partition.core(index), blocks.partition.window(index)
    values, grid = blocks.reader.read(window)
    inner = tuple(
        slice(a.start - b.start, a.stop - b.start)
        for a, b in zip(core, window, strict=True)
    )
    jacobian = sign * folding.jacobian_determinant(values, grid)[inner]
    length = np.linalg.norm(values[(slice(None), *inner)], axis=0)
    numbers = [
        length.mean(dtype=np.float64),
        length.max(),
        jacobian.min(),
        jacobian.max(),
        (jacobian <= 0).mean(),
    ]
    return np.array(numbers, np.float32).reshape(-1, *((1,) * grid.ndim))


def consistency(field: xr.Dataset, inverse: xr.Dataset) -> xr.DataArray:
    """Return the distance between points and their round trip, lazily.

    Parameters
    ----------
    field : Dataset
        A displacement field, fixed → moving.
    inverse : Dataset
        A field moving → fixed: the result of `xdreg.inverse`, or a registration of the
        same images in the other direction.

    Returns
    -------
    DataArray ([z], y, x)
        ``|u(x) + inverse(x + u(x))|`` on the grid of ``field``, in its units. NaN where
        ``field`` leads out of the moving image.

    Raises
    ------
    InputError
        If the fields' dimensions differ or their units cannot be converted.

    Examples
    --------
    >>> from xdreg.fields.displacement import make_field
    >>> grid = Grid(("y", "x"), (4, 4), (1.0, 1.0), (0.0, 0.0))
    >>> there = make_field(np.full((2, 4, 4), 0.75, np.float32), grid)
    >>> back = make_field(np.full((2, 4, 4), -0.75, np.float32), grid)
    >>> consistency(there, back).values[0]
    array([ 0.,  0.,  0., nan], dtype=float32)
    """
    grid = field_grid(field)
    there, back = (FieldMove.of(f, grid, "inverse") for f in (field, inverse))
    facing(field).check_direction(field_grid(inverse), "inverse", "the moving image")
    known = fixed_grid(inverse).to_units(grid.units, "inverse")
    chunks = dask.array.core.normalize_chunks(FIELD_CHUNK[grid.ndim], grid.shape)
    data = dask.array.map_blocks(
        _consistency_chunk,
        chunks=chunks,
        dtype=np.float32,
        meta=np.empty((0,) * grid.ndim, np.float32),
        trip=shared(_RoundTrip(there, back, grid, known), "consistency"),
    )
    attrs = {"long_name": "distance of there and back again from the start"}
    if grid.units is not None:
        attrs["units"] = grid.units
    return xr.DataArray(
        data, dims=grid.dims, coords=coordinates(grid), name="consistency", attrs=attrs
    )


@dataclass(frozen=True)
class _RoundTrip:
    there: FieldMove
    back: FieldMove
    grid: Grid
    known: Grid


def _consistency_chunk(trip: _RoundTrip, block_info: Any = None) -> NDArray[np.float32]:
    window = [slice(*ends) for ends in block_info[None]["array-location"]]
    grid = trip.grid.window(window)
    start = kernels.grid_points(grid)
    there = trip.there.move(start)
    distance = np.linalg.norm(trip.back.move(there) - start, axis=1)
    distance[~trip.known.contains(there)] = np.nan
    return np.asarray(distance, np.float32).reshape(grid.shape)
