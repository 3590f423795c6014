"""Names of the files that a run makes in its work directory; others are users'."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xdreg.errors import InputError
from xdreg.stores.ownership import first_foreign, local_names

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_INDEX = r"\d+(?:\.\d+)*"

#: What is left of a file whose writer was killed: ours, or one of Zarr.
_HALF = r"\.[^/]+\.\d+\.\d+|(?:zarr|[\d.]+)\.[0-9a-f]{32}\.partial"

#: An array, and the content of its folder.
_ARRAY = rf"/?|/(?:zarr\.json|{_INDEX}|{_HALF})"

#: What follows the name of a level or a mask: the array, its record, damaged chunks.
_MADE = rf"(?:\.zarr(?:{_ARRAY})|\.json|\.part|\.\d+\.chunk)"

#: Content of a stage's folder.
_IN_STAGE = (
    rf"(?:patches|records|disagreement|field)(?:{_ARRAY})"
    r"|(?:linear|agreement|consensus)\.(?:json|part)|stopped"
    rf"|errors(?:/?|/(?:{_INDEX}\.(?:txt|unreadable|chunk)|{_HALF}))"
)

_SIDE = r"(?:fixed|moving)"

_MASK = r"(?:foreground|padding)"

_OWN = re.compile(
    rf"stage_\d{{2,}}(?:/?|/(?:{_IN_STAGE}))|choice\.(?:json|part)"
    rf"|{_SIDE}_levels(?:_\d+)?(?:/?|/(?:\d+{_MADE}|{_HALF}))"
    rf"|{_SIDE}_{_MASK}{_MADE}|\.{_SIDE}_{_MASK}\.\d+\.chunk\.\d+\.\d+"
)

_STAGE = re.compile(r"stage_(\d\d|[1-9]\d{2,})")


def made_in(folder: Path) -> list[Path]:
    """Return the entries of a work directory that have names of a run, but run.json."""
    return [entry for entry in folder.iterdir() if _is_of_run(entry)]


def _is_of_run(entry: Path) -> bool:
    if _STAGE.fullmatch(entry.name) is None and entry.name.startswith("stage_"):
        return False
    return _OWN.fullmatch(entry.name) is not None


def stages_after(folder: Path, number: int) -> list[Path]:
    """Return the folders of a run's stages after one of them."""
    found = ((entry, _STAGE.fullmatch(entry.name)) for entry in folder.iterdir())
    return [entry for entry, match in found if match and int(match[1]) > number]


def check_no_foreign(folder: Path, entries: Iterable[Path]) -> None:
    """Raise if entries of a work directory that are to be removed hold others' files.

    Raises
    ------
    InputError
        If one does. It names the first.
    """
    for entry in entries:
        if entry.is_symlink() or not entry.is_dir():
            continue
        start = entry.relative_to(folder).as_posix()
        names = (f"{start}/{name}" for name in local_names(entry))
        foreign = first_foreign(names, _OWN)
        if foreign is not None:
            msg = (
                f"nothing is removed from workdir {folder}: it holds {foreign!r}, "
                "which no run made; move that away, or use another directory"
            )
            raise InputError(msg)
