"""Warping of an image into a store, with its pyramid.

A task computes one region, a few chunks of one level, and writes it. No voxel passes
through the scheduler. A journal lists the written regions, so that a killed run can be
resumed (`xdreg.stores.resumable`).
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version as installed_version
from typing import Any, Literal, Protocol

import dask.array
import numpy as np
import xarray as xr
import zarr
from dask.base import tokenize
from numpy.typing import NDArray

from xdreg.coordinates import grid_of
from xdreg.errors import InputError, warn
from xdreg.fields.targets import Region, Spacing, resampling_grid
from xdreg.fields.warp import (
    CHUNK,
    Interpolation,
    along_axes,
    make_warper,
    warped_like,
)
from xdreg.grid import Grid
from xdreg.numerics.interpolation import Labels, Order
from xdreg.stores.apart import check_apart
from xdreg.stores.channels import OMERO
from xdreg.stores.graphs import shared
from xdreg.stores.label_groups import LABELS, label_images, write_label_documents
from xdreg.stores.locks import scratch
from xdreg.stores.ome_writer import Layout, Version, lay_out, level_path, make_layout
from xdreg.stores.outputs import Output
from xdreg.stores.progress import working
from xdreg.stores.pyramid import downsample, image_levels
from xdreg.stores.resumable import Journal, checksum, resumable_store

#: Coarsest and finest spacing, in voxels of the result along any axis, of the level of
#: the moving image that a level of the result is resampled from.
COARSEST = 1.1
FINEST = 1 / 1.5

#: Largest number of tasks of a level. Beyond it a task makes several regions.
MOST_TASKS = 10_000

#: Most voxels of a region, and fewest regions of a level.
MOST_TOGETHER = 2**22
FEWEST = 8


def warp_to(
    field: xr.Dataset,
    moving: Any,
    path: str | os.PathLike[str],
    *,
    order: Order = 1,
    labels: Labels | None = None,
    like: xr.DataArray | xr.DataTree | None = None,
    spacing: Spacing = None,
    region: Region = None,
    fill_value: float = 0,
    levels_from: Literal["moving", "finest"] = "moving",
    label_groups: Labels | None = "nearest",
    levels: int | None = None,
    chunks: int | Sequence[int] | None = None,
    shards: int | Sequence[int] | None = None,
    version: Version = "0.5",
    name: str | None = None,
    overwrite: bool = False,
    fresh: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> None:
    """Resample the moving image onto the fixed grid, or another, into an OME-Zarr.

    All channels and time points are written, and a whole pyramid. A task holds one
    region of the result and the part of the image it maps onto. The store appears whole
    or not at all. Repeating the call of a killed process resumes it, with the same
    bits. This requires images and field from stores, since other graphs may not be
    recognised.

    Parameters
    ----------
    field : Dataset
        A displacement field, fixed → moving.
    moving : DataArray, DataTree or itk.Image ([t], [c], [z], y, x)
        The image to resample.
    path
        Directory or URL to write.
    order, labels, like, spacing, region, fill_value
        As in `warp`.
    levels_from
        ``"moving"`` resamples each level from the coarsest level of the moving image
        that is no coarser along any axis. If that level is more than 1.5 times finer,
        the level is built from the one before. ``"finest"`` resamples the finest level
        of the moving image, and builds each coarser level from the one before. Levels
        are built as in `save`: by means, or for labels by taking one of each group.
    label_groups
        How the labels in the store of the moving image are warped along, into the
        group ``labels`` of the result, with their colours; a rule as for ``labels``.
        None leaves them out.
    levels, chunks, shards, version, name, overwrite, storage_options, progress
        As in `save`.
    fresh
        Do not continue an earlier call: for an image or a field that changed in a way
        that cannot be seen. One that is seen to have changed starts anew by itself.

    Raises
    ------
    InputError
        As in `warp`, or if another process is writing the same store.
    StoreError
        As in `save`; ``like`` counts as read, too.

    Examples
    --------
    >>> import tempfile, xdreg
    >>> pair = xdreg.datasets.phantom_pair((96, 112))
    >>> matrix = np.eye(3)
    >>> field = xdreg.compose(matrix, like=pair.fixed)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     warp_to(field, pair.moving, f"{folder}/moved.ome.zarr", spacing=2.0)
    ...     moved = xdreg.open_ome_zarr(f"{folder}/moved.ome.zarr", level=0)
    >>> moved.shape
    (48, 56)
    """
    if not isinstance(levels_from, str) or levels_from not in ("moving", "finest"):
        msg = f"levels_from must be 'moving' or 'finest', got {levels_from!r}"
        raise InputError(msg)
    how = Interpolation(order, labels, fill_value)
    images = image_levels(moving, "moving")
    field = along_axes(field, images[0], like)
    target = resampling_grid(field, like, spacing, region)
    options = version, levels, chunks, shards
    jobs = [_job(field, images, target, how, levels_from, (*options, name))]
    looks: dict[str, Any] = {}
    if not how.keeps_values:
        along, looks = label_jobs(
            field, images[0], target, label_groups, levels_from, options, "moving"
        )
        jobs += along
    check_apart(path, field, moving, like)
    write_jobs(
        jobs,
        path,
        looks=looks,
        overwrite=overwrite,
        fresh=fresh,
        storage_options=storage_options,
        progress=progress,
    )


def label_jobs(
    field: xr.Dataset,
    image: xr.DataArray,
    target: Grid,
    rule: Labels | None,
    levels_from: str,
    options: tuple[Any, ...],
    what: str,
    prefix: str = "",
) -> tuple[list[Job], dict[str, Any]]:
    """Return what is to be done for the labels next to an image, and their documents.

    Parameters
    ----------
    field, image, target
        As in `warp_to`, with the target resolved.
    rule
        How labels are resampled; None for none of them.
    levels_from, options
        As in `warp_to`; the latter are version, levels, chunks and shards.
    what
        What to call the image in a warning.
    prefix
        Goes before the names of labels.
    """
    jobs, looks = list[Job](), dict[str, Any]()
    if rule is None:
        return jobs, looks
    how = Interpolation(0, rule, 0)
    for name, (tree, look) in label_images(image).items():
        layers = image_levels(tree, name)
        if layers[0].dtype.kind not in "iu":
            warn(f"the labels {name!r} of {what} are {layers[0].dtype}; left out")
            continue
        own = prefix + name
        looks[own] = look
        job = _job(field, layers, target, how, levels_from, (*options, own))
        jobs.append(replace(job, place=f"{LABELS}/{own}/"))
    return jobs, looks


def write_jobs(
    jobs: Sequence[Job],
    path: str | os.PathLike[str],
    *,
    looks: Mapping[str, Any] | None = None,
    overwrite: bool,
    fresh: bool,
    storage_options: Mapping[str, Any] | None,
    progress: bool,
) -> None:
    """Write images into one store, or what is missing of them.

    ``looks`` are documents of labels by their names; the others are as in `warp_to`.
    """
    text = "\n".join(_description(job) for job in jobs)
    with (
        working("warping", enabled=progress),
        resumable_store(
            path,
            text + json.dumps(looks, default=str) * bool(looks),
            overwrite=overwrite,
            fresh=fresh,
            storage_options=storage_options,
        ) as (output, journal),
    ):
        # Laid out elsewhere, so that existing chunks are kept.
        with scratch() as folder:
            for job in jobs:
                lay_out(folder / "store" / job.place, job.layout)
            if looks:
                write_label_documents(folder / "store", looks, jobs[0].layout.version)
            shutil.copytree(folder / "store", output.folder, dirs_exist_ok=True)
        done = journal.entries()
        for job in jobs:
            _write_job(job, output, journal, done)


class PartMaker(Protocol):
    """Computes any part of an image on the grid ``target``; see `Warper`."""

    @property
    def target(self) -> Grid:
        """Grid of the whole image."""
        ...

    @property
    def others(self) -> tuple[str, ...]:
        """Axes for time points and channels."""
        ...

    def part(self, position: tuple[int, ...], window: Sequence[slice]) -> NDArray[Any]:
        """Return a window for one time point and channel."""
        ...


@dataclass(frozen=True)
class Job:
    """An image to warp, its layout below ``place`` in the store, a warper per level."""

    layout: Layout
    warpers: Sequence[PartMaker | None]
    how: Interpolation
    place: str = ""


def _job(
    field: xr.Dataset,
    images: Sequence[xr.DataArray],
    target: Grid,
    how: Interpolation,
    levels_from: str,
    options: tuple[Any, ...],
) -> Job:
    """Return what is to be done for an image, of which ``images`` are the levels."""
    dtype = make_warper(field, images[0], target, how).dtype
    layout = _layout(images[0], target, dtype, *options)
    grids = [grid_of(v, "moving").to_units(target.units, "moving") for v in images]
    sources = _sources(grids, layout.grids, levels_from)
    warpers = [
        None
        if source is None
        else replace(make_warper(field, images[source], grid, how), dtype=dtype)
        for source, grid in zip(sources, layout.grids, strict=True)
    ]
    return Job(layout, warpers, how)


def _write_job(
    job: Job, output: Output, journal: Journal, done: Mapping[str, int]
) -> None:
    """Write all levels of an image."""
    count, layout = len(job.warpers), job.layout
    stores = [output.array(f"{job.place}{level_path(n)}") for n in range(count)]
    for number, (warper, store) in enumerate(zip(job.warpers, stores, strict=True)):
        level = _Level(
            # Names of files: those of labels have no slash.
            name=f"{job.place.replace('/', '.')}{number}",
            dims=tuple(str(d) for d in layout.image.dims),
            warper=warper,
            finer=stores[number - 1] if number else None,
            factors=layout.factors[number - 1] if number else (),
            labels=job.how.keeps_values,
            store=store,
            journal=journal,
        )
        _write_level(level, done)


def _layout(
    image: xr.DataArray, target: Grid, dtype: np.dtype[Any], *options: Any
) -> Layout:
    """Return the layout of the store."""
    others = [image.sizes[d] for d in image.dims if d not in target.dims]
    data = dask.array.zeros((*others, *target.shape), dtype=dtype, chunks=-1)
    return make_layout(warped_like(image, target, data), *options)


def _sources(
    moving: Sequence[Grid], result: Sequence[Grid], levels_from: str
) -> list[int | None]:
    """Return the level of the moving image that each level is resampled from.

    None is a level that is built from the one before.
    """
    if levels_from == "finest":
        return [0, *(None for _ in result[1:])]
    sources: list[int | None] = []
    for grid in result:
        ratios = [np.divide(own.spacing, grid.spacing) for own in moving]
        fine = [i for i, ratio in enumerate(ratios) if ratio.max() <= COARSEST]
        chosen = max(fine, default=0)
        near = ratios[chosen].min() >= FINEST
        sources.append(chosen if near or not sources else None)
    return sources


def _description(job: Job) -> str:
    """Return text that differs if any bit of the result may differ."""
    layout, image = job.layout, job.layout.image
    values = {
        "xdreg": installed_version("xdreg"),
        "source": tokenize(*job.warpers),
        "grids": [grid.to_dict() for grid in layout.grids],
        "dims": [str(d) for d in image.dims],
        "sizes": list(image.shape),
        "dtype": str(image.dtype),
        "chunks": list(layout.chunks),
        "together": layout.together,
        "place": job.place + level_path(0),
        "version": layout.version,
        "name": layout.name,
        "labels": {
            d: image[d].values.tolist() for d in ("t", "c", OMERO) if d in image.coords
        },
    }
    return json.dumps(values, indent=1, default=str)


@dataclass(frozen=True)
class _Level:
    """One level of the result, resampled by ``warper`` or built from ``finer``."""

    name: str
    dims: tuple[str, ...]
    warper: PartMaker | None
    finer: zarr.Array[Any] | None
    factors: tuple[int, ...]
    labels: bool
    store: zarr.Array[Any]
    journal: Journal

    @property
    def region(self) -> tuple[int, ...]:
        """Voxels of a region along each axis: a multiple of the chunk shape."""
        chunks: tuple[int, ...] = self.store.shards or self.store.chunks
        if self.warper is None:
            return chunks
        ndim = self.warper.target.ndim
        most = CHUNK[ndim]
        spatial = [n * max(most // n, 1) for n in chunks[-ndim:]]
        # Neighbouring chunks read the same chunks of the moving image.
        for axis in range(ndim)[::-1]:
            wider = [n * (1 + (i == axis)) for i, n in enumerate(spatial)]
            if math.prod(wider) <= MOST_TOGETHER and self._pieces(wider) >= FEWEST:
                spatial = wider
        return (*chunks[:-ndim], *spatial)

    def _pieces(self, spatial: Sequence[int]) -> int:
        """Return the number of regions of a given extent."""
        whole = self.store.shape[-len(spatial) :]
        return math.prod(-(-n // m) for n, m in zip(whole, spatial, strict=True))

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of regions along each axis."""
        sizes = zip(self.store.shape, self.region, strict=True)
        return tuple(-(-n // size) for n, size in sizes)

    def window(self, number: int) -> tuple[slice, ...]:
        """Return the window of a region."""
        index = np.unravel_index(number, self.counts)
        axes = zip(index, self.region, self.store.shape, strict=True)
        return tuple(
            slice(int(i) * size, min((int(i) + 1) * size, n)) for i, size, n in axes
        )

    def make(self, window: tuple[slice, ...]) -> NDArray[Any]:
        """Return the voxels of a region in the dtype of the store."""
        values = self._means(window) if self.warper is None else self._warped(window)
        return values.astype(self.store.dtype, copy=False)

    def _warped(self, window: tuple[slice, ...]) -> NDArray[Any]:
        warper = self.warper
        assert warper is not None
        ndim = warper.target.ndim
        place = dict(zip(self.dims, window, strict=True))
        position = tuple(place[dim].start for dim in warper.others)
        values = warper.part(position, window[-ndim:])
        return values.reshape((1,) * (len(window) - ndim) + values.shape)

    def _means(self, window: tuple[slice, ...]) -> NDArray[Any]:
        """Return a region built from the level before, as in `xdreg.save`."""
        assert self.finer is not None
        steps = (1,) * (len(window) - len(self.factors)) + self.factors
        wide = tuple(
            slice(part.start * step, part.stop * step)
            for part, step in zip(window, steps, strict=True)
        )
        values = dask.array.from_array(np.asarray(self.finer[wide]), chunks=-1)
        coarse = downsample(values, self.factors, labels=self.labels)
        return np.asarray(coarse.compute(scheduler="synchronous"))


def _write_level(level: _Level, done: Mapping[str, int]) -> None:
    """Write every region of a level on the active scheduler."""
    count = math.prod(level.counts)
    known = [(n, done.get(_name(level, n), -1)) for n in range(count)]
    together = -(-count // MOST_TASKS)
    numbers = dask.array.from_array(np.array(known, np.int64), chunks=(together, 2))
    dask.array.map_blocks(
        _write_regions,
        numbers,
        level=shared(level, f"warp_to {level.name}"),
        chunks=(numbers.chunks[0], (1,)),
        dtype=bool,
        meta=np.empty((0, 0), bool),
    ).compute()


def _name(level: _Level, number: int) -> str:
    """Return the journal's name of a region."""
    return f"{level.name}.{number}"


def _write_regions(numbers: NDArray[np.int64], level: _Level) -> NDArray[np.bool_]:
    """Write regions, given by number and checksum, or -1 if not written yet."""
    for number, known in numbers.tolist():
        window = level.window(number)
        if known >= 0 and _is_intact(level, window, known):
            continue
        try:
            values = level.make(window)
        except Exception as error:
            error.add_note(f"in warp_to, level {level.name}, at {window}")
            raise
        level.store[window] = values
        level.journal.add(_name(level, number), checksum(values))
    return np.ones((len(numbers), 1), bool)


def _is_intact(level: _Level, window: tuple[slice, ...], known: int) -> bool:
    """Return whether a region has the checksum; a power cut may have damaged it."""
    try:
        return checksum(np.asarray(level.store[window])) == known
    except Exception:  # decoding a damaged chunk may raise anything
        return False
