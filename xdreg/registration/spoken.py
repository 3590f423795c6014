"""What a run says in the log: compiling, and each stage as it begins and ends."""

from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numba.core import event

from xdreg.fields.diagnostics import status_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from xdreg.registration.planned_stage import PlannedStage

_log = logging.getLogger(__name__)

COMPILING = "compiling kernels, once per installation: about 30 s"


@contextlib.contextmanager
def announced_compiling(say: Callable[[str], object]) -> Iterator[None]:
    """Say once that kernels are compiled, if none is in the cache."""
    listener = _Compiling(say)
    with event.install_listener("numba:compile", listener):
        yield


class _Compiling(event.Listener):  # type: ignore[misc]
    """Hears of the first kernel of the package that numba does not find in its cache.

    A few kernels may be new while the others are there: that is quick, and not said.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say, self._heard = say, False

    def on_start(self, event: Any) -> None:
        """Look at the cache before the first kernel is compiled."""
        dispatcher: Any = (event.data or {}).get("dispatcher")
        module = getattr(getattr(dispatcher, "py_func", None), "__module__", "")
        if self._heard or not module.startswith("xdreg.numerics"):
            return
        self._heard = True
        folder = dispatcher.stats.cache_path
        if folder and not any(Path(folder).glob("*.nbc")):
            _log.info(COMPILING)
            self._say(COMPILING)

    def on_end(self, event: Any) -> None:
        """Do nothing."""


@contextlib.contextmanager
def logged_stage(
    number: int, stage: PlannedStage
) -> Iterator[Callable[[NDArray[Any]], None]]:
    """Log that a stage begins, and its time and the statuses of its blocks at the end.

    The body calls what it is given with the statuses.
    """
    name = f"stage {number} ({stage.options.name}, level {stage.fixed_level})"
    size = stage.partition.size
    _log.info("%s begins: %d %s", name, size, "block" if size == 1 else "blocks")
    began = time.perf_counter()

    def ended(status: NDArray[Any]) -> None:
        values, counts = np.unique(status, return_counts=True)
        text = ", ".join(
            f"{count} {status_name(value)}"
            for value, count in zip(values, counts, strict=True)
        )
        _log.info("%s ended after %.1f s: %s", name, time.perf_counter() - began, text)

    yield ended
