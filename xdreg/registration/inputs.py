"""The arguments of a registration, checked before anything runs.

The pair with channels and masks, the starting point, the blocks to run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dask
import dask.array
import numpy as np
import xarray as xr

from xdreg.errors import InputError
from xdreg.fields.field import field_grid, is_field
from xdreg.fields.landmarks import LandmarkTransform, check_inside
from xdreg.fields.points import transform_points
from xdreg.grid import checked_matrix, real_array, unit_ratio
from xdreg.partition import BlockStatus
from xdreg.registration.source import AUTO, Mask, PairImage
from xdreg.stores.channels import channel_selection, counterpart, has_channel
from xdreg.stores.pyramid import Pyramid, build_pyramid, image_levels
from xdreg.stores.readers import image_reader

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xdreg.grid import Grid
    from xdreg.registration.plan import Plan
    from xdreg.stores.channels import Selection


#: Asks for all channels of an image.
ALL = "all"

#: Most points on which a thin-plate spline that a run starts from is sampled.
START_POINTS = 2**18

#: How a user names channels.
Channels = int | str | Sequence[int | str] | None


def pair_images(
    plan: Plan, channels: tuple[Channels, Channels], masks: tuple[Any, Any]
) -> tuple[PairImage, PairImage]:
    """Return the fixed and the moving image, with channels and masks checked.

    ``channels`` and ``masks`` are as the user gave them, for fixed and moving. The
    channel of the moving image is that of the fixed one unless given, if the moving
    image has channels.
    """
    channel, moving_channel = channels
    other = counterpart(channel, moving_channel, plan.moving.finest)
    sides = ("fixed", plan.fixed, channel), ("moving", plan.moving, other)
    select = [selections(pyramid, chosen, name) for name, pyramid, chosen in sides]
    check_joint(plan, select)
    pyramids = [
        mask_pyramid(mask, pyramid.placed, f"{name}_mask")
        for mask, (name, pyramid, _) in zip(masks, sides, strict=True)
    ]
    for mask, (name, _, _) in zip(pyramids, sides, strict=True):
        check_mask(mask, f"{name}_mask")
    fixed, moving = (
        PairImage(name, pyramid, tuple(chosen), mask)
        for (name, pyramid, _), chosen, mask in zip(
            sides, select, pyramids, strict=True
        )
    )
    return fixed, moving


def retried(retry: str | Sequence[str], workdir: object) -> list[BlockStatus]:
    """Return the statuses of blocks to run again.

    Raises
    ------
    InputError
        If one is not the status of a failed block, or there is no work directory.
    """
    names = [retry] if isinstance(retry, str) else list(retry)
    known = {s.meaning: s for s in BlockStatus if s > BlockStatus.SUCCESS}
    for name in names:
        if name not in known:
            msg = f"retry names a status, one of {', '.join(known)}; got {name!r}"
            raise InputError(msg)
    if names and workdir is None:
        msg = "retry goes on with an earlier run; name its directory"
        raise InputError(msg, workdir=...)
    return [known[name] for name in names]


def check_fresh(fresh: object, retry: Sequence[BlockStatus], workdir: object) -> None:
    """Raise if there is no earlier run to remove, or blocks of it are to run again."""
    if not isinstance(fresh, bool):
        msg = f"fresh must be True or False, got {fresh!r}"
        raise InputError(msg)
    if fresh and retry:
        msg = "retry goes on with an earlier run, and fresh removes it; choose one"
        raise InputError(msg)
    if fresh and workdir is None:
        msg = "fresh removes an earlier run; name its directory"
        raise InputError(msg, workdir=...)


def starting_point(initial: Any, plan: Plan) -> Any:
    """Return ``initial`` as a matrix, a field Dataset, an ITK transform or None.

    A thin-plate spline becomes a field on the first stage's grid, or a coarser one.

    Raises
    ------
    InputError
        If it is of another type or dimension, or cannot be inverted.
    """
    grid = plan.fixed.grids[0]
    if initial is None:
        return None
    if isinstance(initial, LandmarkTransform):
        initial = initial.for_grid(grid, "initial")
        check_inside(initial.pairs, plan.fixed.placed)
        if initial.matrix is not None:
            return checked_matrix(initial.matrix, grid.ndim, "initial")
        coarse = plan.stages[0].partition.field_grid
        coarse = replace(coarse, direction=plan.fixed.direction)
        step = int(np.ceil((coarse.size / START_POINTS) ** (1 / grid.ndim)))
        return initial.to_field(coarse, plan.moving.placed, step=step).compute()
    if isinstance(initial, xr.Dataset):
        return _checked_field(initial, grid)
    if hasattr(initial, "TransformPoint"):
        from xdreg.numerics.itk_transforms import check_transform, matrix_from_itk

        check_transform(initial, grid.ndim, "initial")
        matrix = matrix_from_itk(initial)
        return initial if matrix is None else matrix
    try:
        matrix = real_array(initial, "initial")
    except (TypeError, ValueError, OverflowError):
        matrix = np.empty(0)
    if matrix.ndim != 2 or not np.isfinite(matrix).all():
        msg = (
            "initial must be an itk.Transform, a field, or a homogeneous matrix of "
            f"finite numbers, got {type(initial).__name__}"
        )
        raise InputError(msg)
    return checked_matrix(matrix, grid.ndim, "initial")


def _checked_field(initial: xr.Dataset, grid: Grid) -> xr.Dataset:
    if not is_field(initial):
        msg = "initial is a Dataset without 'displacement'; is it a field of xdreg?"
        raise InputError(msg)
    own = field_grid(initial)
    if own.dims != grid.dims:
        msg = f"initial is a field on {own.dims}, and fixed has {grid.dims}"
        raise InputError(msg)
    unit_ratio(own.units, grid.units, "initial")
    if not bool(np.isfinite(initial["displacement"]).all()):
        msg = "initial is a field with NaN or infinity; fill them, or leave it out"
        raise InputError(msg)
    return initial


def selections(
    pyramid: Pyramid, channel: Channels, name: str
) -> list[dict[str, Selection]]:
    """Return the selection of each channel, or raise if one must be chosen."""
    array = pyramid.finest
    if channel is None:
        image_reader(array, name)  # raises where a selection is missing
        return [{}]
    if isinstance(channel, np.ndarray):
        channel = channel.tolist()
    several = not isinstance(channel, str) and isinstance(channel, Sequence)
    chosen: list[Any] = list(channel) if several else [channel]  # type: ignore[arg-type]
    if channel == ALL and "c" in array.dims and not has_channel(array, ALL):
        chosen = list(range(array.sizes["c"]))
    if not chosen:
        msg = f"channel [] names no channel of {name}; leave it out, or name some"
        raise InputError(msg)
    result = [{"c": channel_selection(array, one, name)} for one in chosen]
    if len({str(one) for one in result}) < len(result):
        msg = f"channel {channel!r} names a channel of {name} twice"
        raise InputError(msg)
    return result


def check_joint(plan: Plan, select: Sequence[Sequence[object]]) -> None:
    """Raise if channels do not pair up, or a stage does not register several."""
    counts = [len(channels) for channels in select]
    if counts[0] != counts[1]:
        msg = (
            f"{counts[0]} channels of fixed cannot be registered with {counts[1]} of "
            "moving: each needs its counterpart; name them"
        )
        raise InputError(msg, channel=..., moving_channel=...)
    stages = [stage for stage in plan.stages if not stage.options.linear]
    single = [stage.options.name for stage in stages if not stage.joint]
    if counts[0] > 1 and (single or not stages):
        which = f"{single[0]} takes" if single else "linear stages take"
        msg = (
            f"{which} one channel, and {counts[0]} were given; only LocalCorrelation "
            "registers several together"
        )
        raise InputError(msg)


def check_mirror(plan: Plan, start: Any, *, allow_mirror: bool) -> None:
    """Raise if a pose may be mirrored where none is searched."""
    if not isinstance(allow_mirror, bool):
        msg = f"allow_mirror must be True or False, got {allow_mirror!r}"
        raise InputError(msg)
    if not allow_mirror:
        return
    if start is not None:
        msg = "allow_mirror is for the search of the pose, and initial is given"
        raise InputError(msg + "; leave one out")
    first = plan.stages[0].options
    if not first.linear or first.name == "translation":
        msg = (
            f"allow_mirror is for the search of the pose, and the first stage is a "
            f"{first.name}; begin with a Rigid, Similarity or Affine stage"
        )
        raise InputError(msg)


def check_methods(plan: Plan) -> None:
    """Raise if a method cannot be sent to a process."""
    for stage in plan.stages:
        if not stage.options.linear:
            stage.isolated_method  # noqa: B018


def check_overlap(plan: Plan, start: Any) -> None:
    """Raise if the fixed image, mapped by the start, does not overlap the moving."""
    fixed, moving = plan.fixed.grids[0], plan.moving.grids[0]
    lower, upper = mapped_bounds(fixed, start)
    low, high = moving.bounds
    if ((upper <= low) | (high <= lower)).any():
        where = "fixed spans" if start is None else "initial maps fixed to"
        msg = (
            f"{where} {_span(lower, upper)} and moving spans {_span(low, high)} "
            f"{fixed.units or ''}: they do not overlap. Check units and origins, or "
            "say where they meet with a matrix of a translation"
        )
        raise InputError(msg, initial=...)


def mapped_bounds(
    grid: Grid, start: Any
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the bounds of a few points of the grid, mapped by the start."""
    lower, upper = grid.bounds
    if start is None:
        return lower, upper
    axes = np.linspace(lower, upper, 3).T
    points = np.stack([axis.ravel() for axis in np.meshgrid(*axes)], axis=1)
    if isinstance(start, np.ndarray):
        mapped = points @ start[:-1, :-1].T + start[:-1, -1]
    elif isinstance(start, xr.Dataset):
        ratio = unit_ratio(field_grid(start).units, grid.units)
        mapped = ratio * transform_points(start, points / ratio)
        # A field is not defined outside its own fixed image.
        mapped = np.where(np.isfinite(mapped), mapped, points)
    else:
        mapped = np.array(
            [list(start.TransformPoint(p[::-1].tolist()))[::-1] for p in points]
        )
    return mapped.min(axis=0), mapped.max(axis=0)


