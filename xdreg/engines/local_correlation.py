"""Diffeomorphic registration of one pair of small images: xdreg's own engine.

Two images on one grid go in, a displacement comes out. Lengths are physical here and
voxels below: `descent` proceeds, `correlation` or `mind` pulls. An
image in a plane is one of a single slice.

Kernels release the GIL, so blocks run side by side in threads of one process.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from xdreg.coordinates import grid_of
from xdreg.engines.correlation import (
    correlation_force,
    match_stiffness,
    mean_correlation,
)
from xdreg.engines.descent import Settings, descend, summed_forces
from xdreg.engines.discrete_search import large_motion
from xdreg.engines.mind import descriptor_force, mean_likeness
from xdreg.engines.result import MethodResult
from xdreg.engines.voxel_units import VoxelUnits, counted
from xdreg.errors import InputError, MethodTimeout

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    import xarray as xr
    from numpy.typing import NDArray

    from xdreg.engines.descent import Array, Kernel
    from xdreg.grid import Grid
    from xdreg.stages import OwnMetric

    Pairs = list[tuple[xr.DataArray, xr.DataArray]]

#: Half-width of the box in mean voxels: boxes of 2197 voxels in space, 121 in a plane.
RADIUS_VOXELS = {2: 5.0, 3: 6.0}

#: The same for linear transforms, which are found on images of few voxels, and to judge
#: how similar two images are.
COARSE_RADIUS_VOXELS = {2: 5.0, 3: 3.0}

#: On a coarse level a box takes at most this share of the image's mean extent on either
#: side: one that sees half the image does not see a part that moves by itself.
LARGEST_RADIUS = 1 / 8

#: Half-width of the patches that descriptors compare, in mean voxels.
MIND_RADIUS_VOXELS = {2: 1.0, 3: 1.0}

#: Smoothing in mean voxels: of an update, and of the total after one voxel's step. In a
#: plane wider, for fewer voxels lie within reach; wider for descriptors, too, each of
#: which says less than a box's correlation.
UPDATE_SIGMA_VOXELS = {
    "lncc": {2: 8.0, 3: 3.0},
    "mind": {2: 16.0, 3: 6.0},
}
FIELD_SIGMA_VOXELS = {
    "lncc": {2: 3.0, 3: 1.2},
    "mind": {2: 6.0, 3: 2.4},
}

#: Share of that smoothing at the finest level of a run. What a coarse level gets wrong
#: costs more than a voxel, and is not mended later; at the finest all detail is there.
FINEST_SHARE = {
    "update_sigma": {2: 1.0, 3: 2 / 3},
    "field_sigma": {2: 1.0, 3: 0.6},
}

#: See `descent.Settings`: at the finest level of a run, and before. The energy of
#: descriptors rises more slowly.
FINEST_CONVERGENCE = 6e-3
COARSE_CONVERGENCE = {
    "lncc": {2: 2e-3, 3: 1e-3},
    "mind": {2: 3e-5, 3: 3e-5},
}

#: At least so long where large motion is looked for: if little of the image moves so
#: far, the energy rises slowly until it is found, and iterations cost little. In a
#: plane only after the search: two stains agree in too few places to wait before.
SEARCH_CONVERGENCE = 1e-4

#: Share of the box's half-width with which descent goes on amid looking for large
#: motion: narrow boxes see a part that moves where a wide one sees more of the rest.
#: In space only; in a plane two stains agree in too few places for it.
NARROW = 0.5

#: What comes of a second start is kept if it explains so large a share of what that of
#: the first leaves unexplained.
LEAST_MARGIN = 0.02

#: What an update is of the force over the curvature against it, that of all axes
#: together: at an edge a least-squares step, in a texture a third of it. It may be
#: longer, for a match is never perfect, and the curvature then less.
GAIN = {2: 18.0, 3: 2.0}

#: What is added to the curvature everywhere, as a share of the image's stiffness, or
#: noise would be pushed hardest where there is least to see. In a plane it outweighs
#: the rest: for two stains, which agree in few places, one length for all did better.
LEAST_STIFFNESS = {2: 2.0, 3: 0.05}

#: Voxels that an update by descriptors goes for a force of one, much of which smoothing
#: takes away again.
MIND_GAIN = {2: 16.0, 3: 7.0}


def local_correlation(
    fixed: xr.DataArray,
    moving: xr.DataArray,
    *,
    metric: OwnMetric = "lncc",
    radius: float | Sequence[float] | None = None,
    update_sigma: float | Sequence[float] | None = None,
    field_sigma: float | Sequence[float] | None = None,
    step: float = 1.0,
    iterations: int = 300,
    convergence: float = FINEST_CONVERGENCE,
    search: bool = False,
    contrast: Sequence[tuple[float, float]] | None = None,
    stiffness: Sequence[float] | None = None,
    threads: int = 1,
    timeout: float | None = None,
) -> MethodResult:
    """Register two images on one grid, diffeomorphically.

    Parameters
    ----------
    fixed, moving : DataArray ([c], [z], y, x)
        Small images on one grid; a boolean coordinate ``mask`` says which voxels count.
        Channels pull together, each of fixed at that of moving.
    metric
        ``"lncc"`` squared local normalised correlation; ``"mind"`` descriptors of
        self-similarity, for images that share shapes but no intensities.
    radius
        Half-width of the box, physical; one number, or one per dim. By default six
        voxels in three dimensions, five in two, the voxel's mean extent taken; for
        descriptors that of the patches compared, one voxel.
    update_sigma, field_sigma
        Gaussian smoothing of each update, and of the total after a step of one voxel;
        physical, one number or one per dim. By default 3 and 1.2 mean voxels, in a
        plane 8 and 3; twice as much for descriptors. What the stages of a run are given
        says `by_level`.
    step
        Longest vector of an update, in voxels; halved whenever it brings no more.
    iterations
        At most so many.
    convergence
        A step brings no more when the energy rises by less than this share of it per
        iteration.
    search
        Whether to look for large motion: for correlation in three dimensions, to go on
        with narrow boxes and end with wide ones; then to begin a second time, where
        `discrete_search` finds large motion in the first channel, and keep that result
        if it fits clearly better.
    contrast
        Standard deviations of fixed and moving that noise is measured against, for
        each channel; by default those of the two arrays.
    stiffness
        What `image_stiffness` tells of each channel of fixed, or of the image that it
        is cut from: an update is short where there is far less of it. By default that
        of the array. Not used for descriptors.
    threads
        How many share the work; the result is the same to the bit.
    timeout : float, second, optional
        Give up after this long; where that is during a second attempt, on that only.

    Returns
    -------
    MethodResult
        Its displacement is a DataArray (component, [z], y, x) float32 on fixed's grid,
        in its units.

    Raises
    ------
    InputError
        If the two do not lie on one grid.
    MethodTimeout
        If the time is up.

    References
    ----------
    Avants et al., Symmetric diffeomorphic image registration with cross-correlation,
    Medical Image Analysis 2008; Yushkevich et al., Human Brain Mapping 2015 (greedy);
    Heinrich et al., Towards realtime multimodal fusion for image-guided interventions
    using self-similarities, MICCAI 2013 (MIND-SSC).

    Examples
    --------
    >>> import xdreg
    >>> pair = xdreg.datasets.phantom_pair((48, 56), amplitude=2.0)
    >>> local_correlation(pair.fixed, pair.moving).displacement.dims
    ('component', 'y', 'x')
    """
    grid = grid_of(fixed, "fixed")
    if grid_of(moving, "moving").shape != grid.shape:
        msg = (
            f"fixed and moving must lie on one grid, got {fixed.sizes}, {moving.sizes}"
        )
        raise InputError(msg)
    units = VoxelUnits(grid)
    pairs = list(zip(_channels(fixed), _channels(moving), strict=True))
    if metric == "mind":
        force, resistance = _by_descriptors(pairs, grid, radius), None
    else:
        force, resistance = _by_correlation(pairs, grid, radius, contrast, stiffness)
    how = Settings(
        units.voxels(update_sigma, UPDATE_SIGMA_VOXELS[metric]),
        units.voxels(field_sigma, FIELD_SIGMA_VOXELS[metric]),
        step,
        iterations,
        convergence,
        threads,
        timeout,
    )
    if not search:
        found, _ = descend(units.shape, force, how, resistance)
        return MethodResult(units.physical(found))
    end = None if timeout is None else time.perf_counter() + timeout
    first, energies = _descend(units.shape, force, how, resistance, end)
    if metric == "lncc" and units.in_space:
        lengths = np.array(units.radius(radius, RADIUS_VOXELS))
        narrow = (NARROW * lengths * grid.spacing).tolist()
        finer, stiff = _by_correlation(pairs, grid, narrow, contrast, stiffness)
        first, _ = _descend(units.shape, finer, how, stiff, end, first)
        first, energies = _descend(units.shape, force, how, resistance, end, first)
    start = large_motion(*(counted(image, grid) for image in pairs[0]))
    how = replace(how, convergence=min(convergence, SEARCH_CONVERGENCE))
    better = False
    with contextlib.suppress(MethodTimeout):
        second, others = _descend(units.shape, force, how, resistance, end, start)
        better = 1 - others[-1] < (1 - LEAST_MARGIN) * (1 - energies[-1])
    return MethodResult(units.physical(second if better else first), float(better))


def _descend(
    shape: tuple[int, int, int],
    force: Sequence[Kernel],
    how: Settings,
    resistance: Array | None,
    end: float | None,
    start: Array | None = None,
) -> tuple[Array, list[float]]:
    """Descend by a clock, and leave the resistance as it is."""
    left = None if end is None else max(end - time.perf_counter(), 0.0)
    against = None if resistance is None else resistance.copy()
    return descend(shape, force, replace(how, timeout=left), against, start)


def _by_descriptors(
    pairs: Pairs, grid: Grid, radius: float | Sequence[float] | None
) -> tuple[Kernel, ...]:
    """Return the force of descriptors on all channels."""
    units = VoxelUnits(grid)
    gain = MIND_GAIN[3 if units.in_space else 2] / len(pairs)
    box = units.radius(radius, MIND_RADIUS_VOXELS)
    steps = np.float32(gain) * units.squared_steps
    forces = [
        descriptor_force(counted(fixed, grid), counted(moving, grid), box, steps)
        for fixed, moving in pairs
    ]
    return summed_forces(units.shape, forces)


def _by_correlation(
    pairs: Pairs,
    grid: Grid,
    radius: float | Sequence[float] | None,
    contrast: Sequence[tuple[float, float]] | None,
    stiffness: Sequence[float] | None,
) -> tuple[tuple[Kernel, ...], Array]:
    """Return the force of correlation on all channels, and what is against it."""
    units = VoxelUnits(grid)
    ndim = 3 if units.in_space else 2
    box, steps = units.radius(radius, RADIUS_VOXELS), units.squared_steps
    forces, resistance = [], np.zeros(units.shape, np.float32)
    for i, (fixed, moving) in enumerate(pairs):
        values = counted(fixed, grid)
        spread = contrast[i] if contrast else None
        typical = stiffness[i] if stiffness else image_stiffness(values, grid)
        least = LEAST_STIFFNESS[ndim] * (typical or 1.0)
        local = match_stiffness(values, box, steps, spread and spread[0])
        resistance += (local + np.float32(least)) / np.float32(GAIN[ndim])
        other = counted(moving, grid)
        forces.append(correlation_force(values, other, box, steps, spread))
    return summed_forces(units.shape, forces), resistance


def image_stiffness(values: NDArray[np.float32], grid: Grid) -> float:
    """Return an image's stiffness: its local one, averaged with itself as the weight.

    See `correlation.match_stiffness`.

    Parameters
    ----------
    values : ([z], y, x)
        The image, NaN where it does not count.
    grid
        Its geometry.
    """
    units = VoxelUnits(grid)
    box = units.radius(None, RADIUS_VOXELS)
    local = match_stiffness(values.reshape(units.shape), box, units.squared_steps)
    total = np.sum(local, dtype=np.float64)
    return float(np.sum(np.square(local), dtype=np.float64) / total) if total else 0.0


def _channels(image: xr.DataArray) -> list[xr.DataArray]:
    if "c" not in image.dims:
        return [image]
    return [image.isel(c=i, drop=True) for i in range(image.sizes["c"])]


def smoothing(
    options: Mapping[str, Any], grid: Grid, *, finest: bool = False
) -> dict[str, list[float]]:
    """Return the smoothing of updates and of the total, in physical units per dim.

    Parameters
    ----------
    options
        Keyword arguments of `local_correlation`; a metric that is still open counts as
        ``"lncc"``.
    grid
        Grid of the images, by whose voxels what is not among them is chosen.
    finest
        Whether no level of the run is finer, so that less smoothing is chosen.
    """
    units = VoxelUnits(grid)
    result = {}
    for name, default in (
        ("update_sigma", UPDATE_SIGMA_VOXELS),
        ("field_sigma", FIELD_SIGMA_VOXELS),
    ):
        of_metric = default.get(options.get("metric", "lncc"), default["lncc"])
        if finest:
            share = FINEST_SHARE[name]
            of_metric = {ndim: share[ndim] * of_metric[ndim] for ndim in share}
        voxels = units.voxels(options.get(name), of_metric)[3 - grid.ndim :]
        result[name] = (np.asarray(voxels) * grid.spacing).tolist()
    return result


def by_level(options: Mapping[str, Any], grid: Grid, *, finest: bool) -> dict[str, Any]:
    """Return options with those filled in that hang on the level of a run.

    Parameters
    ----------
    options, grid, finest
        As for `smoothing`; ``search`` is among the options.
    """
    units, metric = VoxelUnits(grid), options.get("metric")
    ndim = 3 if units.in_space else 2
    result = dict(options)
    if finest or metric not in COARSE_CONVERGENCE:
        result.setdefault("convergence", FINEST_CONVERGENCE)
    else:
        share = COARSE_CONVERGENCE[metric][ndim]
        if options["search"] and units.in_space:
            share = min(share, SEARCH_CONVERGENCE)
        result.setdefault("convergence", share)
    if metric == "lncc" and not finest:
        widest = LARGEST_RADIUS * math.prod(units.shape) ** (1 / ndim)
        voxels = units.voxels(None, {ndim: min(RADIUS_VOXELS[ndim], widest)})
        lengths = np.asarray(voxels[3 - grid.ndim :]) * grid.spacing
        result.setdefault("radius", lengths.tolist())
    return result | smoothing(options, grid, finest=finest)


def safer(options: Mapping[str, Any], grid: Grid) -> dict[str, Any]:
    """Return options for a stiffer field: twice the smoothing, half the step.

    Parameters
    ----------
    options, grid
        As for `smoothing`.
    """
    stiffer = {
        name: [2 * length for length in lengths]
        for name, lengths in smoothing(options, grid).items()
    }
    return {**options, **stiffer, "step": 0.5 * options.get("step", 1.0)}


def local_similarity(
    metric: str,
    fixed: NDArray[np.float32],
    moving: NDArray[np.float32],
    mask: NDArray[np.bool_],
    grid: Grid,
) -> float:
    """Return how similar two images are to this engine; larger is better.

    Parameters
    ----------
    metric : {"lncc", "mind"}
        Mean squared local correlation, or mean likeness of descriptors; 0 to 1.
    fixed, moving, mask : ([z], y, x)
        Images on one grid, and where they count.
    grid
        That grid.
    """
    units = VoxelUnits(grid)
    hole = np.float32(np.nan)
    images = (
        np.where(mask, fixed, hole).reshape(units.shape),
        np.where(mask, moving, hole).reshape(units.shape),
    )
    if metric == "mind":
        return mean_likeness(*images, units.radius(None, MIND_RADIUS_VOXELS))
    return mean_correlation(*images, units.radius(None, COARSE_RADIUS_VOXELS))
