"""One stage of a plan, with everything decided: levels, blocks, method, options."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any

from xdreg.engines import elastix
from xdreg.engines.discrete_search import SEARCH_BYTES
from xdreg.engines.linear import linear, linear_displacement
from xdreg.engines.local_correlation import by_level, local_correlation
from xdreg.partition import Partition
from xdreg.registration.estimates import (
    block_memory,
)
from xdreg.stages import (
    OWN_METRICS,
    BSpline,
    Consensus,
    Custom,
    LocalCorrelation,
    Stage,
)
from xdreg.stores.pyramid import START_VOXELS

if TYPE_CHECKING:
    from collections.abc import Callable

    from xdreg.stages import MetricOrAuto


#: The process of a block may hold so many times what it is estimated to, unless a
#: limit is given.
LIMIT_FACTOR = 3

#: Control points of a B-spline, in voxels of the stage's level, unless given.
BSPLINE_SPACING_VOXELS = {2: 10, 3: 6}


@dataclass(frozen=True)
class PlannedStage:
    """A stage with everything decided.

    Parameters
    ----------
    options
        The stage as the user or the default gave it, with level and metric filled in.
    fixed_level, moving_level
        Levels of the two pyramids.
    partition
        Blocks; a linear stage has a single one, the whole image.
    finest
        Whether no stage has a finer level.
    """

    options: Stage
    fixed_level: int
    moving_level: int
    partition: Partition
    finest: bool

    @property
    def metric(self) -> MetricOrAuto:
        """The metric of the stage; ``"auto"`` until the run has chosen it."""
        return self.options.metric or "auto"

    @property
    def method(self) -> Callable[..., Any]:
        """The function that registers."""
        if isinstance(self.options, Custom):
            return self.options.method
        if isinstance(self.options, LocalCorrelation):
            return local_correlation
        if isinstance(self.options, BSpline):
            return elastix.bspline
        if isinstance(self.options, Consensus):
            return linear_displacement
        return linear if self.metric in (*OWN_METRICS, "auto") else elastix.linear

    @property
    def reduction(self) -> Any:
        """What makes one transform of the blocks; None where they are blended."""
        if isinstance(self.options, Consensus):
            return self.options.transform
        return getattr(self.options, "reduction", None)

    @property
    def by_elastix(self) -> bool:
        """Whether elastix registers, in a process of its own."""
        return self.method in (elastix.bspline, elastix.linear)

    @property
    def isolated(self) -> bool:
        """Whether a block runs in a process of its own."""
        own = isinstance(self.options, Custom) and self.options.isolated
        return own or self.by_elastix

    @property
    def searches(self) -> bool:
        """Whether a block looks for large motion by a discrete search."""
        if not isinstance(self.options, LocalCorrelation):
            return False
        if self.options.search is not None:
            return self.options.search
        grid = self.partition.grid
        return self.partition.size == 1 and grid.size <= START_VOXELS[grid.ndim]

    @property
    def memory(self) -> int:
        """The peak memory of one block, in bytes."""
        memory = block_memory(
            self.partition,
            self.metric,
            elastix=self.by_elastix,
            isolated=self.isolated,
        )
        return memory + (SEARCH_BYTES if self.searches else 0)

    @property
    def memory_limit(self) -> int | None:
        """Bytes that the process of a block may hold; None where it has none."""
        if not self.isolated:
            return None
        given = getattr(self.options, "memory_limit", None)
        if given is not None:
            return int(given)
        return LIMIT_FACTOR * self.memory if self.by_elastix else None

    @property
    def smoothness(self) -> str:
        """What keeps the field smooth, as text: lengths in the units of the grid."""
        lengths: list[Any] = []
        if isinstance(self.options, LocalCorrelation):
            names = ("update_sigma", "field_sigma")
            lengths += [self.engine_options[name] for name in names]
        elif isinstance(self.options, BSpline):
            lengths.append(self.engine_options["grid_spacing"])
        texts = []
        for length in lengths:
            axes = length if isinstance(length, (list, tuple)) else [length]
            numbers = [f"{value:.3g}" for value in axes]
            alike = len(set(numbers)) == 1
            texts.append(numbers[0] if alike else " × ".join(numbers))
        return " / ".join(texts)

    @property
    def iterations(self) -> str:
        """How many iterations there are at most, as text."""
        if isinstance(self.options, Custom):
            return ""
        default = signature(self.method).parameters["iterations"].default
        return str(self.options.iterations or default)

    @property
    def engine_options(self) -> dict[str, Any]:
        """Keyword arguments for the engine."""
        options = self.options.engine_options()
        options["metric"] = self.metric
        if self.by_elastix:
            options["memory_limit"] = self.memory_limit
        grid = self.partition.grid
        if isinstance(self.options, LocalCorrelation):
            options["search"] = self.searches
            options = by_level(options, grid, finest=self.finest)
        if isinstance(self.options, BSpline):
            spacing = self.options.grid_spacing
            if spacing is None:
                voxels = BSPLINE_SPACING_VOXELS[grid.ndim]
                spacing = [voxels * step for step in grid.spacing]
            options["grid_spacing"] = spacing
        return options