def _span(lower: NDArray[np.float64], upper: NDArray[np.float64]) -> str:
    return " × ".join(f"{a:g}…{b:g}" for a, b in zip(lower, upper, strict=True))


def mask_pyramid(mask: Any, image: Grid, name: str, owner: str = "") -> Mask:
    """Return the stored levels of a mask, or raise if it does not fit its image.

    ``owner`` is what to call the image in errors, by default as ``name`` has it.
    """
    owner = owner or name.removesuffix("_mask")
    if mask is None or mask is False:
        return mask
    if isinstance(mask, str):
        if mask == AUTO:
            return AUTO
        msg = (
            f"{name} must be an image, False or {AUTO!r}, got {mask!r}; open it with "
            "xdreg.open_ome_zarr"
        )
        raise InputError(msg)
    pyramid = build_pyramid(image_levels(mask, name), name, image.units)
    image.check_direction(pyramid.placed, name, owner)
    grid = pyramid.grids[0]
    differs = grid.ndim != image.ndim
    if not differs:
        # A coarser level may end earlier, by less than one of its voxels.
        coarser = np.greater(grid.spacing, 1.01 * np.asarray(image.spacing))
        tolerance = np.where(coarser, grid.spacing, 0.5 * np.asarray(image.spacing))
        gaps = np.abs(np.subtract(grid.bounds, image.bounds))
        differs = bool((gaps > tolerance).any())
    if differs:
        msg = (
            f"{name} spans {_span(*grid.bounds)} and {owner} {_span(*image.bounds)}: a "
            f"mask must cover its image. Bring it there with {name}.astype('float32')"
            f".interp_like({owner}, method='nearest').fillna(0), or check its "
            "coordinates"
        )
        raise InputError(msg)
    stored = [i for i, array in enumerate(pyramid.arrays) if array is not None]
    return Pyramid(
        tuple(pyramid.arrays[i] for i in stored),
        tuple(pyramid.grids[i] for i in stored),
    )


def check_mask(mask: Mask, name: str) -> None:
    """Raise if a mask is zero everywhere."""
    if not isinstance(mask, Pyramid):
        return
    # Coarse levels first: most masks have voxels there.
    for array in reversed(mask.arrays):
        values = dask.array.asarray(array.data)  # type: ignore[union-attr]
        if bool(((values != 0) & ~dask.array.isnan(values)).any().compute()):
            return
    msg = f"{name} is zero everywhere, so nothing counts; is it the right image?"
    raise InputError(msg)
