"""Arrays read with their axes in another order, and turned around, window by window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xdreg.stores.identity import identity_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class Reordered:
    """An array with permuted axes, of which some run backwards.

    Parameters
    ----------
    source
        Anything with ``shape``, ``dtype``, ``chunks`` and numpy-style slicing.
    order
        For each axis, that of ``source``.
    backwards
        Whether each axis of the result runs backwards.
    """

    def __init__(
        self, source: Any, order: Sequence[int], backwards: Sequence[bool]
    ) -> None:
        self._source, self._order = source, tuple(order)
        self._backwards = tuple(backwards)
        if hasattr(source, "store"):
            self.store, self.path = source.store, source.path
        self.shape = tuple(int(source.shape[i]) for i in order)
        chunks = getattr(source, "shards", None) or source.chunks
        self.chunks = tuple(int(chunks[i]) for i in order)
        self.dtype, self.ndim = np.dtype(source.dtype), len(self.shape)

    def __getitem__(self, index: tuple[int | slice, ...]) -> NDArray[Any]:
        """Return a window; steps of slices are positive."""
        stored: list[int | slice] = [0] * self.ndim
        turned = []
        for axis, part in enumerate(index):
            size, back = self.shape[axis], self._backwards[axis]
            stored[self._order[axis]] = _mirrored(part, size) if back else part
            if isinstance(part, slice):
                turned.append(slice(None, None, -1 if back else 1))
        values = np.asarray(self._source[tuple(stored)])
        kept = [i for i, part in enumerate(stored) if isinstance(part, slice)]
        order = [i for i in self._order if i in kept]
        return values.transpose([kept.index(i) for i in order])[tuple(turned)]

    def identity(self) -> dict[str, Any]:
        """Return the order of axes, and what the source is known by."""
        axes = {"order": list(self._order), "backwards": list(self._backwards)}
        return axes | {"of": identity_of(self._source)}


def _mirrored(part: int | slice, size: int) -> int | slice:
    """Return an index of an axis that runs backwards, in the stored direction."""
    if not isinstance(part, slice):
        return size - 1 - range(size)[part]
    taken = range(size)[part]
    if not taken:
        return slice(0, 0)
    return slice(size - 1 - taken[-1], size - taken[0], taken.step)
