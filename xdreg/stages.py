"""What a user may choose: the stages of a registration and their options.

Stages are frozen values. An option left at None is derived from the images when the
registration is planned; everything is checked here, before any work starts.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from xdreg.errors import InputError

Metric = Literal["lncc", "mind", "ncc", "mi", "msd"]

#: A metric, or to have one of xdreg's own chosen when the run starts.
MetricOrAuto = Literal["auto", "lncc", "mind", "ncc", "mi", "msd"]
PerAxis = float | Sequence[float]

#: Kinds of linear transform.
Kind = Literal["translation", "rigid", "similarity", "affine"]

#: Metrics of xdreg's own engine.
OwnMetric = Literal["lncc", "mind"]
OWN_METRICS: tuple[Metric, ...] = get_args(OwnMetric)

#: Elastix has metrics of whole images only.
ELASTIX_NEAREST: Mapping[str, Metric] = {"lncc": "ncc", "mind": "mi"}


def _check_choice(value: object, choices: tuple[str, ...], name: str) -> None:
    if not isinstance(value, str) or value not in choices:
        msg = f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}"
        raise InputError(msg)


def _check_positive(value: object, name: str, *, whole: bool = False) -> None:
    values = value if isinstance(value, (list, tuple)) else [value]
    kinds = int if whole else (int, float)
    for v in values:
        largest = sys.float_info.max
        if isinstance(v, bool) or not isinstance(v, kinds) or not 0 < v <= largest:
            kind = "a whole number" if whole else "a number"
            msg = f"{name} must be {kind} above zero, got {value!r}"
            raise InputError(msg)


def _check_set(stage: Stage, name: str, *, whole: bool = False) -> None:
    if getattr(stage, name) is not None:
        _check_positive(getattr(stage, name), name, whole=whole)


def _check_memory(stage: Stage, limit: int | str | None) -> None:
    if limit is None:
        return
    from dask.utils import parse_bytes  # dask would double what `import xdreg` costs

    size = 0
    if isinstance(limit, int | np.integer) and not isinstance(limit, bool):
        size = int(limit)
    # Of no text at all parse_bytes makes one byte.
    elif isinstance(limit, str) and limit.strip():
        with contextlib.suppress(ValueError, OverflowError):
            size = parse_bytes(limit)
    if size <= 0:
        msg = f"memory_limit must be bytes, as 2_000_000_000 or '2 GB', got {limit!r}"
        raise InputError(msg)
    object.__setattr__(stage, "memory_limit", size)


def check_metric(metric: object, *, auto: bool = False) -> None:
    """Refuse a metric that does not exist, and ``"auto"`` unless it is allowed."""
    _check_choice(metric, get_args(MetricOrAuto if auto else Metric), "metric")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What every stage has.

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
        Seconds after which a block is given up; by default never.
    """

    #: The nearest that the stage has, for each metric that it lacks.
    nearest_metric: ClassVar[Mapping[str, Metric]] = {}
    #: Options that the method takes by the same name where they are set.
    passed_on: ClassVar[tuple[str, ...]] = ("iterations", "timeout")
    #: Options that may be one number, or one per dim.
    axis_options: ClassVar[tuple[str, ...]] = ()

    level: int | None = None
    metric: Metric | None = None
    iterations: int | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        if self.level is not None and (
            isinstance(self.level, bool)
            or not isinstance(self.level, int)
            or self.level < 0
        ):
            msg = f"level must be a whole number from 0, the finest; got {self.level!r}"
            raise InputError(msg)
        if self.metric is not None:
            check_metric(self.metric)
            if self.metric in self.nearest_metric:
                msg = (
                    f"{type(self).__name__} has no metric {self.metric!r}; the nearest "
                    f"is {self.nearest_metric[self.metric]!r}"
                )
                raise InputError(msg)
        _check_set(self, "iterations", whole=True)
        _check_set(self, "timeout")

    @property
    def name(self) -> str:
        """The stage's kind, in lower case."""
        return type(self).__name__.lower()

    def check_axes(self, ndim: int) -> None:
        """Refuse options with a number per dim that are not so many."""
        for name in self.axis_options:
            value = getattr(self, name)
            if isinstance(value, (list, tuple)) and len(value) != ndim:
                msg = (
                    f"{name} of {type(self).__name__} must be one number or {ndim}, "
                    f"one per dim, got {value!r}"
                )
                raise InputError(msg)

    def engine_options(self) -> dict[str, Any]:
        """Options for the engine: those that were set."""
        values = {name: getattr(self, name) for name in self.passed_on}
        return {name: value for name, value in values.items() if value is not None}

    def with_metric(self, metric: MetricOrAuto) -> Stage:
        """Return the stage with a metric, unless it has its own.

        With ``"auto"`` it stays open.
        """
        if metric == "auto" or self.metric is not None:
            return self
        return replace(self, metric=self.nearest_metric.get(metric, metric))


