"""The stages of a registration and their options.

Stages are frozen values. An option left at None is derived from the images when the
registration is planned. All options are checked here, before work starts.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_args

import numpy as np

from xdreg.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

Metric = Literal["lncc", "mind", "ncc", "mi", "msd"]

#: A metric, or ``"auto"``: one of xdreg's own is chosen when the run starts.
MetricOrAuto = Literal["auto", "lncc", "mind", "ncc", "mi", "msd"]
PerAxis = float | Sequence[float]

#: Voxels, or a share of the block such as 0.1 or ``"10%"``.
Overlap = float | str | Sequence[float | str]

#: Kinds of linear transform.
Kind = Literal["translation", "rigid", "similarity", "affine"]

#: Starts that are named: the middles of the imaged regions, or of what they show.
CENTERS = ("centers", "centers_of_mass")

#: Devices that blocks are registered on; ``"auto"`` is one of the others.
Device = Literal["cpu", "cuda", "auto"]

#: Metrics of xdreg's own engines.
OwnMetric = Literal["lncc", "mind"]
OWN_METRICS: tuple[Metric, ...] = get_args(OwnMetric)

#: For each metric that elastix or xdreg's own engines lack, the nearest that they have.
ELASTIX_NEAREST: Mapping[str, Metric] = {"lncc": "ncc", "mind": "mi"}
OWN_NEAREST: Mapping[str, Metric] = {"ncc": "lncc", "msd": "lncc", "mi": "mind"}

#: Options of stages that are numbers above zero, and those that are whole numbers.
_NUMBERS = (
    "iterations", "timeout", "field_step", "radius", "update_sigma", "field_sigma",
    "step", "convergence", "grid_spacing", "samples", "landmark_weight",
)  # fmt: skip
_WHOLE = ("iterations", "field_step", "samples")


class RegistrationMethod(Protocol):
    """A function that registers a pair of small images on one grid.

    ``fixed`` and ``moving`` are DataArrays ``([c], [z], y, x)``, each with a boolean
    coordinate ``mask`` of the voxels that count; ``moving`` is already pulled through
    the field so far. Returns an ``itk.Transform``, a homogeneous matrix in dims order,
    or a displacement DataArray ``(component, [z], y, x)`` in physical units, fixed →
    moving.
    """

    def __call__(
        self, fixed: xr.DataArray, moving: xr.DataArray, *args: Any, **options: Any
    ) -> Any:
        """Register the pair."""


class BlockReduction(Protocol):
    """A function that makes one transform of the blocks of a stage.

    It is given an iterator of `xdreg.BlockResult`, one for each block. Returns the
    update that comes before the field so far: a homogeneous matrix, an
    ``itk.Transform``, or a displacement as a `RegistrationMethod` returns it.
    """

    def __call__(self, results: Iterator[Any], *args: Any, **options: Any) -> Any:
        """Reduce the results."""


def _check_choice(value: object, choices: tuple[str, ...], name: str) -> None:
    if not isinstance(value, str) or value not in choices:
        msg = f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}"
        raise InputError(msg)


def check_level(level: object, name: str) -> None:
    """Raise if a level of a pyramid is not a whole number from 0."""
    if isinstance(level, bool) or not isinstance(level, int) or level < 0:
        msg = f"{name} must be a whole number from 0, the finest; got {level!r}"
        raise InputError(msg)


def _check_positive(value: object, name: str) -> None:
    whole = name in _WHOLE
    values = value if isinstance(value, (list, tuple)) else [value]
    kinds = int if whole else (int, float)
    for v in values:
        largest = sys.float_info.max
        if isinstance(v, bool) or not isinstance(v, kinds) or not 0 < v <= largest:
            kind = "a whole number" if whole else "a number"
            msg = f"{name} must be {kind} above zero, got {value!r}"
            raise InputError(msg)


def checked_bytes(limit: int | str | None, name: str) -> int | None:
    """Return an amount of memory in bytes, given as a number or such as ``"2 GB"``."""
    if limit is None:
        return None
    from dask.utils import parse_bytes  # importing Dask takes long

    size = 0
    if isinstance(limit, int | np.integer) and not isinstance(limit, bool):
        size = int(limit)
    # parse_bytes returns 1 for an empty text.
    elif isinstance(limit, str) and limit.strip():
        with contextlib.suppress(ValueError, OverflowError):
            size = parse_bytes(limit)
    if size <= 0:
        msg = f"{name} must be bytes, as 2_000_000_000 or '2 GB', got {limit!r}"
        raise InputError(msg)
    return size


def _check_memory(stage: Stage, limit: int | str | None) -> None:
    size = checked_bytes(limit, "memory_limit")
    object.__setattr__(stage, "memory_limit", size)


def check_metric(metric: object, *, auto: bool = False) -> None:
    """Raise if a metric does not exist; ``"auto"`` only where it is allowed."""
    _check_choice(metric, get_args(MetricOrAuto if auto else Metric), "metric")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The options of every stage.

    Parameters
    ----------
    level
        Level of the fixed image's pyramid, 0 the finest. By default derived.
    metric
        ``"lncc"`` squared local correlation and ``"ncc"`` correlation, for images of
        one modality; ``"mind"`` self-similarity descriptors and ``"mi"`` mutual
        information, across modalities and stains; ``"msd"`` mean squared difference.
        By default the one given to ``register``, or the nearest that the stage has.
    iterations
        Iterations of the optimiser; with elastix per resolution.
    timeout
        Seconds after which a block is stopped; by default never.
    """

    #: Whether the result is one linear transform of the whole image.
    linear: ClassVar[bool] = False
    #: The nearest that the stage has, for each metric that it lacks.
    nearest_metric: ClassVar[Mapping[str, Metric]] = {}
    #: Options that are passed to the method by the same name if they are set.
    passed_on: ClassVar[tuple[str, ...]] = ("iterations", "timeout")
    #: Options that may be one number, or one per dim.
    axis_options: ClassVar[tuple[str, ...]] = ()

    level: int | None = None
    metric: Metric | None = None
    iterations: int | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        if self.level is not None:
            check_level(self.level, "level")
        if self.metric is not None:
            check_metric(self.metric)
            if self.metric in self.nearest_metric:
                msg = (
                    f"{type(self).__name__} has no metric {self.metric!r}; the nearest "
                    f"is {self.nearest_metric[self.metric]!r}"
                )
                raise InputError(msg)
        for name in _NUMBERS:
            if getattr(self, name, None) is not None:
                _check_positive(getattr(self, name), name)

    @property
    def name(self) -> str:
        """The stage's kind, in lower case."""
        return type(self).__name__.lower()

    def check_axes(self, ndim: int) -> None:
        """Raise if an option with one number per dim has another number of them."""
        for name in self.axis_options:
            value = getattr(self, name)
            if isinstance(value, (list, tuple)) and len(value) != ndim:
                msg = (
                    f"{name} of {type(self).__name__} must be one number or {ndim}, "
                    f"one per dim, got {value!r}"
                )
                raise InputError(msg)

    def engine_options(self) -> dict[str, Any]:
        """Return the options for the engine that were set."""
        values = {name: getattr(self, name) for name in self.passed_on}
        return {name: value for name, value in values.items() if value is not None}

    def with_metric(self, metric: MetricOrAuto) -> Stage:
        """Return the stage with a metric, unless it has its own or ``"auto"``."""
        if metric == "auto" or self.metric is not None:
            return self
        return replace(self, metric=self.nearest_metric.get(metric, metric))


