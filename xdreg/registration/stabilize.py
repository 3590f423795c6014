"""Registration of the frames of a time series: drift, stabilisation, motion."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dask.array
import numpy as np
import xarray as xr

from xdreg.errors import InputError, MethodError, warn
from xdreg.fields.composition import compose
from xdreg.fields.diagnostics import status_attrs, status_name
from xdreg.fields.displacement import displacement_array, ordered_displacement
from xdreg.fields.field import field_grid
from xdreg.fields.provenance import stages_of
from xdreg.fields.warp import warp
from xdreg.grid import is_finite
from xdreg.numerics import kernels
from xdreg.partition import BlockStatus
from xdreg.registration.following import REJECTED, follow
from xdreg.registration.inputs import check_fresh
from xdreg.registration.manifest import describe_fixed
from xdreg.registration.motion_path import followed, without_unlike
from xdreg.registration.planning import as_stages
from xdreg.registration.rounds import register_rounds
from xdreg.registration.series import Series
from xdreg.registration.source import PairImage
from xdreg.registration.verdict import verdict
from xdreg.registration.workdir import WorkDirectory
from xdreg.stages import OWN_METRICS
from xdreg.stores.apart import check_apart
from xdreg.stores.ome_writer import write_ome_zarr
from xdreg.stores.ome_zarr import open_ome_zarr
from xdreg.stores.progress import working

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from xdreg.grid import Grid
    from xdreg.registration.following import Found, Reference
    from xdreg.stages import Stage

#: References that are not a frame.
NAMED = ("previous", "mean")

#: Times that deformable stages run, from linear transforms, each to a sharper mean.
TURNS = 2


def stabilize(
    series: Any,
    *,
    reference: Reference = 0,
    stages: Any = "translation",
    smooth: float | None = None,
    channel: int | str | None = None,
    mask: Any = None,
    workdir: str | Path | None = None,
    fresh: bool = False,
    progress: bool = True,
) -> xr.Dataset:
    """Find a transform for every frame of a time series, reference → frame.

    Frames are registered in parallel on the active Dask scheduler by linear stages, on
    a coarse level. Deformable stages then run as in `register`, frame by frame, each in
    blocks. A frame that is empty, cannot be read, is far less similar than those around
    it, as by blur, or contradicts them, takes the transform of its neighbours in time.
    A warning and the variable ``status`` say so. After a jump frames are believed if
    they are as similar as before.

    Parameters
    ----------
    series : DataTree or DataArray (t, [c], [z], y, x)
        The time series. Without a coordinate ``t`` frames count as 0, 1, 2, ….
    reference
        The number of a frame, negative from the end; ``"previous"``, each frame to the
        one before it, for content that changes; or ``"mean"``, the mean of the aligned
        frames, which is made anew until they rest.
    stages
        As in `register`: linear stages by xdreg's own metrics, then deformable ones.
        The latter need a reference other than ``"previous"``.
    smooth
        Standard deviation of a smoothing along time, in units of ``t``, of datetimes in
        seconds: straight lines are fitted to the displacements around each time. By
        default none, and each frame has its own transform.
    channel
        Index or name of the channel to register; all are warped.
    mask : DataTree or DataArray ([t], [z], y, x)
        Voxels that count, others than 0: of each frame with ``t``, else of all. NaN in
        the series does not count in any case. A frame without a voxel that counts is
        empty.
    workdir, fresh
        As in `register`, for deformable stages.
    progress
        Show progress, on a terminal and in a notebook.

    Returns
    -------
    Dataset
        A field with a dimension ``t``: ``displacement (t, component, [z], y, x)``,
        ``status (t)``, ``score (t)``, and ``matrix (t, row, column)``, homogeneous, in
        dims order, for what linear stages found. ``.dreg.warp`` and ``.dreg.warp_to``
        warp all frames and channels; ``.isel(t=3)`` is the field of one frame.

    Raises
    ------
    InputError
        If an argument does not fit, there is one frame, or the reference is empty.
    MethodError
        If no frame can be registered.

    Examples
    --------
    >>> import xdreg
    >>> still = xdreg.datasets.phantom_pair((48, 56)).fixed
    >>> frames = [still.shift(x=k, fill_value=0) for k in range(3)]
    >>> series = xr.concat(frames, "t").assign_coords({d: still[d] for d in "yx"})
    >>> motion = stabilize(series, progress=False)
    >>> motion.matrix.isel(row=1, column=2).values.round(1).tolist()
    [0.0, 1.0, 2.0]
    """
    given = Series.of(series, channel, mask)
    chosen = as_stages(stages)
    _check(chosen, reference, smooth, len(given.times))
    linear = [stage for stage in chosen if stage.linear]
    check_fresh(fresh, (), workdir)
    if workdir is not None and linear == chosen:
        msg = "workdir keeps deformable stages, and there is none; leave it out"
        raise InputError(msg)
    if workdir is not None:
        check_apart(workdir, series, mask, what="workdir")
    frames = given.frames(linear, deformable=linear != chosen)
    with working("registering frames", enabled=progress):
        found = follow(frames, reference, given.times)
    if linear != chosen:
        found = _deformed(
            given,
            found.followed(given.times),
            reference,
            [stage for stage in chosen if not stage.linear],
            WorkDirectory(workdir),
            fresh=fresh,
            progress=progress,
        )
    bad = np.flatnonzero(~found.good)
    if len(bad) >= len(found.good) - 1:
        # The reference counts, if it is a frame.
        names = sorted({status_name(value) for value in found.status[bad]})
        msg = f"no frame could be registered: they are {', '.join(names)}"
        raise MethodError(msg)
    if len(bad):
        why = ", ".join(f"{n} {status_name(found.status[n])}" for n in bad)
        warn(f"frames that take the transform of their neighbours: {why}")
    return _dataset(given, found, reference, smooth)


def _check(stages: Sequence[Stage], reference: Any, smooth: Any, count: int) -> None:
    """Raise if stages, reference or smoothing do not fit."""
    for before, stage in zip([None, *stages], stages, strict=False):
        if stage.linear and stage.metric not in (*OWN_METRICS, None):
            msg = (
                f"stage {stage.name} of a series takes the metrics "
                f"{' and '.join(OWN_METRICS)}, got {stage.metric!r}"
            )
            raise InputError(msg)
        if stage.linear and before is not None and not before.linear:
            msg = f"stage {stage.name} follows {before.name}; put linear stages first"
            raise InputError(msg)
    whole = isinstance(reference, int | np.integer) and not isinstance(reference, bool)
    if not (whole and -count <= reference < count) and reference not in NAMED:
        msg = (
            f"reference must be the number of one of {count} frames, or "
            f"{' or '.join(map(repr, NAMED))}; got {reference!r}"
        )
        raise InputError(msg)
    if reference == "previous" and not stages[-1].linear:
        msg = (
            f"stage {stages[-1].name} needs one reference for all frames, and "
            "'previous' has none; take"
        )
        raise InputError(msg, reference="mean")
    if smooth is not None and not (is_finite(smooth) and smooth > 0):
        msg = f"smooth must be a time above zero, in units of t; got {smooth!r}"
        raise InputError(msg)


def _deformed(
    series: Series,
    found: Found,
    reference: Reference,
    stages: Sequence[Stage],
    directory: WorkDirectory,
    *,
    fresh: bool,
    progress: bool,
) -> Found:
    """Register the frames that count by deformable stages, from linear transforms."""
    image = PairImage("series", series.pyramid, (series.select,), series.counted)
    with directory.writing():
        manifest = describe_fixed(image) | {"reference": reference}
        directory.claim(manifest, fresh=fresh)
    run = functools.partial(
        _registered_in_blocks, series, found, stages, fresh=fresh, progress=progress
    )
    if reference != "mean":
        number = int(reference) % found.frames.count
        return run(
            series.frame(number), series.channel, directory.below("frames_0"), number
        )
    result = found
    for turn in range(TURNS):
        path = directory.path / f"mean_{turn}.ome.zarr"
        if fresh or not path.exists():
            _write_mean(series, result, path, overwrite=fresh)
        result = run(open_ome_zarr(path), None, directory.below(f"frames_{turn}"), None)
    return result


def _registered_in_blocks(
    series: Series,
    found: Found,
    stages: Sequence[Stage],
    fixed: xr.DataTree,
    channel: int | str | None,
    directory: WorkDirectory,
    own: int | None,
    *,
    fresh: bool,
    progress: bool,
) -> Found:
    """Register frames to an image, which may be frame ``own``, as rounds."""
    numbers = [n for n in np.flatnonzero(found.good).tolist() if n != own]
    moving = {f"t{number:05d}": series.frame(number) for number in numbers}
    placed = series.pyramid.placed
    starts = placed.to_world @ found.matrices[numbers] @ placed.from_world
    rounds = register_rounds(
        fixed,
        moving,
        stages=stages,
        metric="lncc",
        fixed_mask=None if own is None else series.masks([own])[0],
        moving_mask=dict(zip(moving, series.masks(numbers), strict=True)),
        initial=dict(zip(moving, starts, strict=True)),
        channel=channel,
        moving_channel=series.channel,
        workdir=directory.path,
        fresh=fresh,
        progress=progress,
    )
    status, fields = found.status.copy(), dict[int, xr.Dataset]()
    scores = np.full(len(status), np.nan)
    for number, name in zip(numbers, moving, strict=True):
        if name in rounds and verdict(rounds[name]).word != "failed":
            fields[number] = rounds[name]
            scores[number] = stages_of(rounds[name])[-1].mean("similarity_after")
        else:
            status[number] = REJECTED if name in rounds else BlockStatus.CRASHED
    status = without_unlike(scores, status)
    return replace(found, status=status, scores=scores, fields=fields)


def _write_mean(series: Series, found: Found, path: Path, *, overwrite: bool) -> None:
    """Write the mean of the aligned frames that count, at the finest level."""
    finest = series.finest.astype("float32")
    if series.mask:
        same = compose(np.eye(series.pyramid.grids[0].ndim + 1), like=finest)
        counted = warp(same, series.mask[0], order=0, like=finest)
        finest = finest.where((counted != 0) & counted.notnull())
    aligned = warp(_dataset(series, found, "mean", None), finest, fill_value=np.nan)
    kept = aligned.isel(t=np.flatnonzero(found.good))
    mean = kept.mean("t", keep_attrs=True).drop_vars("t", errors="ignore")
    write_ome_zarr(mean, path, overwrite=overwrite, progress=False)


def _dataset(
    series: Series, found: Found, reference: Reference, smooth: float | None
) -> xr.Dataset:
    """Return the field of a series."""
    weights = found.weights(series.times, smooth)
    matrices = followed(found.matrices, weights, found.frames.grid, found.kind)
    grid = series.pyramid.grids[0]
    if found.fields is None:
        every = [kernels.affine_displacement(matrix, grid) for matrix in matrices]
        values: Any = np.stack([displacement for displacement, _ in every])
        _, grid = every[0]
    else:
        values, grid = _blended(found, weights)
    base = displacement_array(
        values[0], replace(grid, direction=series.pyramid.direction)
    )
    stored = series.levels[0]
    times = stored["t"].variable if "t" in stored.coords else ("t", series.times)
    placed = json.dumps(series.pyramid.placed.to_dict())
    return xr.Dataset(
        {
            "displacement": (("t", *base.dims), values, base.attrs),
            "matrix": (("t", "row", "column"), matrices),
            "score": ("t", found.scores),
            "status": ("t", found.status.astype(np.int8), status_attrs()),
        },
        coords=base.coords,
        attrs={
            "fixed_grid": placed,
            "moving_grid": placed,
            "reference": str(reference),
            **({} if smooth is None else {"smooth": float(smooth)}),
        },
    ).assign_coords(t=times)


def _blended(
    found: Found, weights: NDArray[np.float64]
) -> tuple[dask.array.Array, Grid]:
    """Return the displacements of all frames, made of those that have one, lazily."""
    fields = found.fields or {}
    grid = field_grid(next(iter(fields.values())))
    parts = {
        number: dask.array.asarray(ordered_displacement(field, grid).data)
        for number, field in fields.items()
    }
    one = next(iter(parts.values()))
    still = dask.array.zeros(one.shape, one.dtype, chunks=one.chunks)
    rows = []
    for row in weights:
        share = {n: np.float32(row[n]) for n in np.flatnonzero(row).tolist()}
        # The reference moves nothing.
        terms = [
            w * parts[n] if w != 1 else parts[n] for n, w in share.items() if n in parts
        ]
        rows.append(sum(terms[1:], terms[0]) if terms else still)
    return dask.array.stack(rows), grid.aligned
