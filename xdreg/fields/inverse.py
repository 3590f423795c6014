"""The inverse of a displacement field, as a field on the moving image.

This file builds the graph. Each block reads the part of the field that maps onto it
(`xdreg.fields.preimage`) and inverts that part (`xdreg.numerics.inversion`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dask
import dask.array
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xdreg.coordinates import grid_of
from xdreg.errors import InputError
from xdreg.fields.composition import between
from xdreg.fields.diagnostics import INVERSE_DIAGNOSTICS, status_attrs
from xdreg.fields.displacement import FIELD_CHUNK, make_field, open_displacement
from xdreg.fields.field import field_grid, fixed_grid, moving_grid
from xdreg.fields.preimage import Preimage, affine_part
from xdreg.fields.provenance import manifest_of
from xdreg.fields.reader import FieldReader
from xdreg.grid import Grid, positive_per_axis
from xdreg.numerics import newton
from xdreg.partition import BlockStatus, Partition
from xdreg.stores.graphs import shared
from xdreg.stores.pyramid import image_levels


def inverse(
    field: xr.Dataset,
    like: xr.DataArray | xr.DataTree | None = None,
    *,
    step: float | Sequence[float] = 1,
) -> xr.Dataset:
    """Return the inverse of a field, moving → fixed, lazily.

    Every block is solved by Newton's method on the interpolated field. The affine part
    is taken out first, so that large rotations can be inverted too.

    Parameters
    ----------
    field : Dataset
        A displacement field, fixed → moving.
    like : DataArray or DataTree, optional
        The moving image, on which the inverse is computed; by default the field's own,
        if it is known.
    step
        Voxels of ``like`` between points of the inverse, one number or one per dim.
        Between points the inverse is interpolated linearly; where the field bends, the
        error grows with the square of the step.

    Returns
    -------
    Dataset
        A field, moving → fixed, in the units of ``field``. ``block_status`` is
        ``success``; ``no_overlap`` if the whole block comes from outside the fixed
        image; ``folded`` if at least one point has no inverse. ``block_outside`` and
        ``block_folded`` are the shares of such points. ``block_mean_residual`` and
        ``block_max_residual`` are distances, in physical units, between a point and the
        image of its inverse under the field; NaN if the whole block comes from outside.

    Raises
    ------
    InputError
        If units cannot be converted, or ``like`` is missing and the field does not
        contain the moving image's geometry.

    Notes
    -----
    Outside the fixed image the field's continuation is inverted: linear over one cell,
    then the affine part plus a constant rest. Where the field folds, it is smoothed
    until it no longer does, and the result is inverted; the residual is the error.

    Examples
    --------
    >>> import numpy as np
    >>> from xdreg.grid import Grid
    >>> grid = Grid(("y", "x"), (8, 8), (1.0, 1.0), (0.0, 0.0))
    >>> field = make_field(np.full((2, 8, 8), 0.5, np.float32), grid)
    >>> back = inverse(field, like=field.displacement[0])
    >>> float(back.displacement.mean()), float(back.block_max_residual.max())
    (-0.5, 0.0)
    """
    own = field_grid(field)
    if like is None:
        image = moving_grid(field)
        if image is None:
            msg = "the field does not contain its moving image's grid; name an image"
            raise InputError(msg, like=...)
    else:
        image = grid_of(image_levels(like, "like")[0], "like")
        field = between(field, None, image)
    image = image.to_units(own.units, "like")
    if image.dims != own.dims:
        msg = f"like has dimensions {image.dims} and the field {own.dims}"
        raise InputError(msg)
    target = image.every(positive_per_axis(step, own.ndim, "step"))
    chunk = (FIELD_CHUNK[own.ndim],) * own.ndim
    blocks = Partition(target, chunk, (0,) * own.ndim, (1,) * own.ndim)
    task = _Task(open_displacement(field), fixed_grid(field), blocks)
    displacement, diagnostics = _solved_blocks(task)
    result = make_field(displacement, target, image, fixed_grid(field))
    dims = [f"block_{dim}" for dim in target.dims]
    for number, (name, long_name) in enumerate(INVERSE_DIAGNOSTICS.items()):
        values, attrs = diagnostics[number], {"long_name": long_name}
        if name == "status":
            values = values.astype(np.int8)
            attrs |= status_attrs()
        elif name.endswith("residual") and own.units is not None:
            attrs["units"] = own.units
        result[f"block_{name}"] = xr.Variable(dims, values, attrs)
    result["displacement"].attrs["long_name"] = "displacement, moving to fixed"
    manifest = manifest_of(field)
    if manifest:
        result.attrs["xdreg"] = json.dumps({"inverse_of": manifest})
    return result


@dataclass(frozen=True)
class _Task:
    """Parameters that all blocks share."""

    reader: FieldReader
    fixed: Grid
    blocks: Partition


def _solved_blocks(task: _Task) -> tuple[dask.array.Array, dask.array.Array]:
    """Return the displacement and the diagnostics of every block, lazily.

    Both come from the same task, so that a block is solved once.
    """
    target, shape = task.blocks.grid, task.blocks.block_shape
    ndim = target.ndim
    chunks = dask.array.core.normalize_chunks(shape, target.shape)
    node = shared(task, "inverse")
    blocks = dask.array.map_blocks(
        _solve_block,
        chunks=tuple((1,) * len(sizes) for sizes in chunks),
        dtype=object,
        meta=np.empty((0,) * ndim, object),
        task=node,
        matrix=dask.delayed(_affine_part, pure=True)(node),
    )
    alike = {"new_axis": 0, "dtype": np.float32, "meta": np.empty((0,) * (ndim + 1))}
    count = len(INVERSE_DIAGNOSTICS)
    shapes = ((ndim,), *chunks), ((count,), *blocks.chunks)
    displacement, diagnostics = (
        blocks.map_blocks(_part_of, number, chunks=shape, **alike)
        for number, shape in enumerate(shapes)
    )
    return displacement, diagnostics


def _affine_part(task: _Task) -> NDArray[np.float64]:
    return affine_part(task.reader)


def _solve_block(
    task: _Task, matrix: NDArray[np.float64], block_info: Any = None
) -> NDArray[Any]:
    """Return the displacement and the diagnostics of one block, as one object."""
    index = block_info[None]["chunk-location"]
    grid = task.blocks.grid.window(task.blocks.core(index))
    corners = grid.index_to_physical([[0] * grid.ndim, [n - 1 for n in grid.shape]])
    window = Preimage(task.reader, task.fixed, matrix).window(*corners)
    solution = window.solve_grid(grid)
    outside = float((solution.flags == newton.OUTSIDE).mean())
    folded = float((solution.flags == newton.FOLDED).mean())
    status = BlockStatus.SUCCESS
    if folded > 0:
        status = BlockStatus.FOLDED
    elif outside == 1:
        status = BlockStatus.NO_OVERLAP
    # Outside the fixed image the residual has no meaning.
    residual = solution.residual[solution.flags != newton.OUTSIDE]
    mean, most = (
        (residual.mean(dtype=float), residual.max()) if residual.size else (np.nan,) * 2
    )
    numbers = np.array([status, mean, most, outside, folded], np.float32)
    result = np.empty((1,) * grid.ndim, object)
    result[(0,) * grid.ndim] = solution.values, numbers.reshape(-1, *result.shape)
    return result


def _part_of(blocks: NDArray[Any], number: int) -> NDArray[np.float32]:
    values: NDArray[np.float32] = blocks.item()[number]
    return values