@dataclass(frozen=True, kw_only=True)
class Linear(Stage):
    """A stage whose result is one linear transform of the whole image.

    Registered by xdreg's own engine with ``metric="lncc"`` or ``"mind"``, else by
    elastix. The first stage of a registration searches for the pose to start from: all
    shifts, and unless it is a translation also rotations, up to about 60° in 3-D and
    any in 2-D. The ``timeout`` applies to what follows the search.

    Parameters
    ----------
    samples
        Voxels drawn in each iteration, by elastix only: xdreg's own engine takes all.
    """

    linear: ClassVar[bool] = True
    passed_on: ClassVar[tuple[str, ...]] = ("iterations", "samples", "timeout")

    samples: int | None = None

    def with_metric(self, metric: MetricOrAuto) -> Stage:
        """Return the stage with a metric, unless it has its own."""
        stage = super().with_metric(metric)
        if self.samples is not None and stage.metric in (*OWN_METRICS, None):
            chosen = stage.metric or metric
            msg = (
                f"samples={self.samples} is for elastix, and {chosen!r} takes "
                "every voxel; leave it out, or choose the metric ncc, mi or msd"
            )
            raise InputError(msg)
        return stage


@dataclass(frozen=True, kw_only=True)
class Translation(Linear):
    """Find a shift of the whole image."""


