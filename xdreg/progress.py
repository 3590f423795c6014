"""Progress of a running stage, read off the work directory.

Blocks leave a record each, wherever they ran, so one way of watching serves threads and
clusters alike.
"""

from __future__ import annotations

import contextlib
import threading
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

from xdreg.blocks import BlockStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xdreg.block_array import BlockArray

#: Seconds between looks at the work directory.
INTERVAL = 0.25


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
            disable=not (enabled and (console.is_terminal or console.is_jupyter)),
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
