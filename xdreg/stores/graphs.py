"""Values that all tasks of a Dask graph share, as one node.

A worker receives the node once, for all of its tasks.
"""

from __future__ import annotations

from typing import Any

import dask

from xdreg.stores import forks  # noqa: F401


class _Opaque:
    """A value hidden from Dask, which would traverse dataclasses.

    Its token includes the step, because keys of `xarray.map_blocks` do not depend on
    the function.
    """

    def __init__(self, value: Any, step: str) -> None:
        self.value, self.step = value, step

    def __dask_tokenize__(self) -> object:
        return ("xdreg.shared", self.step, dask.base.tokenize(self.value))


def shared(value: Any, step: str) -> Any:
    """Return a value as one node of a graph, a `dask.delayed.Delayed`.

    The value has a token and pickles. It may hold whole images in memory.
    """
    return dask.delayed(_value_of, pure=True)(_Opaque(value, step))


def _value_of(opaque: _Opaque) -> Any:
    return opaque.value
