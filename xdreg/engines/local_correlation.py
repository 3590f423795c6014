"""Diffeomorphic registration of two small images on one grid: the default engine.

Lengths are physical here and in voxels below. `descent` moves, driven by the force of a
metric of `own_metrics`. Two-dimensional images are volumes of one plane.

Kernels release the GIL, so that blocks run in parallel threads of one process.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from xdreg.coordinates import grid_of
from xdreg.engines.array_level import ArrayLevel
from xdreg.engines.descent import CompiledLevel, Descent, Settings
from xdreg.engines.device import working_on
from xdreg.engines.discrete_search import large_motion
from xdreg.engines.landmark_pull import WIDTH, Pull, PulledLevel
from xdreg.engines.own_metrics import METRICS
from xdreg.engines.result import MethodResult
from xdreg.engines.smoothness import descend_either_way, smooth_descent
from xdreg.engines.voxel_units import VoxelUnits, masked_values
from xdreg.errors import InputError, MethodTimeout
from xdreg.numerics.nodes import Nodes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, Literal

    import xarray as xr

    from xdreg.engines.descent import Array, Force, Level
    from xdreg.engines.landmark_pull import Landmarks
    from xdreg.engines.metric import Lengths
    from xdreg.grid import Grid
    from xdreg.stages import OwnMetric

#: On a coarse level a wide box has at most this half-width, as a share of the image's
#: mean extent. A box that sees half the image misses parts that move by themselves.
LARGEST_RADIUS = 1 / 8

#: Share of the default smoothing at the finest level of a run. Errors of a coarse level
#: cost more than a voxel and are not corrected later; the finest level has all detail.
FINEST_SHARE = {
    "update_sigma": {2: 1.0, 3: 2 / 3},
    "field_sigma": {2: 1.0, 3: 0.6},
}

#: See `descent.Settings`: at the finest level of a run.
FINEST_CONVERGENCE = 6e-3

#: See ``stride`` of `local_correlation`: at the finest level of a run, which takes most
#: of the time. A coarse level must be exact.
FINEST_STRIDE = 2

#: See ``rougher`` of `local_correlation`, at the finest level and before it, where the
#: default is smoother. Calibrated on real images with a known transform, phantoms, and
#: pairs of two brains, lungs or mice: at the finest level the factor is up to 1.35 in
#: the former and from 1.5 in the latter, before it below 0.9 and from 1.02.
ROUGHER = {"finest": 1.4, "coarse": 0.95}

#: Upper limit of the convergence with a search. If a small part of the image moves far,
#: the energy rises slowly until it is found. In a plane only after the search: two
#: stains agree in too few places to wait before.
SEARCH_CONVERGENCE = 1e-4

#: Share of the box's half-width in the narrow descent of a search. Narrow boxes see a
#: part that moves where a wide one sees more of the rest. In a volume only: in a plane
#: two stains agree in too few places.
NARROW = 0.5

#: The descent from the discrete search is kept if it explains this share of what the
#: first descent leaves unexplained.
LEAST_MARGIN = 0.02


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
    rougher: float = 0.0,
    stride: int = 1,
    contrast: Sequence[tuple[float, float]] | None = None,
    stiffness: Sequence[float] | None = None,
    landmarks: Landmarks | None = None,
    threads: int = 1,
    device: Literal["cpu", "cuda"] = "cpu",
    timeout: float | None = None,
) -> MethodResult:
    """Register two images on one grid by a diffeomorphism.

    Parameters
    ----------
    fixed, moving : DataArray ([c], [z], y, x)
        Small images on one grid, optionally with a boolean coordinate ``mask``.
        Channels are registered together, each of fixed to that of moving.
    metric
        ``"lncc"`` squared local normalised correlation; ``"mind"`` descriptors of
        self-similarity, for images that share shapes but no intensities.
    radius
        Half-width of the box, or for descriptors of the patches compared. Physical, one
        number or one per dim. The defaults of this and the smoothing are those of the
        metric, in mean voxels.
    update_sigma, field_sigma
        Gaussian smoothing of each update, and of the total after a step of one voxel.
        Physical, one number or one per dim. `by_level` returns what the stages of a run
        use.
    step
        Longest vector of an update, in voxels. It is halved when the energy stops
        rising.
    iterations
        Upper limit.
    convergence
        The energy has stopped rising when its relative change per iteration is below
        this.
    search
        Whether to look for large motion. A metric with wide boxes continues with narrow
        ones in a volume, and returns to wide ones. Then a second descent starts at the
        result of `discrete_search` for the first channel, and is kept if it fits
        clearly better.
    rougher
        In a volume smoother settings are tried as well, and used unless the given ones
        raise the energy by this factor more. 0 for never. Not used with a search, or
        for descriptors.
    stride
        1 or 2: voxels per node of the displacement and of the boxes of ``"lncc"``,
        along axes that are long and where updates are smooth. 2 takes a third of the
        time in a volume.
    contrast
        Standard deviations of fixed and moving per channel, relative to which noise is
        defined. By default those of the arrays.
    stiffness
        `correlation.image_stiffness` of each channel of fixed, or of the image that it
        was cut from. Updates are short where the local stiffness is far lower. By
        default that of the array. Not used for descriptors.
    landmarks
        Points of fixed, and displacements that the result has there within a tolerance.
        On the CPU alone.
    threads
        Number of threads. The bits of the result do not depend on it.
    device
        ``"cuda"`` for the GPU, where one block is registered at a time. The result
        differs by rounding.
    timeout : float, second, optional
        Time limit. During the second descent it ends that descent only.

    Returns
    -------
    MethodResult
        Its displacement is a DataArray (component, [z], y, x) float32 on fixed's grid,
        in its units.

    Raises
    ------
    InputError
        If the images are not on one grid.
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
    units, own = VoxelUnits(grid), METRICS[metric]
    pairs = []
    for channels in zip(_channels(fixed), _channels(moving), strict=True):
        one, other = (masked_values(channel, grid) for channel in channels)
        pairs.append((own.matched(one, other, units), other))
    settings = Settings(
        units.voxels(update_sigma, own.update_sigma),
        units.voxels(field_sigma, own.field_sigma),
        step,
        iterations,
        convergence,
        threads,
        timeout,
    )

    nodes = Nodes.smoothed(units.shape, settings.update_sigma, stride)
    marks = None if landmarks is None else landmarks.within(grid)

    with working_on(device) as space:

        def force_of(lengths: Lengths) -> Force:
            return own.force(pairs, units, nodes, lengths, contrast, stiffness, space)

        level: Callable[..., Level]
        level = CompiledLevel if space is None else functools.partial(ArrayLevel, space)
        if marks is not None:
            pull = Pull.of(marks, grid, nodes, settings.update_sigma)
            level = functools.partial(PulledLevel, pull)
        end = None if timeout is None else time.perf_counter() + timeout
        plain = Descent(nodes, settings, lambda: force_of(radius), level, end)
        better = math.nan
        if search:
            narrow = None
            if own.wide_box and units.ndim == 3:
                box = units.radius(radius, own.radius)
                lengths = (NARROW * np.array(box) * grid.spacing).tolist()
                narrow = replace(plain, force=lambda: force_of(lengths))
            found, better = _searched(plain, narrow, *pairs[0])
        elif rougher and own.wide_box and units.ndim == 3:
            smooth = smooth_descent(plain, units, force_of)
            found = descend_either_way(plain, smooth, rougher)
        else:
            found, _ = plain.run()
    displacement = units.physical(nodes.expanded(found))
    if marks is not None:
        widths = [WIDTH * max(units.lengths(update_sigma, own.update_sigma))]
        displacement.data = marks.settled(displacement.values, grid, widths)
    return MethodResult(displacement, float(better))


