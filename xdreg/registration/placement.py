"""Where a registration starts: what the user gives, or the centres of both images.

Images whose coordinates come from different stages or atlases do not overlap. They then
start centre on centre. What no start can mend is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xdreg.errors import InputError
from xdreg.fields.field import facing, field_grid
from xdreg.registration.inputs import check_overlap, mapped_bounds, starting_point
from xdreg.stages import CENTERS
from xdreg.stores.readers import image_reader

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xdreg.registration.plan import Plan
    from xdreg.registration.source import PairImage

#: An image that spans fewer voxels of the other than this, along every axis, and is as
#: many times smaller as `SMALLER`, has nothing to be found by.
FEWEST_VOXELS = 16
SMALLER = 10

#: Most voxels that are read for a centre of mass.
MASS_VOXELS = 2**27


def place(
    initial: Any, plan: Plan, pair: tuple[PairImage, PairImage]
) -> tuple[Any, str | None]:
    """Return where to start, and what to say if that was not asked for.

    Raises
    ------
    InputError
        If ``initial`` is none, maps the fixed image beside the moving one, or their
        sizes cannot be right.
    """
    fixed = plan.fixed.grids[0]
    if isinstance(initial, str):
        if initial not in CENTERS:
            msg = (
                f"initial must be {' or '.join(map(repr, CENTERS))}, a transform, a "
                f"field or a matrix, got {initial!r}; open files with "
                "xdreg.open_transform or xdreg.open_field"
            )
            raise InputError(msg)
        check_sizes(plan, None)
        mass = initial == CENTERS[1]
        return _shift(plan, *(_centre(image, mass=mass) for image in pair)), None
    start = along_axes(starting_point(initial, plan), plan)
    check_sizes(plan, start)
    turn = _turn(plan)
    low, high = plan.moving.grids[0].bounds
    lower, upper = mapped_bounds(fixed, turn)
    if start is None and ((upper <= low) | (high <= lower)).any():
        start = _shift(plan, *(_centre(image, mass=False) for image in pair))
        shift = ", ".join(f"{value:g}" for value in start[:-1, -1])
        units = f" {fixed.units}" if fixed.units else ""
        return start, (
            f"the images do not overlap; started centre on centre, ({shift}){units} "
            "from fixed to moving"
        )
    if start is None and turn is not None:
        return turn, (
            "the axes of the images are not parallel; started from their places in the "
            "world"
        )
    check_overlap(plan, start)
    return start, None


def _turn(plan: Plan) -> NDArray[np.float64] | None:
    """Return the matrix from the axes of fixed to those of moving, None if parallel."""
    fixed, moving = plan.fixed.placed, plan.moving.placed
    if fixed.is_parallel(moving):
        return None
    return moving.from_world @ fixed.to_world


def along_axes(start: Any, plan: Plan) -> Any:
    """Return a start, which is given in the world, along the axes of both images."""
    fixed, moving = plan.fixed.placed, plan.moving.placed
    if start is None or fixed.direction is moving.direction is None:
        return start
    into = moving.from_world
    if isinstance(start, np.ndarray):
        return into @ start @ fixed.to_world
    if isinstance(start, xr.Dataset):
        field_grid(start).check_direction(fixed, "fixed", "initial")
        facing(start).check_direction(moving, "moving", "the end of initial")
        return start
    import itk

    from xdreg.numerics.itk_transforms import matrix_to_itk

    whole = itk.CompositeTransform[itk.D, fixed.ndim].New()
    for part in (matrix_to_itk(into), start, matrix_to_itk(fixed.to_world)):
        whole.AddTransform(part)
    return whole


def check_sizes(plan: Plan, start: Any) -> None:
    """Raise if one image is hardly a few voxels of the other, as with a wrong unit."""
    fixed, moving = plan.fixed.grids[0], plan.moving.grids[0]
    lower, upper = mapped_bounds(fixed, start)
    low, high = moving.bounds
    wide = [
        axis for axis, n in enumerate(fixed.shape) if max(n, moving.shape[axis]) > 1
    ]
    mapped, own = (upper - lower)[wide], (high - low)[wide]
    # Voxels of the fixed image as the moving one has them.
    scale = mapped / (fixed.bounds[1] - fixed.bounds[0])[wide]
    steps = np.asarray(fixed.spacing)[wide] * scale
    pairs = (
        ("moving", "fixed", own, mapped, steps),
        ("fixed", "moving", mapped, own, np.asarray(moving.spacing)[wide]),
    )
    for small, large, size, other, step in pairs:
        if (size / step < FEWEST_VOXELS).all() and (size * SMALLER < other).all():
            voxels = " × ".join(f"{v:.2g}" for v in size / step)
            units = fixed.units or "the units of the coordinates"
            msg = (
                f"{small} spans {_lengths(size)} and {large} {_lengths(other)} "
                f"{units}, so that {small} is {voxels} voxels of {large}: too few to "
                "register. Is the unit of one of them wrong, such as millimeter for "
                "micrometer? Correct it in the metadata, or in Python as "
                "image.x.attrs['units'] on each spatial coordinate"
            )
            raise InputError(msg)


def _lengths(values: NDArray[np.float64]) -> str:
    return " × ".join(f"{value:g}" for value in values)


def _shift(
    plan: Plan, fixed: NDArray[np.float64], moving: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the translation in the world that maps one point to another, as a matrix.

    The points are along the axes of their images.
    """
    matrix = _turn(plan)
    if matrix is None:
        matrix = np.eye(len(fixed) + 1)
    matrix[:-1, -1] = moving - matrix[:-1, :-1] @ fixed
    return matrix


def _centre(image: PairImage, *, mass: bool) -> NDArray[np.float64]:
    """Return the middle of an image, or of what differs from its border."""
    pyramid = image.pyramid
    if not mass:
        return pyramid.grids[0].centre
    stored = [n for n, array in enumerate(pyramid.arrays) if array is not None]
    level = next((n for n in stored if n >= pyramid.overview), stored[-1])
    array, grid = pyramid.arrays[level], pyramid.grids[level]
    if array is None or grid.size > MASS_VOXELS:
        msg = (
            f"the centre of mass of {image.name} would read {grid.size:.2g} voxels; "
            "take initial='centers', or write its pyramid first with xdreg.save"
        )
        raise InputError(msg)
    reader = image_reader(array, image.name, grid=grid, select=image.channels[0])
    values = np.asarray(reader.read_most(), np.float64)
    border = np.ones(values.shape, bool)
    border[tuple(slice(1, -1) if n > 2 else slice(None) for n in values.shape)] = False
    outer = values[border & np.isfinite(values)]
    background = np.median(outer) if outer.size else 0.0
    noise = np.median(np.abs(outer - background)) if outer.size else 0.0
    weights = np.nan_to_num(np.maximum(np.abs(values - background) - 3 * noise, 0))
    if not weights.any():
        return grid.centre
    profiles = (
        weights.sum(axis=tuple(other for other in range(grid.ndim) if other != axis))
        for axis in range(grid.ndim)
    )
    return grid.index_to_physical(
        [float(np.average(np.arange(len(p)), weights=p)) for p in profiles]
    )