@dataclass(frozen=True, kw_only=True)
class Rigid(Linear):
    """Find a rotation and a shift of the whole image."""


@dataclass(frozen=True, kw_only=True)
class Similarity(Linear):
    """Find a rotation, a shift and one scale of the whole image."""


@dataclass(frozen=True, kw_only=True)
class Affine(Linear):
    """Find an affine transform of the whole image."""


@dataclass(frozen=True, kw_only=True)
class Blockwise(Stage):
    """The options of every stage that runs block by block.

    Parameters
    ----------
    block_shape, overlap
        Size of a block, and by how much its window exceeds it on every side, in voxels
        of the stage's level; one number, or one per dim. By default those given to
        ``register``. An overlap below 1, or such as ``"10%"``, is a share of the block.
    field_step
        Voxels of the stage's level between points of the displacement field. By default
        2 at the finest level of the registration, and 1 before.
    """

    block_shape: int | Sequence[int] | None = None
    overlap: Overlap | None = None
    field_step: int | Sequence[int] | None = None


@dataclass(frozen=True, kw_only=True)
class LocalCorrelation(Blockwise):
    """Diffeomorphic registration by local correlation, block by block, in threads.

    Ascends the gradient of the squared correlation in a box around every voxel, or of
    the similarity of descriptors with ``metric="mind"``. Each update is smoothed,
    bounded and applied by composition, and the total is smoothed, so that the field
    does not fold.

    Parameters
    ----------
    radius
        Half-width of the box in physical units; one number, or one per dim. By default
        6 voxels of the stage's level in 3-D, 5 in 2-D; on levels before the finest at
        most an eighth of the image's mean extent. With ``"mind"`` the half-width of the
        patches compared, by default 1 voxel.
    update_sigma, field_sigma
        Standard deviation, in physical units, of the Gaussian that smooths each update,
        and the total after a step of one voxel; one number, or one per dim. By default
        3 and 1.2 voxels in 3-D, but 2 and 0.7 at the finest level of the registration;
        8 and 3 in 2-D. Twice as much with ``"mind"``.
    step
        Longest vector of an update, in voxels. Halved when it improves no further.
    convergence
        A step improves no further when the energy rises by less than this share per
        iteration. By default 0.006 at the finest level of the registration. On levels
        before it 0.001 in 3-D, or 0.0001 with ``search``; 0.002 in 2-D; and 0.00003
        with ``"mind"``.
    landmarks
        Pairs of points that the field passes: what `landmarks` returns, ``(fixed,
        moving)`` of what it takes, or the path of BigWarp's CSV. Those that no smooth
        map has together with the others are left out, with a warning.
    landmark_weight
        The field passes them within half a mean voxel of the level divided by this; by
        default 1.
    search
        Whether a block searches for large motion: with narrower boxes in between, in
        3-D, and by a discrete search over a quarter of its window, which gives a second
        starting point. By default where one block of few voxels holds the whole image.
    device
        ``"cuda"`` registers the blocks on a GPU, through CuPy. The field then differs
        by rounding. ``"auto"`` does if all processes that may be given a block have
        one, which is decided when the run is planned. By default ``"cpu"``.

    References
    ----------
    Avants et al., Symmetric diffeomorphic image registration with cross-correlation,
    Medical Image Analysis 2008; Yushkevich et al., Human Brain Mapping 2015 (greedy);
    Vercauteren et al., Diffeomorphic demons, NeuroImage 2009; Heinrich et al., MICCAI
    2013 (MIND-SSC) and WBIR 2014 (the search).
    """

    nearest_metric: ClassVar[Mapping[str, Metric]] = OWN_NEAREST
    passed_on: ClassVar[tuple[str, ...]] = (
        "iterations", "timeout", "radius", "update_sigma", "field_sigma", "step",
        "convergence", "search", "device",
    )  # fmt: skip
    axis_options: ClassVar[tuple[str, ...]] = ("radius", "update_sigma", "field_sigma")

    radius: PerAxis | None = None
    update_sigma: PerAxis | None = None
    field_sigma: PerAxis | None = None
    step: float | None = None
    convergence: float | None = None
    search: bool | None = None
    device: Device = "cpu"
    landmarks: Any = None
    landmark_weight: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.landmark_weight is not None and self.landmarks is None:
            msg = "landmark_weight is for landmarks, and none are given; leave it out"
            raise InputError(msg)
        if self.landmarks is not None and self.device == "cuda":
            msg = "landmarks constrain a registration on the CPU alone; take it"
            raise InputError(msg, device="cpu")
        if self.search is not None and not isinstance(self.search, bool):
            msg = f"search must be True or False, got {self.search!r}"
            raise InputError(msg)
        _check_choice(self.device, get_args(Device), "device")

    @property
    def name(self) -> str:
        """The method's own name."""
        return "local_correlation"