@dataclass(frozen=True, kw_only=True)
class Linear(Stage):
    """A stage whose result is one linear transform of the whole image.

    With ``metric="lncc"`` or ``"mind"`` by xdreg's own engine, else through elastix.
    The first stage of a registration looks for the pose to start from: all shifts, and
    for all but a translation turns, up to about 60° in space and any in a plane. The
    ``timeout`` is for what follows that search.

    Parameters
    ----------
    samples
        Voxels drawn in each iteration, by elastix only: xdreg's own engine takes all.
    """

    passed_on: ClassVar[tuple[str, ...]] = ("iterations", "samples", "timeout")

    samples: int | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        _check_set(self, "samples", whole=True)

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
    """A deformable stage: what every stage has that runs block by block.

    Parameters
    ----------
    block_shape, overlap
        Voxels of the stage's level in a block, and by which its window exceeds it on
        every side; one number, or one per dim. By default those given to ``register``.
    field_step
        Voxels of the stage's level between points of the displacement field. By default
        2 at the finest level of the registration, and 1 before.
    """

    block_shape: int | Sequence[int] | None = None
    overlap: int | Sequence[int] | None = None
    field_step: int | Sequence[int] | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        _check_set(self, "field_step", whole=True)


@dataclass(frozen=True, kw_only=True)
class LocalCorrelation(Blockwise):
    """Diffeomorphic registration by local correlation, block by block, in threads.

    Follows the gradient of the squared correlation in a box around every voxel, or with
    ``metric="mind"`` of self-similarity descriptors. Each update is smoothed, bounded
    and applied by composition, and the total is smoothed, so that the field does not
    fold.

    Parameters
    ----------
    radius
        Half-width of the box in physical units; one number, or one per dim. By default
        6 voxels of the stage's level in three dimensions, 5 in two, but before the
        finest level at most an eighth of the image's mean extent. For ``"mind"`` that
        of the patches compared, by default 1 voxel.
    update_sigma, field_sigma
        Gaussian smoothing in physical units of each update, and of the total after a
        step of one voxel; one number, or one per dim. By default 3 and 1.2 voxels in
        three dimensions, but 2 and 0.7 at the finest level of the registration; 8 and 3
        in two; and twice as much for ``"mind"``.
    step
        Longest vector of an update, in voxels; halved whenever it brings no more.
    convergence
        A step brings no more when the energy rises by less than this share of it per
        iteration. By default 0.006 at the finest level of the registration; before, in
        three dimensions 0.001, or 0.0001 with ``search``; in two 0.002; and 0.00003 for
        ``"mind"``.
    search
        Whether a block looks for large motion: with narrower boxes in between, in three
        dimensions, and by a discrete search over a quarter of its window, as a second
        place to descend from. By default where one block of few voxels holds the whole
        image.

    References
    ----------
    Avants et al., Symmetric diffeomorphic image registration with cross-correlation,
    Medical Image Analysis 2008; Yushkevich et al., Human Brain Mapping 2015 (greedy);
    Vercauteren et al., Diffeomorphic demons, NeuroImage 2009; Heinrich et al., MICCAI
    2013 (MIND-SSC) and WBIR 2014 (the search).
    """

    nearest_metric: ClassVar[Mapping[str, Metric]] = {
        "ncc": "lncc",
        "msd": "lncc",
        "mi": "mind",
    }
    passed_on: ClassVar[tuple[str, ...]] = (
        "iterations", "timeout", "radius", "update_sigma", "field_sigma", "step",
        "convergence", "search",
    )  # fmt: skip

    axis_options: ClassVar[tuple[str, ...]] = ("radius", "update_sigma", "field_sigma")

    radius: PerAxis | None = None
    update_sigma: PerAxis | None = None
    field_sigma: PerAxis | None = None
    step: float | None = None
    convergence: float | None = None
    search: bool | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        for name in ("radius", "update_sigma", "field_sigma", "step", "convergence"):
            _check_set(self, name)
        if self.search is not None and not isinstance(self.search, bool):
            msg = f"search must be True or False, got {self.search!r}"
            raise InputError(msg)

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
        Bytes, as a number or as ``"2 GB"``, that the process of a block may hold;
        beyond, the block counts as crashed. By default three times what the plan says.

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
        """Check the options."""
        super().__post_init__()
        _check_set(self, "grid_spacing")
        _check_set(self, "samples", whole=True)
        _check_memory(self, self.memory_limit)


