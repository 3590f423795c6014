"""Progress: of a stage, read off the work directory, and of what Dask computes.

Blocks leave a record each, wherever they ran, so one way of watching serves threads and
clusters alike. Dask tells of its tasks only where they run in this process. A program
that watches a stage stops the run by raising.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Advance:
    """How far a stage has come.

    Parameters
    ----------
    stage
        Its number, kind and level, for people.
    done, total
        Blocks; a linear stage is one.
    failures
        Blocks among them that do not contribute.
    """

    stage: str
    done: int
    total: int
    failures: int = 0


#: A program that watches a run.
Listener = Callable[[Advance], object]


def _shown(console: Console, *, enabled: bool) -> bool:
    # Not is_terminal: FORCE_COLOR, as notebooks and CI set it, makes Rich claim one.
    return enabled and (console.file.isatty() or console.is_jupyter)


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
    shown
        False shows nothing. True shows lines on a terminal and in a notebook. A
        function is called instead, now and then, from any thread.
    """

    def __init__(self, shown: bool | Listener) -> None:
        self._listener = shown if callable(shown) else None
        enabled = shown is True
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
        stop: Callable[[], None] | None = None,
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
        stop
            Makes the body end soon, for a listener that raised. What it raised comes
            out of here, whatever the body raised then.
        """
        line = self._bars.add_task(description, total=total, failures="")
        self._tell(Advance(description, 0, total))
        silent = self._bars.disable and self._listener is None
        if silent or records is None:
            yield
            self._bars.update(line, completed=total)
            self._tell(Advance(description, total, total))
            return
        ended = threading.Event()
        refused: list[BaseException] = []
        count = _Count(description, total, records)

        def look() -> None:
            advance = count()
            text = f"{advance.failures} not used" if advance.failures else ""
            self._bars.update(line, completed=advance.done, failures=text)
            if not refused:
                try:
                    self._tell(advance)
                except BaseException as error:
                    refused.append(error)
                    if stop is not None:
                        stop()

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
            if refused:
                raise refused[0]

    def _tell(self, advance: Advance) -> None:
        if self._listener is not None:
            self._listener(advance)


class _Count:
    """Counts the blocks of a stage that are done; each record is read once."""

    def __init__(self, description: str, total: int, records: BlockArray) -> None:
        self._description, self._total = description, total
        self._records = records
        self._seen: set[tuple[int, ...]] = set()
        self._failures = 0

    def __call__(self) -> Advance:
        for index in set(self._records.done()) - self._seen:
            status = self._records[index][0]
            self._failures += status not in (BlockStatus.SUCCESS, BlockStatus.EMPTY)
            self._seen.add(index)
        return Advance(self._description, len(self._seen), self._total, self._failures)
