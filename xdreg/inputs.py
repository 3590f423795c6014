"""What a user gave, checked and described before anything runs.

Where to start from, which channel, masks that fit their images, and the manifest by
which a work directory knows its run.
"""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import xarray as xr

from xdreg.errors import InputError
from xdreg.field import is_field, open_displacement
from xdreg.options import Custom
from xdreg.planning import Plan, PlannedStage, Pyramid, build_pyramid
from xdreg.readers import ImageReader, channel_index, image_reader, source_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xdreg.grid import Grid


def starting_point(initial: Any) -> Any:
    """Return a matrix, a field Dataset, an ITK transform, or None."""
    if initial is None:
        return None
    if isinstance(initial, xr.Dataset):
        if not is_field(initial):
            msg = "initial is a Dataset without 'displacement'; is it a field of xdreg?"
            raise InputError(msg)
        return initial
    if hasattr(initial, "TransformPoint"):
        from xdreg.itk_bridge import matrix_from_itk

        matrix = matrix_from_itk(initial)
        return initial if matrix is None else matrix
    try:
        matrix = np.asarray(initial, np.float64)
    except (TypeError, ValueError):
        matrix = np.empty(0)
    if matrix.ndim == 2 and np.isfinite(matrix).all():
        return matrix
    msg = (
        "initial must be an itk.Transform, a field, or a homogeneous matrix of finite "
        f"numbers, got {type(initial).__name__}"
    )
    raise InputError(msg)


def channel_selection(
    pyramid: Pyramid, channel: int | str | None, name: str
) -> dict[str, int]:
    """Return which channel to read, or say that one must be chosen."""
    array = pyramid.arrays[0]
    if channel is None or array is None:
        image_reader(array, name)  # type: ignore[arg-type]  # says what is missing
        return {}
    return {"c": channel_index(array, channel, name)}


def check_overlap(plan: Plan, start: Any) -> None:
    """Refuse images that share no space, unless a start brings them near."""
    (a, b), (c, d) = plan.fixed.grids[0].bounds, plan.moving.grids[0].bounds
    if start is None and ((b <= c) | (d <= a)).any():
        msg = (
            f"fixed spans {_span(a, b)} and moving {_span(c, d)} "
            f"{plan.fixed.grids[0].units or ''}: they do not overlap. Check units and "
            "origins, or say where they meet with initial=, a matrix of a translation"
        )
        raise InputError(msg)


def _span(lower: NDArray[np.float64], upper: NDArray[np.float64]) -> str:
    return " × ".join(f"{a:g}…{b:g}" for a, b in zip(lower, upper, strict=True))


def mask_pyramid(mask: Any, image: Grid, name: str) -> Pyramid | None:
    """Return a mask's stored levels, or say why it does not fit its image."""
    if mask is None:
        return None
    pyramid = build_pyramid(mask, name, image.units)
    grid = pyramid.grids[0]
    owner = name.removesuffix("_mask")
    tolerance = (
        np.maximum(grid.spacing, image.spacing) if grid.ndim == image.ndim else 0
    )
    differs = grid.ndim != image.ndim or any(
        (np.abs(a - b) > tolerance).any()
        for a, b in zip(grid.bounds, image.bounds, strict=True)
    )
    if differs:
        msg = (
            f"{name} spans {_span(*grid.bounds)} and {owner} {_span(*image.bounds)}: a "
            f"mask must cover its image. Bring it there with "
            f"{name}.interp_like({owner}, "
            "method='nearest'), or check its coordinates"
        )
        raise InputError(msg)
    stored = [i for i, array in enumerate(pyramid.arrays) if array is not None]
    return Pyramid(
        tuple(pyramid.arrays[i] for i in stored),
        tuple(pyramid.grids[i] for i in stored),
    )


def mask_reader(mask: Pyramid, grid: Grid) -> ImageReader:
    """Return the reader of a mask's level nearest to a grid."""
    level = mask.level_like(grid)
    array = mask.arrays[level]
    assert array is not None
    return image_reader(array, "mask", grid=mask.grids[level])


def describe_source(pyramid: Pyramid) -> dict[str, Any]:
    """Describe an image so that a change of it is noticed."""
    array = pyramid.arrays[0]
    assert array is not None
    grid = pyramid.grids[0]
    return {
        "source": str(array.attrs.get("source", "")),
        "token": dask.base.tokenize(ImageReader(source_of(array), grid, grid.dims)),
        "dtype": str(array.dtype),
        "grid": grid.to_dict(),
    }


def describe_stage(stage: PlannedStage) -> dict[str, Any]:
    """Describe a stage so that a change of its options is noticed."""
    options = asdict(stage.options)
    if isinstance(stage.options, Custom):
        method = stage.options.method
        options["method"] = (
            f"{method.__module__}.{getattr(method, '__qualname__', method)}"
        )
        options["options"] = {k: repr(v) for k, v in stage.options.options.items()}
    return {
        "name": stage.options.name,
        **options,
        "moving_level": stage.moving_level,
        "block_shape": list(stage.partition.block_shape),
        "overlap": list(stage.partition.overlap),
        "field_step": list(stage.partition.field_step),
    }


def run_manifest(
    plan: Plan, start: Any, masks: list[Pyramid | None], select: list[dict[str, int]]
) -> dict[str, Any]:
    """Describe a run so that a work directory knows it again."""
    if isinstance(start, np.ndarray):
        begin: Any = start.tolist()
    elif isinstance(start, xr.Dataset):
        begin = dask.base.tokenize(open_displacement(start))
    else:
        begin = None if start is None else repr(start)
    return {
        "fixed": describe_source(plan.fixed),
        "moving": describe_source(plan.moving),
        "fixed_mask": None if masks[0] is None else describe_source(masks[0]),
        "moving_mask": None if masks[1] is None else describe_source(masks[1]),
        "channels": select,
        "initial": begin,
        "stages": [describe_stage(stage) for stage in plan.stages],
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Return the versions of the packages that a result depends on."""
    return {name: version(name) for name in ("itk-elastix", "numpy", "xarray", "zarr")}
