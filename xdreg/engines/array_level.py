"""The operations of a descent on arrays of any kind, as on a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xdreg.engines.descent import field_taps, update_taps
from xdreg.numerics.arrays import Smoothing, composed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from xdreg.engines.descent import Array, Settings
    from xdreg.numerics.arrays import ArraySpace
    from xdreg.numerics.nodes import Nodes

    #: From a displacement (3, z, y, x) to the update, the sum of the energy, its terms.
    ArrayForce = Callable[[Any], tuple[Any, float, float]]


class ArrayLevel:
    """What `descent.CompiledLevel` does, in an array namespace.

    Displacements are ``(3, z, y, x)`` here, and ``(z, y, x, 3)`` of NumPy outside.

    Parameters
    ----------
    space
        The namespace.
    forces
        The force of each channel. They are summed.
    resistance
        Divisor (z, y, x) of the update, smoothed alike; by default 1.
    """

    def __init__(
        self,
        space: ArraySpace,
        nodes: Nodes,
        settings: Settings,
        forces: Sequence[ArrayForce],
        resistance: Any | None = None,
        start: Array | None = None,
    ) -> None:
        self._space, self._nodes, self._settings = space, nodes, settings
        self._forces = forces
        if start is None:
            start = np.zeros((*nodes.shape, 3), np.float32)
        self._total = space.put(np.ascontiguousarray(np.moveaxis(start, -1, 0)))
        taps = update_taps(settings.update_sigma, nodes.stride)
        self._smoothed = Smoothing(space, taps, nodes.shape)
        self._resistance = None if resistance is None else self._smoothed(resistance)
        self._per_node = [1 / s for s in nodes.stride]
        self._step, self._update = 0.0, self._total

    def __enter__(self) -> ArrayLevel:
        return self

    def __exit__(self, *exception: object) -> None:
        self._forces = ()

    def push(self) -> float:
        """Write the update from the force; return the mean energy."""
        first, *others = self._forces
        self._update, energy, count = first(self._total)
        for force in others:
            update, more, terms = force(self._total)
            self._update += update
            energy, count = energy + more, count + terms
        return energy / max(count, 1.0)

    def smooth_update(self) -> float:
        """Smooth the update, divide it by the resistance; return its longest vector."""
        self._update = self._smoothed(self._update)
        if self._resistance is not None:
            self._update /= self._resistance
        return float(self._length().max())

    def move(self, step: float) -> None:
        """Apply the update, of at most ``step`` voxels, first; smooth the total."""
        xp = self._space.xp
        if step != self._step:
            self._step = step
            taps = field_taps(self._settings.field_sigma, step, self._nodes.stride)
            self._total_smoothed = Smoothing(self._space, taps, self._nodes.shape)
        self._update *= xp.minimum(1.0, step / xp.maximum(self._length(), 1e-20))
        moved = composed(self._space, self._update, self._total, self._per_node)
        self._total = self._total_smoothed(moved)

    def displacement(self) -> Array:
        """Return the total (z, y, x, 3)."""
        total = self._space.fetch(self._total)
        return np.ascontiguousarray(np.moveaxis(total, 0, -1))

    def _length(self) -> Any:
        """Return the length of each vector of the update."""
        return self._space.xp.sqrt((self._update * self._update).sum(axis=0))
