"""The functions that register a pair, and plan it: checks first, then the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask
import xarray as xr

from xdreg.fields.landmarks import THIN_PLATE
from xdreg.registration.inputs import (
    check_fresh,
    check_methods,
    check_mirror,
    pair_images,
    retried,
)
from xdreg.registration.manifest import check_known, run_manifest
from xdreg.registration.placement import place
from xdreg.registration.plan import Plan
from xdreg.registration.planning import make_plan
from xdreg.registration.resources import Resources
from xdreg.registration.run import Run
from xdreg.registration.workdir import WorkDirectory
from xdreg.stores.apart import check_apart

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from xdreg.partition import BlockStatus
    from xdreg.registration.inputs import Channels
    from xdreg.registration.progress import Listener
    from xdreg.registration.source import PairImage, Source
    from xdreg.stages import MetricOrAuto, Overlap


def register(
    fixed: Any,
    moving: Any,
    *,
    stages: Any = None,
    metric: MetricOrAuto = "auto",
    block_shape: int | Sequence[int] | None = None,
    overlap: Overlap | None = None,
    finest_level: int = 0,
    fixed_mask: Any = None,
    moving_mask: Any = None,
    initial: Any = None,
    allow_mirror: bool = False,
    channel: Channels = None,
    moving_channel: Channels = None,
    workdir: str | Path | None = None,
    retry: str | Sequence[str] = (),
    fresh: bool = False,
    workers: int | None = None,
    memory: int | str | None = None,
    progress: bool | Listener = True,
    compute: bool = True,
) -> xr.Dataset:
    """Find the displacement field that maps the fixed image onto the moving one.

    Runs stage by stage, from coarse to fine, each in overlapping blocks. With a
    ``dask.distributed`` client active the blocks run there, else on all local cores.

    Parameters
    ----------
    fixed, moving : DataTree, DataArray or itk.Image
        The pair, two- or three-dimensional, with physical coordinates.
    stages
        A stage or a list of them, such as ``[xdreg.Affine(), xdreg.BSpline(level=1)]``,
        names of stages, such as ``"affine"``, or functions of two images. By default
        affine, then local correlation from a coarse to the finest level.
    metric
        ``"lncc"``, local correlation, or ``"ncc"`` for images of one modality;
        ``"mind"``, self-similarity, or ``"mi"``, mutual information, across modalities
        and stains; ``"msd"`` where intensities are equal. A stage that lacks it uses
        the nearest that it has. With ``"auto"``, the default, ``"lncc"`` or ``"mind"``
        is chosen on a coarse level; the field's attribute ``metric`` states which and
        why.
    block_shape
        Size of a block in voxels of the stage's level; one number or one per dim. By
        default 192 in 3-D and 1024 in 2-D, for `BSpline` 64 and 1024, or the whole
        level if that is smaller. Linear stages have one block, the image.
    overlap
        Voxels by which a block's window exceeds it on every side. By default 8
        in 3-D and 32 in 2-D, for `BSpline` 16, and at most half a block. A number below
        1, or text such as ``"10%"``, is a share of the block.
    finest_level
        Finest level of the fixed image to register, by default 0, its voxels. In 3-D
        each level less saves about seven eighths of the time, and details of a few
        voxels; `plan` compares them. A stage that asks for a finer one is refused.
    fixed_mask, moving_mask : DataArray, DataTree, "auto" or False, optional
        Voxels that count are not zero. On the grid of any level of its image. By
        default all voxels count but NaN and padding: pieces of one value that reach the
        border, unless they surround a whole object. False counts padding, too.
        ``"auto"`` leaves out a uniform background around the content, except in linear
        stages, which need the content's outline.
    initial : itk.Transform, Dataset, matrix, LandmarkTransform or str, optional
        Where to start: a transform, a field, a homogeneous matrix (ndim + 1, ndim + 1)
        in dims order, fixed → moving, physical units, or `landmarks`. ``"centers"``
        starts centre on centre, and ``"centers_of_mass"`` with the centres of what
        differs from the images' borders.
        By default the first linear stage searches the pose, and images that do not
        overlap start centre on centre; the attribute ``start`` then says so.
    allow_mirror
        Also take a pose that mirrors the moving image, where it fits better. Without
        it, such a pose causes a warning with the matrix to pass as ``initial``.
    channel, moving_channel
        Index or name of the channel to register, or ``"luminance"`` of an RGB image
        (weights of ITU-R BT.709). ``moving_channel`` is ``channel`` unless given, if
        the moving image has channels. A list of channels, or ``"all"``, is registered
        jointly: `LocalCorrelation` sums the forces of all pairs of channels; the pose,
        linear stages and the choice of a metric use the first.
    workdir
        Directory to keep the run in. The same call again resumes it. By default a
        temporary one, removed when Python ends. A plan states its size.
    retry
        Statuses of blocks that run again when a run is resumed, such as
        ``("crashed", "timeout")``; results that depend on them are made again. Only
        ``timeout`` and ``memory_limit`` may differ from the earlier call.
    fresh
        Remove the run that ``workdir`` holds, and start anew: for images that changed
        in a way that cannot be seen, or a run that is not wanted any more.
    workers
        Most blocks at once on this machine, and threads of what is no block. By default
        one per core. The result does not depend on it.
    memory
        Bytes of memory for the run on this machine, such as ``"8 GB"``; images that are
        in memory already come on top. Fewer blocks run at once where it is short. By
        default as much as ``workers`` take. A cluster's workers have their own limits.
    progress
        Show a line per stage, on a terminal and in a notebook. Or a function that is
        called with an `xdreg.Advance` during the run, from any thread. If it raises, no
        further block starts and ``register`` raises the same; finished blocks stay in
        ``workdir``.
    compute
        False checks everything and returns a ``dask.delayed`` object that runs.

    Returns
    -------
    Dataset
        ``displacement (component, [z], y, x)`` float32 in the units of the fixed
        coordinates, ``x_moving = x_fixed + u(x_fixed)``, with a status and diagnostics
        for every block. Backed lazily by the work directory.

    Raises
    ------
    InputError
        If an argument does not fit, ``memory`` is too little for a block, or
        ``workdir`` holds another registration, before any block runs. If an image is
        written while it is registered, at the end.
    StoreError
        If the work directory holds an image that is read, or lies in one.
    MethodError
        If every block of a stage fails.

    Examples
    --------
    >>> import xdreg
    >>> pair = xdreg.datasets.phantom_pair((48, 56), amplitude=2.0)
    >>> field = register(pair.fixed, pair.moving, progress=False)
    >>> field.displacement.dims
    ('component', 'y', 'x')
    """
    request = checked(
        fixed,
        moving,
        (channel, moving_channel),
        (fixed_mask, moving_mask),
        initial,
        workdir,
        retry,
        fresh=fresh,
        allow_mirror=allow_mirror,
        stages=stages,
        metric=metric,
        block_shape=block_shape,
        overlap=overlap,
        finest_level=finest_level,
        resources=Resources.of(workers, memory),
    )
    # Made here, so that a temporary one lasts as long as this Python.
    run = request.claimed(WorkDirectory(workdir))
    if compute:
        return run(progress)
    # Dask would load the images that it finds inside. They may be written meanwhile.
    later = dask.delayed(run, pure=False, traverse=False)
    return later(progress, check=True)  # type: ignore[no-any-return]


def plan(
    fixed: Any,
    moving: Any,
    *,
    stages: Any = None,
    metric: MetricOrAuto = "auto",
    block_shape: int | Sequence[int] | None = None,
    overlap: Overlap | None = None,
    finest_level: int = 0,
    fixed_mask: Any = None,
    moving_mask: Any = None,
    initial: Any = None,
    allow_mirror: bool = False,
    channel: Channels = None,
    moving_channel: Channels = None,
    workdir: str | Path | None = None,
    retry: str | Sequence[str] = (),
    fresh: bool = False,
    workers: int | None = None,
    memory: int | str | None = None,
    progress: bool | Listener = True,
    compute: bool = True,
) -> Plan:
    """Return the plan of `register` with the same arguments; nothing runs.

    Parameters
    ----------
    fixed, moving : DataTree, DataArray or itk.Image
        The pair.
    stages, metric, block_shape, overlap, finest_level
        As in `register`.
    fixed_mask, moving_mask, initial, allow_mirror, channel, moving_channel
        As in `register`.
    workdir, retry, fresh
        As in `register`, which would refuse what is refused here.
    workers, memory
        As in `register`: the plan states how many blocks run at once.
    progress, compute
        Without a meaning here, so that the arguments of `register` can be passed on.

    Returns
    -------
    Plan
        Printing it shows a table of stages. The metric ``"auto"`` is not chosen yet:
        that would read the images.

    Raises
    ------
    InputError, StoreError
        As in `register`, apart from those about what ``workdir`` holds.
    """
    return checked(
        fixed,
        moving,
        (channel, moving_channel),
        (fixed_mask, moving_mask),
        initial,
        workdir,
        retry,
        fresh=fresh,
        allow_mirror=allow_mirror,
        stages=stages,
        metric=metric,
        block_shape=block_shape,
        overlap=overlap,
        finest_level=finest_level,
        resources=Resources.of(workers, memory),
    ).plan


@dataclass(frozen=True)
class Request:
    """A registration whose arguments were checked; the first parameters are of `Run`.

    ``again`` are statuses of blocks to run again, ``manifest`` describes the request as
    it is now.
    """

    plan: Plan
    fixed: PairImage
    moving: PairImage
    start: Any
    said: str | None
    again: tuple[BlockStatus, ...]
    fresh: bool
    allow_mirror: bool

    def manifest(self) -> dict[str, Any]:
        """Describe the run."""
        pair = self.fixed, self.moving
        return run_manifest(
            self.plan, self.start, *pair, allow_mirror=self.allow_mirror
        )

    def claimed(
        self, directory: WorkDirectory, shared: Source | None = None, name: str = ""
    ) -> Run:
        """Claim a work directory, and return the run; the last are those of `Run`."""
        manifest = self.manifest()
        if not directory.temporary:
            check_known(manifest)
        with directory.writing():
            directory.claim(manifest, self.manifest, fresh=self.fresh)
        return Run(
            self.plan,
            self.fixed,
            self.moving,
            self.start,
            self.said,
            directory,
            manifest,
            self.again,
            shared,
            name,
        )


def checked(
    fixed: Any,
    moving: Any,
    channels: tuple[Channels, Channels],
    masks: tuple[Any, Any],
    initial: Any,
    workdir: str | Path | None,
    retry: str | Sequence[str],
    *,
    fresh: bool,
    allow_mirror: bool,
    **planned: Any,
) -> Request:
    """Check the arguments of `register`, and return what to run."""
    made = make_plan(fixed, moving, **planned, initial_is_field=_is_field_like(initial))
    check_methods(made)
    pair = pair_images(made, channels, masks)
    start, said = place(initial, made, pair)
    check_mirror(made, start if said is None else None, allow_mirror=allow_mirror)
    again = tuple(retried(retry, workdir))
    check_fresh(fresh, again, workdir)
    if workdir is not None:
        stored = (m for m in masks if not isinstance(m, str | bool))
        check_apart(workdir, fixed, moving, *stored, initial, what="workdir")
    return Request(made, *pair, start, said, again, fresh, allow_mirror)


def _is_field_like(initial: Any) -> bool:
    """Return whether a run starts from more than a linear transform."""
    if hasattr(initial, "IsLinear"):
        return not initial.IsLinear()
    return isinstance(initial, xr.Dataset) or getattr(initial, "kind", "") == THIN_PLATE