def _searched(
    wide: Descent, narrow: Descent | None, fixed: Array, moving: Array
) -> tuple[Array, bool]:
    """Return the result with a search, and whether it began at what that found."""
    first, energies = wide.run()
    if narrow is not None:
        first, _ = narrow.run(start=first)
        first, energies = wide.run(start=first)
    share = min(wide.settings.convergence, SEARCH_CONVERGENCE)
    slower = replace(wide, settings=replace(wide.settings, convergence=share))
    with contextlib.suppress(MethodTimeout):
        motion = large_motion(fixed, moving)
        second, others = slower.run(start=wide.nodes.averaged(motion))
        if 1 - others[-1] < (1 - LEAST_MARGIN) * (1 - energies[-1]):
            return second, True
    return first, False


def _channels(image: xr.DataArray) -> list[xr.DataArray]:
    if "c" not in image.dims:
        return [image]
    return [image.isel(c=i, drop=True) for i in range(image.sizes["c"])]


def smoothing(
    options: Mapping[str, Any], grid: Grid, *, finest: bool = False
) -> dict[str, list[float]]:
    """Return the smoothing of updates and of the total, in physical units per dim.

    ``options`` are keyword arguments of `local_correlation`. Defaults are those of
    ``"lncc"`` where the metric is still to be chosen, and less at the finest level of
    a run.
    """
    units = VoxelUnits(grid)
    own = METRICS.get(options.get("metric", "lncc"), METRICS["lncc"])
    result = {}
    for name in ("update_sigma", "field_sigma"):
        default = getattr(own, name)
        if finest:
            share = FINEST_SHARE[name]
            default = {ndim: share[ndim] * default[ndim] for ndim in share}
        result[name] = units.lengths(options.get(name), default)
    return result


def by_level(options: Mapping[str, Any], grid: Grid, *, finest: bool) -> dict[str, Any]:
    """Return options, ``search`` among them, with the defaults of a level of a run."""
    units, own = VoxelUnits(grid), METRICS.get(options.get("metric", ""))
    result = dict(options)
    if own is not None and own.wide_box and units.ndim == 3:
        given = {"radius", "update_sigma", "field_sigma"} & options.keys()
        if not (given or options["search"]):
            result.setdefault("rougher", ROUGHER["finest" if finest else "coarse"])
    if finest:
        result.setdefault("stride", FINEST_STRIDE)
    if finest or own is None:
        result.setdefault("convergence", FINEST_CONVERGENCE)
    else:
        share = own.coarse_convergence[units.ndim]
        if options["search"] and units.ndim == 3:
            share = min(share, SEARCH_CONVERGENCE)
        result.setdefault("convergence", share)
        if own.wide_box:
            widest = LARGEST_RADIUS * math.prod(units.shape) ** (1 / units.ndim)
            default = min(own.radius[units.ndim], widest)
            result.setdefault("radius", units.lengths(None, {units.ndim: default}))
    return result | smoothing(options, grid, finest=finest)


def safer(options: Mapping[str, Any], grid: Grid) -> dict[str, Any]:
    """Return options for a stiffer field: twice the smoothing, half the step."""
    stiffer = {
        name: [2 * length for length in lengths]
        for name, lengths in smoothing(options, grid).items()
    }
    step = 0.5 * options.get("step", 1.0)
    return {**options, **stiffer, "step": step, "rougher": 0.0}