@dataclass(frozen=True, kw_only=True)
class BSpline(Blockwise):
    """Free-form deformation by cubic B-splines, block by block, through elastix.

    Parameters
    ----------
    grid_spacing
        Distance of control points in physical units; one number, or one per dim. By
        default 6 voxels of the stage's level in three dimensions, 10 in two.
    samples
        Voxels drawn in each iteration.
    memory_limit
        Memory limit of a block's process in bytes, as a number or as ``"2 GB"``. A
        block that exceeds it counts as crashed. By default three times the plan's
        estimate.

    References
    ----------
    Rueckert et al., Nonrigid registration using free-form deformations, IEEE TMI 1999;
    Klein et al., elastix: a toolbox for intensity-based medical image registration,
    IEEE TMI 2010.
    """

    nearest_metric: ClassVar[Mapping[str, Metric]] = ELASTIX_NEAREST
    passed_on: ClassVar[tuple[str, ...]] = (
        "iterations", "timeout", "samples", "grid_spacing",
    )  # fmt: skip
    axis_options: ClassVar[tuple[str, ...]] = ("grid_spacing",)

    grid_spacing: PerAxis | None = None
    samples: int | None = None
    memory_limit: int | str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_memory(self, self.memory_limit)


@dataclass(frozen=True, kw_only=True)
class Consensus(Blockwise):
    """One linear transform on which the blocks of the image agree.

    For images that share one motion, at a level too large to be registered whole. Every
    block is registered by xdreg's own engine. The transform is that on which most
    blocks agree, each weighted by its similarity. Up to half of the blocks may be
    outliers, which are left out and ``rejected``.

    Parameters
    ----------
    transform
        ``"translation"``, ``"rigid"``, ``"similarity"`` or ``"affine"``.
    """

    nearest_metric: ClassVar[Mapping[str, Metric]] = OWN_NEAREST
    passed_on: ClassVar[tuple[str, ...]] = ("iterations", "timeout", "transform")

    transform: Kind = "rigid"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_choice(self.transform, get_args(Kind), "transform")


