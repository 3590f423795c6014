"""A progress line for Dask computations in this process."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from dask.callbacks import Callback
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def is_shown(console: Console, *, enabled: bool) -> bool:
    """Return whether progress is enabled and the console can show it."""
    # Not is_terminal: FORCE_COLOR, as notebooks and CI set it, makes Rich claim one.
    return enabled and (console.file.isatty() or console.is_jupyter)


@contextlib.contextmanager
def working(description: str, *, enabled: bool) -> Iterator[None]:
    """Show the finished Dask tasks in a line on a terminal, or in a notebook."""
    console = Console(stderr=True)
    if not is_shown(console, enabled=enabled):
        yield
        return
    bars = Progress(
        TextColumn("{task.description:<18}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    with bars, _Tasks(bars, bars.add_task(description, total=None)):
        yield


class _Tasks(Callback):  # type: ignore[misc]
    """Counts the tasks of all computations, one after the other."""

    def __init__(self, bars: Progress, line: TaskID) -> None:
        super().__init__()
        self._bars, self._line, self._total = bars, line, 0

    def _start_state(self, _: object, state: Mapping[str, Any]) -> None:
        self._total += len(state["ready"]) + len(state["waiting"])
        self._bars.update(self._line, total=self._total)

    def _posttask(self, *_: object) -> None:
        self._bars.advance(self._line)
