"""A value that all tasks of a Dask graph share, as one node.

A worker receives the node once, however many of its tasks depend on it.
"""

from __future__ import annotations

from typing import Any

import dask

#: Beyond so many blocks a task runs several: what the scheduler holds stays small. Each
#: block is still kept as it finishes.
MOST_TASKS = 10_000


class Opaque:
    """Hides a value from Dask, which would take dataclasses apart.

    Its token names the step, for `xarray.map_blocks` leaves the function out of its
    keys.
    """

    def __init__(self, value: Any, step: str) -> None:
        self.value, self.step = value, step

    def __dask_tokenize__(self) -> object:
        """Identify by step and content."""
        return ("xdreg.shared", self.step, dask.base.tokenize(self.value))


def shared(value: Any, step: str) -> Any:
    """Return a node of a graph, a `dask.delayed.Delayed`, that holds a value.

    All tasks that use it depend on the one node, so that a worker receives it once: it
    may hold whole images, where those are in memory.

    Parameters
    ----------
    value
        Anything that has a token and pickles.
    step
        What it is used for.
    """
    return dask.delayed(_value_of, pure=True)(Opaque(value, step))


def _value_of(opaque: Opaque) -> Any:
    return opaque.value
