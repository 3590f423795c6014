"""What a command says on stderr while it runs: progress, notes, warnings, errors.

On a terminal bars are shown. In a file, and with ``--verbose``, the package's log is
printed in their place: a line as each stage begins and ends, with time and statuses.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xdreg.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

_log = logging.getLogger("xdreg")


class Stopped(Exception):
    """A command that the user stopped; the message says how to resume it."""


def note(text: str, style: str | None = None) -> None:
    """Print a line on stderr, after the name of the command."""
    from rich.console import Console

    Console(stderr=True).print(
        printable(f"xdreg: {text}"),
        style=style,
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


class _Notes(logging.Handler):
    """Prints the log as notes, each with the time of day."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line of the log."""
        clock = logging.Formatter(datefmt="%H:%M:%S").formatTime(record, "%H:%M:%S")
        note(f"{clock} {record.getMessage()}")


@contextlib.contextmanager
def speaking() -> Iterator[None]:
    """Print warnings and the log as notes while the body runs."""
    handler, level, shown = _Notes(), _log.level, warnings.showwarning
    _log.addHandler(handler)
    _log.setLevel(logging.WARNING if sys.stderr.isatty() else logging.INFO)
    warnings.showwarning = _show_warning
    try:
        yield
    finally:
        _log.removeHandler(handler)
        _log.setLevel(level)
        warnings.showwarning = shown


def _show_warning(message: Any, category: type[Warning], *_: Any, **__: Any) -> None:
    """Print a warning as one line, without its place in the source."""
    shown = issubclass(category, UserWarning | RuntimeWarning)
    if shown and _log.isEnabledFor(logging.WARNING):
        note(f"warning: {message}", "yellow")


def _without_bars(context: typer.Context, level: int) -> None:
    """Set what is logged; the command's default is then to show no bars."""
    _log.setLevel(level)
    context.default_map = {**(context.default_map or {}), "progress": False}


def _verbose(context: typer.Context, asked: bool) -> bool:
    if asked:
        _without_bars(context, logging.INFO)
    return asked


def _quiet(context: typer.Context, asked: bool) -> bool:
    if asked:
        _without_bars(context, logging.ERROR)
    return asked


ShowProgress = Annotated[
    bool,
    typer.Option(
        "--progress/--no-progress", help="Show progress if stderr is a terminal."
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        is_eager=True,
        callback=_verbose,
        help="Print a line as each stage begins and ends.",
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        is_eager=True,
        callback=_quiet,
        help="Print the result and errors only.",
    ),
]
