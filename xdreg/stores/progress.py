"""A progress line for Dask computations in this process."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from dask.callbacks import Callback
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
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
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    with bars, _Tasks(bars, bars.add_task(description, total=None)):
        yield


class _Tasks(Callback):  # type: ignore[misc]
    """Share of the tasks done of all computations, one after the other.

    How many follow is not known. The share stays where it is until they catch up.
    """

    def __init__(self, bars: Progress, line: TaskID) -> None:
        super().__init__()
        self._bars, self._line = bars, line
        self._done = self._total = 0
        self._share = 0.0

    def _start_state(self, _: object, state: Mapping[str, Any]) -> None:
        self._total += len(state["ready"]) + len(state["waiting"])

    def _posttask(self, *_: object) -> None:
        self._done += 1
        share = self._done / max(self._total, self._done)
        self._share = max(self._share, min(share, 0.99))
        self._bars.update(self._line, total=1.0, completed=self._share)
