"""Progress of a run's stages, read from the work directory.

Every block leaves a record, wherever it ran, so threads and clusters are watched the
same way. A program that watches a stage stops the run by raising.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from xdreg.partition import BlockStatus
from xdreg.stores.progress import _shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xdreg.registration.block_array import BlockArray


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