@dataclass(frozen=True, kw_only=True)
class Consensus(Blockwise):
    """One linear transform on which the blocks of the image agree.

    For images that share one motion, at a level too large to be registered whole. Every
    block is registered by xdreg's own engine; then the transform is found that most of
    them agree on, each with the weight of its similarity. Blocks that it misses by far
    are left out, up to half of them, and ``rejected``.

    Parameters
    ----------
    transform
        ``"translation"``, ``"rigid"``, ``"similarity"`` or ``"affine"``.
    """

    nearest_metric: ClassVar[Mapping[str, Metric]] = LocalCorrelation.nearest_metric
    passed_on: ClassVar[tuple[str, ...]] = ("iterations", "timeout", "transform")

    transform: Kind = "rigid"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        _check_choice(self.transform, get_args(Kind), "transform")


@dataclass(frozen=True, kw_only=True)
class Custom(Blockwise):
    """Your own registration method, run block by block in processes.

    Parameters
    ----------
    method
        ``method(fixed, moving, **options)``: two small DataArrays on one grid, each
        with a boolean coordinate ``mask`` of the voxels that count; ``moving`` is
        already pulled through the field so far. Returns an ``itk.Transform``, or a
        displacement DataArray ``(component, [z], y, x)`` in physical units, fixed →
        moving.
    options
        Keyword arguments for it.
    isolated
        By default the method runs in processes of its own, which stay warm from block
        to block: a crash in native code, a time or a memory limit costs a block. False
        runs it in the worker's threads, where what it prints and changes is seen, and
        where a crash in native code takes the worker down.
    memory_limit
        Bytes, as a number or as ``"2 GB"``, that such a process may hold; beyond, the
        block counts as crashed. By default 80 % of the machine's memory.
    reduction
        ``reduction(results)``: what to make of the blocks in place of blending them. It
        gets a `xdreg.BlockResult` for each, one after the other, and returns
        what is to come before the field so far: a homogeneous matrix, an
        ``itk.Transform``, or a displacement as the method returns it. Or a kind such as
        ``"rigid"``: the linear transform on which most blocks agree, as in `Consensus`.
    """

    method: Callable[..., Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    isolated: bool = True
    memory_limit: int | str | None = None
    reduction: Kind | Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if self.reduction is not None and not callable(self.reduction):
            _check_choice(self.reduction, get_args(Kind), "reduction")
        if not callable(self.method):
            msg = f"method must be a function of two images, got {self.method!r}"
            raise InputError(msg)
        _check_memory(self, self.memory_limit)
        named = isinstance(self.options, Mapping) and all(
            isinstance(key, str) for key in self.options
        )
        if not named:
            msg = f"options must be a dict of keyword arguments, got {self.options!r}"
            raise InputError(msg)
        if self.iterations:
            msg = (
                "iterations would not reach your method; "
                "put what it needs into options={...}"
            )
            raise InputError(msg)
        limits = [n for n in ("timeout", "memory_limit") if getattr(self, n)]
        if limits and not self.isolated:
            msg = (
                f"{' and '.join(limits)} cannot be kept in a thread; leave "
                "isolated=False out"
            )
            raise InputError(msg)

    @property
    def name(self) -> str:
        """The method's own name."""
        return getattr(self.method, "__name__", "custom")


def as_stage(stage: object) -> Stage:
    """Take a stage as it is, and a bare function as a custom stage of the finest level.

    Raises
    ------
    InputError
        If it is neither.
    """
    if isinstance(stage, (Linear, Blockwise)):
        return stage
    if callable(stage) and not isinstance(stage, type):
        return Custom(method=stage, level=0)
    msg = (
        f"a stage must be xdreg.Translation(), Rigid(), Similarity(), Affine(), "
        f"LocalCorrelation(), BSpline(), Consensus(), Custom(method=...) or a function "
        f"of two images, got {stage!r}"
    )
    raise InputError(msg)