@dataclass(frozen=True, kw_only=True)
class Custom(Blockwise):
    """Your own registration method, run block by block in processes.

    Parameters
    ----------
    method
        ``method(fixed, moving, **options)`` of two small images on one grid; returns an
        ``itk.Transform`` or a displacement, as described in `xdreg.RegistrationMethod`.
    options
        Keyword arguments for the method.
    isolated
        By default the method runs in processes that are reused from block to block. A
        crash in native code or an exceeded limit then costs one block. False runs it in
        the worker's threads, where its output is seen, and where a crash in native code
        ends the worker.
    memory_limit
        Memory limit of such a process in bytes, as a number or as ``"2 GB"``. A block
        that exceeds it counts as crashed. By default 80 % of the machine's memory.
    reduction
        In place of blending the blocks, ``reduction(results)`` of an iterator of
        `xdreg.BlockResult` returns the update that comes before the field so far; see
        `xdreg.BlockReduction`. Or a kind such as ``"rigid"``: the linear transform on
        which most blocks agree, as in `Consensus`.
    version
        Stands for what your method uses and of which the content cannot be known, such
        as a handle to a device: change it together with that. A work directory needs
        it where there is such a thing. All else is found to have changed by itself.
    """

    method: RegistrationMethod
    options: Mapping[str, Any] = field(default_factory=dict)
    isolated: bool = True
    memory_limit: int | str | None = None
    reduction: Kind | BlockReduction | None = None
    version: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.version, str | None):
            msg = f"version must be text, such as '2', got {self.version!r}"
            raise InputError(msg)
        if self.reduction is not None and not callable(self.reduction):
            _check_choice(self.reduction, get_args(Kind), "reduction")
        if not callable(self.method):
            msg = f"method must be a function of two images, got {self.method!r}"
            raise InputError(msg)
        _check_memory(self, self.memory_limit)
        if not isinstance(self.options, Mapping) or not all(
            isinstance(key, str) for key in self.options
        ):
            msg = f"options must be a dict of keyword arguments, got {self.options!r}"
            raise InputError(msg)
        if self.iterations:
            msg = "iterations would not reach your method; put them into options={...}"
            raise InputError(msg)
        limits = [n for n in ("timeout", "memory_limit") if getattr(self, n)]
        if limits and not self.isolated:
            names = " and ".join(limits)
            msg = f"{names} cannot be enforced in a thread; leave isolated=False out"
            raise InputError(msg)

    @property
    def name(self) -> str:
        """The method's own name."""
        return getattr(self.method, "__name__", "custom")


#: Stages that a name stands for, with their default options.
NAMED_STAGES: Mapping[str, type[Stage]] = {
    "translation": Translation,
    "rigid": Rigid,
    "similarity": Similarity,
    "affine": Affine,
    "local_correlation": LocalCorrelation,
    "bspline": BSpline,
    "consensus": Consensus,
}


def as_stage(stage: object, finest_level: int = 0) -> Stage:
    """Return a stage: itself, by its name, or of a function on the finest level."""
    if isinstance(stage, (Linear, Blockwise)):
        return stage
    if isinstance(stage, str) and stage in NAMED_STAGES:
        return NAMED_STAGES[stage]()
    if callable(stage) and not isinstance(stage, type):
        return Custom(method=stage, level=finest_level)
    msg = (
        f"a stage must be xdreg.Translation(), Rigid(), Similarity(), Affine(), "
        f"LocalCorrelation(), BSpline(), Consensus(), Custom(method=...), a function "
        f"of two images, or a name among {', '.join(NAMED_STAGES)}; got {stage!r}"
    )
    raise InputError(msg)
