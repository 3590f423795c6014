"""Progress: of a stage, read off the work directory, and of what Dask computes.

Blocks leave a record each, wherever they ran, so one way of watching serves threads and
clusters alike. Dask tells of its tasks only where they run in this process.
"""

from __future__ import annotations

import contextlib
import threading
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
    TimeRemainingColumn,
)

from xdreg.blocks import BlockStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from xdreg.block_array import BlockArray

#: Seconds between looks at the work directory.
INTERVAL = 0.25


def _shown(console: Console, *, enabled: bool) -> bool:
    return enabled and (console.is_terminal or console.is_jupyter)


@contextlib.contextmanager
def working(description: str, *, enabled: bool) -> Iterator[None]:
    """Show a line with the tasks done while the body computes with Dask; then none.

    Parameters
    ----------
    description
        What the line says.
    enabled
        False shows nothing. True shows the line on a terminal and in a notebook.
    """
    console = Console(stderr=True)
    if not _shown(console, enabled=enabled):
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
    """Counts the tasks of all that is computed, one computation after the other."""

    def __init__(self, bars: Progress, line: TaskID) -> None:
        super().__init__()
        self._bars, self._line, self._total = bars, line, 0

    def _start_state(self, _: object, state: Mapping[str, Any]) -> None:
        self._total += len(state["ready"]) + len(state["waiting"])
        self._bars.update(self._line, total=self._total)

    def _posttask(self, *_: object) -> None:
        self._bars.advance(self._line)


class StageProgress:
    """One line per stage: blocks done, failures, time left.

    Parameters
    ----------
    enabled
        False shows nothing. True shows lines on a terminal and in a notebook.
    """

    def __init__(self, *, enabled: bool) -> None:
        console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description:<18}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[failures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not _shown(console, enabled=enabled),
        )

    def __enter__(self) -> StageProgress:
        """Show the lines."""
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave them as they are."""
        self._bars.stop()

    def say(self, text: str) -> None:
        """Print a line above the others, where they are shown."""
        if not self._bars.disable:
            self._bars.console.print(text, highlight=False, markup=False)

    @contextlib.contextmanager
    def watch(
        self,
        description: str,
        total: int,
        records: BlockArray | None,
    ) -> Iterator[None]:
        """Show a stage while the body runs.

        Parameters
        ----------
        description
            What the line says.
        total
            Number of blocks.
        records
            Where blocks leave their records; None for a linear stage.
        """
        line = self._bars.add_task(description, total=total, failures="")
        if self._bars.disable or records is None:
            yield
            self._bars.update(line, completed=total)
            return
        ended = threading.Event()
        seen: set[tuple[int, ...]] = set()
        failures = 0

        def look() -> None:
            nonlocal failures
            for index in set(records.done()) - seen:
                status = records[index][0]
                failures += status not in (BlockStatus.SUCCESS, BlockStatus.EMPTY)
                seen.add(index)
            text = f"{failures} not used" if failures else ""
            self._bars.update(line, completed=len(seen), failures=text)

        def loop() -> None:
            while not ended.wait(INTERVAL):
                look()

        watcher = threading.Thread(target=loop, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
            look()
