"""Progress of a run's stages, read from the work directory.

Every block stores a record, wherever it ran, so threads and clusters are watched in the
same way. A function that listens stops the run by raising an exception.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from xdreg.partition import BlockStatus
from xdreg.stores.progress import is_shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xdreg.registration.block_array import BlockArray

#: Seconds between two reads of the work directory.
INTERVAL = 0.25


@dataclass(frozen=True)
class Advance:
    """The progress of a stage.

    Parameters
    ----------
    stage
        Number, kind and level of the stage, to be displayed.
    done, total
        Numbers of blocks; a linear stage counts as one.
    failures
        Number of finished blocks that do not contribute.
    stages
        Number of stages of the run.
    left
        Seconds that the stage will still take, NaN before the first block is done.
    """

    stage: str
    done: int
    total: int
    failures: int = 0
    stages: int = 1
    left: float = math.nan


#: A function that is called with the progress of a run.
Listener = Callable[[Advance], object]


class StageProgress:
    """Display of one line per stage: blocks done, failures, time left.

    Parameters
    ----------
    shown
        True shows lines on a terminal and in a notebook, False nothing. A function is
        called instead, from any thread, several times a second.
    stages
        Number of stages of the run.
    name
        Name of the run, before those of its stages.
    """

    def __init__(self, shown: bool | Listener, stages: int = 1, name: str = "") -> None:
        self._stages, self._name = stages, f"{name}: " if name else ""
        self._listener = shown if callable(shown) else None
        enabled = shown is True
        console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description:<18}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[failures]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not is_shown(console, enabled=enabled),
        )

    def __enter__(self) -> StageProgress:
        """Start the display."""
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the display; its lines remain."""
        self._bars.stop()

    def say(self, text: str) -> None:
        """Print a line above the others if they are shown."""
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

        ``records`` is None for a linear stage. ``stop`` is called when a listener
        raises, to end the body soon. The listener's exception replaces any that the
        body raises.
        """
        description = self._name + description
        line = self._bars.add_task(description, total=total, failures="", left="")
        self._call_listener(Advance(description, 0, total))
        silent = self._bars.disable and self._listener is None
        if silent or records is None:
            yield
            self._bars.update(line, completed=total)
            self._call_listener(Advance(description, total, total))
            return
        raised: list[BaseException] = []
        count = _Count(description, total, records)

        def look() -> None:
            advance = count()
            text = f"{advance.failures} not used" if advance.failures else ""
            left = time_text(advance.left)
            self._bars.update(line, completed=advance.done, failures=text, left=left)
            if raised:
                return
            try:
                self._call_listener(advance)
            except BaseException as error:
                raised.append(error)
                if stop is not None:
                    stop()

        try:
            with _repeating(look):
                yield
        finally:
            if raised:
                raise raised[0]

    def _call_listener(self, advance: Advance) -> None:
        if self._listener is not None:
            self._listener(replace(advance, stages=self._stages))


@contextlib.contextmanager
def _repeating(function: Callable[[], None]) -> Iterator[None]:
    """Call a function in a thread while the body runs, and once after it."""
    ended = threading.Event()

    def loop() -> None:
        while not ended.wait(INTERVAL):
            function()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        function()


def time_text(left: float) -> str:
    """Return how long something will still take; empty if that is not known.

    Examples
    --------
    >>> time_text(4000.0), time_text(80.0), time_text(9.6), time_text(math.nan)
    ('about 1 h 6 min left', 'about 1 min 20 s left', 'about 10 s left', '')
    """
    if not left > 0:
        return ""
    minutes, seconds = divmod(round(left), 60)
    hours, minutes = divmod(minutes, 60)
    parts = (hours, "h"), (minutes, "min"), (0 if hours else seconds, "s")
    text = " ".join(f"{number} {unit}" for number, unit in parts if number)
    return f"about {text or '1 s'} left"


class _Count:
    """Counter of the finished blocks of a stage, which reads each record once.

    Blocks of an earlier run say nothing of the time that others will take.
    """

    def __init__(self, description: str, total: int, records: BlockArray) -> None:
        self._description, self._total, self._records = description, total, records
        self._seen: set[tuple[int, ...]] = set()
        self._failures = 0
        self._before, self._began = len(set(records.done())), time.monotonic()

    def __call__(self) -> Advance:
        for index in set(self._records.done()) - self._seen:
            status = self._records[index][0]
            self._failures += status not in (BlockStatus.SUCCESS, BlockStatus.EMPTY)
            self._seen.add(index)
        done = len(self._seen)
        spent = time.monotonic() - self._began
        own = done - self._before
        left = spent * (self._total - done) / own if own > 0 else math.nan
        return Advance(self._description, done, self._total, self._failures, left=left)
