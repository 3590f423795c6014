"""Composition of transforms into one displacement field.

The points of a chunk of the result go through all transforms. Only the part of each
field that they reach is read.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import dask.array
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xdreg.coordinates import grid_of
from xdreg.errors import InputError, StoreError
from xdreg.fields.displacement import (
    FIELD_CHUNK,
    in_units,
    make_field,
    open_displacement,
)
from xdreg.fields.field import facing, field_grid, fixed_grid, is_field, moving_grid
from xdreg.fields.preimage import affine_part
from xdreg.fields.reader import FieldReader
from xdreg.fields.targets import grid_like
from xdreg.grid import Grid, checked_matrix, real_array, unit_ratio
from xdreg.numerics import kernels
from xdreg.numerics.inversion import LEAST_VOLUME
from xdreg.stores.graphs import shared
from xdreg.stores.pyramid import image_levels


class Move(Protocol):
    """One transform of a sequence."""

    def move(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where points ``(n, ndim)`` go."""
        ...


@dataclass(frozen=True)
class FieldMove:
    """A displacement field; ``ratio`` converts the points' unit to the field's."""

    reader: FieldReader
    ratio: float

    @classmethod
    def of(cls, field: xr.Dataset, grid: Grid, name: str) -> FieldMove:
        """Return a field as a move of points in the units of a grid."""
        own = field_grid(field)
        if own.dims != grid.dims:
            msg = f"{name} has dimensions {own.dims}, expected {grid.dims}"
            raise InputError(msg)
        ratio = unit_ratio(grid.units, own.units, name)
        return cls(open_displacement(field), ratio)

    def move(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where points ``(n, ndim)`` go."""
        place = points * self.ratio
        window = self.reader.window(place.min(axis=0), place.max(axis=0))
        values, grid = self.reader.read(window)
        return points + kernels.sample(values, grid, place).T / self.ratio


@dataclass(frozen=True)
class MatrixMove:
    """A homogeneous matrix ``(ndim + 1, ndim + 1)``."""

    matrix: NDArray[np.float64]

    def move(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where points ``(n, ndim)`` go."""
        return np.asarray(points @ self.matrix[:-1, :-1].T + self.matrix[:-1, -1])


class ItkMove:
    """A non-linear ITK transform, in the unit of the points."""

    def __init__(self, transform: Any) -> None:
        self._transform = transform

    def __dask_tokenize__(self) -> object:
        digest = hashlib.sha256(pickle.dumps(self._transform)).hexdigest()
        return ("xdreg.ItkMove", digest)

    def move(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where points ``(n, ndim)`` go."""
        from xdreg.numerics.itk_transforms import move_by_itk  # itk loads slowly

        return move_by_itk(self._transform, points)


def compose(
    *transforms: Any, like: xr.Dataset | xr.DataArray | xr.DataTree | Grid | None = None
) -> xr.Dataset:
    """Return the composition of transforms as one field, lazily.

    The first is applied first: ``compose(a, b)`` maps ``x`` to ``b(a(x))``. If ``a``
    maps fixed → middle and ``b`` middle → moving, the result maps fixed → moving, and
    warping by it equals warping by ``b`` and then by ``a``.

    Parameters
    ----------
    *transforms : Dataset, itk.Transform, matrix or LandmarkTransform
        Fields, ITK transforms, homogeneous matrices (ndim + 1, ndim + 1), and results
        of `landmarks`. Matrices are in dims order. All but fields are in the world, and
        in the units of the result unless they state their own.
    like : Dataset, DataArray, DataTree or Grid, optional
        A field or an image on whose grid to compute the result; by default the first
        transform, which then has to be a field.

    Returns
    -------
    Dataset
        A field. Outside its own grid a field is continued linearly over one cell and
        then unchanged.

    Raises
    ------
    InputError
        If there are no transforms, a transform is of another kind or other dimensions,
        units cannot be converted, or there is no grid.

    Examples
    --------
    >>> import numpy as np
    >>> from xdreg.fields.displacement import make_field
    >>> grid = Grid(("y", "x"), (4, 4), (1.0, 1.0), (0.0, 0.0))
    >>> shift = make_field(np.ones((2, 4, 4), np.float32), grid)
    >>> twice = np.diag([2.0, 2.0, 1.0])
    >>> float(compose(shift, twice).displacement[0, 3, 0])  # 3 → 4 → 8
    5.0
    >>> float(compose(twice, shift, like=grid).displacement[0, 3, 0])  # 3 → 6 → 7
    4.0
    """
    if not transforms:
        msg = "compose needs at least one transform; pass fields, matrices or ITK's"
        raise InputError(msg)
    grid, fixed = _target(transforms[0], like)
    last = transforms[-1]
    moving = moving_grid(last) if isinstance(last, xr.Dataset) else None
    moves = _moves(transforms, grid, moving or grid)
    chunks = dask.array.core.normalize_chunks(FIELD_CHUNK[grid.ndim], grid.shape)
    displacement = dask.array.map_blocks(
        _compose_chunk,
        chunks=((grid.ndim,), *chunks),
        dtype=np.float32,
        meta=np.empty((0,) * (grid.ndim + 1), np.float32),
        task=shared(_Task(tuple(moves), grid), "compose"),
    )
    return make_field(displacement, grid, fixed, moving)


def split_affine(field: xr.Dataset) -> tuple[NDArray[np.float64], xr.Dataset]:
    """Return the affine part of a field and the field to apply before it, lazily.

    The matrix ``(ndim + 1, ndim + 1)`` is fitted by least squares;
    ``compose(rest, matrix)`` equals the given field.
    """
    matrix = affine_part(open_displacement(field))
    if abs(np.linalg.det(matrix)) < LEAST_VOLUME:
        msg = (
            f"the affine part of the field is {matrix.tolist()}, which flattens space "
            "and cannot be taken out; leave affine out"
        )
        raise InputError(msg)
    back = np.asarray(np.linalg.inv(matrix), np.float64)
    return matrix, compose(field, MatrixMove(back))


def between(field: xr.Dataset, fixed: Grid | None, moving: Grid | None) -> xr.Dataset:
    """Return a field along the axes of two images, where they are turned otherwise."""
    if fixed is not None and not field_grid(field).is_parallel(fixed):
        field = compose(field, like=fixed.to_units(field_grid(field).units, "like"))
    end = facing(field)
    if moving is None or end.is_parallel(moving):
        return field
    turned = compose(field, MatrixMove(moving.from_world @ end.to_world))
    stored = json.dumps(moving.to_dict())
    return turned.assign_attrs({**field.attrs, "moving_grid": stored})


def _target(first: Any, like: Any) -> tuple[Grid, Grid]:
    """Return the result's grid, and that of the fixed image."""
    if like is None:
        like = first
    if isinstance(like, Grid):
        return like, like
    if is_field(like):
        return field_grid(like), fixed_grid(like)
    if isinstance(like, xr.DataArray | xr.DataTree):
        grid = grid_of(image_levels(like, "like")[0], "like")
        return grid, grid
    msg = (
        "the first transform has no grid of its own; name a field, an image or a Grid "
        "on which the result is wanted"
    )
    raise InputError(msg, like=...)


def _moves(transforms: Sequence[Any], grid: Grid, end: Grid) -> list[Move]:
    """Return moves of points along the axes of a grid to those of another.

    A field has axes of its own. Those of matrices and ITK transforms are the world's.
    """
    axes, moves = grid, []
    for number, transform in enumerate(transforms):
        move = _move(transform, grid, f"transform {number + 1}")
        if isinstance(transform, MatrixMove):
            start = after = axes = grid
        elif isinstance(transform, xr.Dataset):
            start, after = field_grid(transform), facing(transform)
        else:
            start = after = grid.aligned
        moves += [*_turns(axes, start), move]
        axes = after
    return [*moves, *_turns(axes, end)]


def _turns(start: Grid, end: Grid) -> list[Move]:
    """Return the turn from the axes of one grid to those of another, if any."""
    if start.direction == end.direction:
        return []
    return [MatrixMove(end.from_world @ start.to_world)]


def _move(transform: Any, grid: Grid, name: str) -> Move:
    """Return a transform as a move of points along its own axes."""
    if isinstance(transform, MatrixMove):
        return transform
    if hasattr(transform, "for_grid"):  # of landmarks
        return transform.for_grid(grid, name)  # type: ignore[no-any-return]
    if isinstance(transform, xr.Dataset):
        return FieldMove.of(transform, grid, name)
    if hasattr(transform, "TransformPoint"):
        from xdreg.numerics.itk_transforms import check_transform, matrix_from_itk

        check_transform(transform, grid.ndim, name)
        matrix = matrix_from_itk(transform)
        return ItkMove(transform) if matrix is None else MatrixMove(matrix)
    try:
        values = real_array(transform, name)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        msg = (
            f"{name} is a {type(transform).__name__}; expected a field, an ITK "
            "transform or a homogeneous matrix"
        )
        raise InputError(msg) from error
    return MatrixMove(checked_matrix(values, grid.ndim, name))


@dataclass(frozen=True)
class _Task:
    moves: tuple[Move, ...]
    grid: Grid


def _compose_chunk(task: _Task, block_info: Any = None) -> NDArray[np.float32]:
    """Send the points of one chunk through all transforms."""
    window = [slice(*ends) for ends in block_info[None]["array-location"][1:]]
    grid = task.grid.window(window)
    start = points = kernels.grid_points(grid)
    for transform in task.moves:
        points = transform.move(points)
    return (points - start).T.astype(np.float32).reshape(-1, *grid.shape)


def as_one_field(
    transforms: Sequence[Any],
    like: Any,
    units: str | None,
    place: str,
    default: Grid | None = None,
) -> xr.Dataset:
    """Return the transforms of the file ``place`` as one field.

    They are fields, ITK transforms and matrices in the order of application, all in
    ``units``. The grid is that of ``like``, else ``default``, which the file holds in
    ``units``, else that of the first transform. The result has the unit of ``like``.
    """
    if not transforms:
        msg = f"{place} holds no transform"
        raise StoreError(msg)
    asked = grid_like(like)
    grid = default
    if asked is not None:
        grid = asked.to_units(units, "like")
    elif grid is None and isinstance(transforms[0], xr.Dataset):
        if len(transforms) == 1:
            return transforms[0]
        grid = field_grid(transforms[0])
    if grid is None:
        msg = (
            f"{place} starts with a transform that has no grid of its own; name an "
            "image or a field on whose grid to sample it"
        )
        raise InputError(msg, like=...)
    field = compose(*transforms, like=grid)
    return field if asked is None else in_units(field, asked.units)
