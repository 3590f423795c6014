"""What the commands share: their arguments, opening a path, and how they answer.

An argument has one noun throughout: FIXED and MOVING are images, IMAGE is either, FIELD
is a displacement field, POINTS a table. Results go to stdout, as text or as one JSON
document; all else, progress included, to stderr.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from xdreg.errors import InputError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FixedPath = Annotated[
    str,
    typer.Argument(
        metavar="FIXED", help="Fixed image: OME-Zarr, or any file that ITK reads."
    ),
]
MovingPath = Annotated[
    str, typer.Argument(metavar="MOVING", help="Moving image, of any kind as FIXED.")
]
FieldPath = Annotated[
    str, typer.Argument(metavar="FIELD", help="Displacement field: a field.ome.zarr.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document, for scripts.")
]
ShowProgress = Annotated[
    bool,
    typer.Option(
        "--progress/--no-progress", help="Show progress, where stderr is a terminal."
    ),
]

# Names and units come from stores: no part of them is markup.
_out = Console(markup=False, highlight=False)


#: Seconds in which a scheduler must answer.
CONNECT_LIMIT = 30


class Stopped(Exception):
    """The user stopped a command; the message says what is kept and how to go on."""


def answer(
    result: Mapping[str, Any], lines: Mapping[str, str], *, as_json: bool
) -> None:
    """Print a command's result on stdout.

    Parameters
    ----------
    result
        For scripts: what JSON holds. Numbers that are not finite become null.
    lines
        For people: a line each, its label and its text.
    as_json
        Which of them.
    """
    if as_json:
        # Not by rich, which breaks lines.
        print(json.dumps(_finite(result), indent=1, ensure_ascii=False))
        return
    for label, text in lines.items():
        _out.print(f"{label:<12} {text}", soft_wrap=True)


def show(renderable: Any) -> None:
    """Print a table, or a line."""
    _out.print(renderable, soft_wrap=isinstance(renderable, str))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


@contextlib.contextmanager
def on_cluster(address: str | None) -> Iterator[None]:
    """Let Dask compute on a cluster while the body runs; None computes here.

    Raises
    ------
    InputError
        If no scheduler answers there.
    """
    if address is None:
        yield
        return
    from distributed import Client

    try:
        client = Client(  # type: ignore[no-untyped-call,unused-ignore]
            address, timeout=CONNECT_LIMIT
        )
    except (OSError, ValueError) as error:
        msg = f"no Dask scheduler answers at {address}: {error}; check the address"
        raise InputError(msg) from error
    with client:
        yield


def open_path(path: str) -> Any:
    """Open an image of any kind, by what lies at the path."""
    from xdreg.stores.itk_images import open_image
    from xdreg.stores.ome_zarr import open_ome_zarr

    if "://" in path or Path(path).is_dir() or path.rstrip("/").endswith(".zarr"):
        return open_ome_zarr(path)
    return open_image(path)


def open_transform(path: str) -> Any:
    """Open a field, a transform that ITK reads, or a matrix in a CSV file.

    Raises
    ------
    StoreError
        If it is none of them.
    """
    from xdreg.fields.store import open_field

    if "://" in path or Path(path).is_dir() or path.rstrip("/").endswith(".zarr"):
        return open_field(path)
    if not Path(path).is_file():
        msg = f"{path} does not exist; check the path"
        raise StoreError(msg)
    return _read_matrix(path) if path.endswith(".csv") else _read_transform(path)


def _read_matrix(path: str) -> Any:
    import numpy as np

    try:
        return np.loadtxt(path, delimiter=",", ndmin=2)
    except (ValueError, OSError) as error:
        msg = (
            f"{path} cannot be read: {error}; expected a homogeneous matrix, a row of "
            "it per line, numbers separated by commas"
        )
        raise StoreError(msg) from error


def _read_transform(path: str) -> Any:
    from xdreg.bridges.transform_files import read_transforms

    found = read_transforms(path)
    if len(found) == 1:
        return found[0]
    msg = f"{path} holds {len(found)} transforms; expected one, or a composite of them"
    raise InputError(msg)


def make_folder(path: Path) -> None:
    """Make a folder for outputs, unless it is there.

    Raises
    ------
    StoreError
        If it is a URL, or cannot be made.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
        msg = (
            f"the output {path} must be a local folder; to URLs Python writes, with "
            "xdreg.save"
        )
        raise StoreError(msg)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"the folder {path} cannot be made: {error.strerror}; choose another"
        raise StoreError(msg) from error
