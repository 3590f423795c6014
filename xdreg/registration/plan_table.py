"""The table of a plan, on a terminal and in a notebook."""

from __future__ import annotations

from html import escape
from textwrap import wrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    Rows = list[dict[str, str]]

#: Width of a table on a terminal.
COLUMNS = 80


def as_text(tables: list[Rows], notes: list[str]) -> str:
    """Return tables, in as many parts as fit a terminal, and notes below them."""
    lines = [line for rows in tables for line in _lines(rows)]
    for note in notes:
        lines += wrap(note, COLUMNS, subsequent_indent="  ")
    return "\n".join(lines)


def _lines(rows: Rows) -> list[str]:
    first, *others = columns = [
        [name, *(row[name] for row in rows)] for name in rows[0]
    ]
    widths = {column[0]: max(map(len, column)) for column in columns}
    parts = [[first]]
    for column in others:
        used = sum(widths[c[0]] + len("  ") for c in parts[-1])
        if used + widths[column[0]] > COLUMNS and len(parts[-1]) > 1:
            parts.append([first])
        parts[-1].append(column)
    lines: list[str] = []
    for part in parts:
        for cells in zip(*part, strict=True):
            padded = (
                cell.ljust(widths[column[0]])
                for cell, column in zip(cells, part, strict=True)
            )
            lines.append("  ".join(padded).rstrip())
        lines.append("")
    return lines


def as_html(tables: list[Rows], notes: list[str]) -> str:
    """Return tables and notes for a notebook."""
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes)
    shown = "".join(map(_html_table, tables))
    return f"<div><b>xdreg plan</b>{shown}<ul>{listed}</ul></div>"


def _html_table(rows: Rows) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(v)}</td>" for v in row.values()) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def span(seconds: float | None) -> str:
    """Return a duration as text, empty if it is not known."""
    if seconds is None:
        return ""
    seconds = max(seconds, 1.0)
    units = (("h", 3600), ("min", 60), ("s", 1))
    number, unit = next((seconds / n, unit) for unit, n in units if seconds >= n)
    return f"{number:.{0 if number >= 9.95 else 1}f} {unit}"


def times(numbers: Iterable[object]) -> str:
    """Return the numbers of all axes as text."""
    return " × ".join(map(str, numbers))


def lengths(value: Any) -> str:
    """Return a length, or one per axis, as text."""
    axes = value if isinstance(value, (list, tuple)) else [value]
    numbers = [f"{length:.3g}" for length in axes]
    return numbers[0] if len(set(numbers)) == 1 else times(numbers)
