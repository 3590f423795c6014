"""Arguments, opening of paths, and output shared by the commands.

Arguments have the same names in all commands: FIXED and MOVING are images, IMAGE is
either, FIELD is a displacement field, POINTS a table. Results go to stdout, as text or
as one JSON document. Progress, warnings and errors go to stderr.
"""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console

from xdreg.errors import InputError, StoreError, printable
from xdreg.stores.paths import as_address, is_remote, local_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FIXED = typer.Argument(
    metavar="FIXED", help="Fixed image: OME-Zarr, or a file that ITK reads."
)
MOVING = typer.Argument(
    metavar="MOVING", help="Moving image: OME-Zarr, or a file that ITK reads."
)
FixedPath = Annotated[str, FIXED]
MovingPath = Annotated[str, MOVING]
FieldPath = Annotated[
    str, typer.Argument(metavar="FIELD", help="Displacement field: a field.ome.zarr.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document, for scripts.")
]
# No markup, and only printable text: names and units come from files.
_out = Console(markup=False, highlight=False)

#: Seconds within which a scheduler must answer.
CONNECT_LIMIT = 30


def answer(
    result: Mapping[str, Any], lines: Mapping[str, str], *, as_json: bool
) -> None:
    """Print a command's result on stdout, as JSON or as lines of text by their labels.

    In JSON, numbers that are not finite become null.
    """
    if as_json:
        # rich would break lines.
        text = json.dumps(_finite(result), indent=1, ensure_ascii=False)
        if printable(text) != text:
            text = json.dumps(_finite(result), indent=1)
        print(text)
        return
    for label, text in lines.items():
        show(f"{label:<12} {text}")


def show(renderable: Any) -> None:
    """Print a table or a line of text."""
    if isinstance(renderable, str):
        _out.print(printable(renderable), soft_wrap=True)
    else:
        _out.print(renderable)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


@contextlib.contextmanager
def on_cluster(address: str | None, workers: int | None = None) -> Iterator[None]:
    """Compute on a Dask cluster within the context.

    None computes locally, in as many threads as there are ``workers``.
    """
    if address is None:
        import dask

        with dask.config.set({} if workers is None else {"num_workers": workers}):
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


def whole_numbers(text: str | None, flag: str) -> int | list[int] | None:
    """Return one whole number, or one per axis, that a flag gives."""
    if text is None:
        return None
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError as error:
        msg = f"{flag} takes whole numbers, such as 64 or 32,64,64; got {text!r}"
        raise InputError(msg) from error
    return numbers[0] if len(numbers) == 1 else numbers


def given_path(text: str | Path) -> Path:
    """Return a path from the command line; raise if it is a URL.

    As a path, ``s3://bucket`` would be a folder named ``s3:``.
    """
    address = as_address(text)
    if is_remote(address):
        msg = (
            f"{address} must be a local folder or file; in Python, xdreg.save writes "
            "to URLs"
        )
        raise StoreError(msg)
    path = Path(address)
    return local_path(path) if path.parts[:1] == ("~",) else path


def open_path(path: str) -> Any:
    """Open an image, OME-Zarr or a file that ITK reads."""
    if is_store(path):
        from xdreg.stores.ome_zarr import open_ome_zarr

        return open_ome_zarr(path)
    from xdreg.stores.image_files import open_image

    return open_image(path)


def open_path_or_field(path: str) -> Any:
    """Open an image, or a displacement field in OME-Zarr, which is a scene."""
    if is_field_store(path):
        from xdreg.fields.store import open_field

        return open_field(path)
    return open_path(path)


def is_field_store(path: str) -> bool:
    """Return whether a path is a scene in OME-Zarr, or the field of a time series."""
    if not is_store(path):
        return False
    from xdreg.stores.nodes import open_group
    from xdreg.stores.ownership import SERIES

    attrs = open_group(path, None).attrs
    ome = attrs.get("ome")
    return SERIES in attrs or (isinstance(ome, dict) and "scene" in ome)


def is_store(path: str) -> bool:
    """Return whether a path is read as OME-Zarr."""
    from xdreg.stores.nodes import is_zarr_folder

    address = as_address(path)
    if is_remote(address) or address.rstrip("/").endswith((".zarr", ".ozx", ".zip")):
        return True
    return is_zarr_folder(local_path(address))


def open_transform(path: str) -> Any:
    """Open a field, a transform that ITK reads, or a matrix in a CSV file."""
    from xdreg.bridges.transform_files import read_transforms
    from xdreg.fields.store import open_field

    if is_store(path):
        return open_field(path)
    place = local_path(as_address(path))
    if not place.is_file():
        msg = f"{path} does not exist; check the path"
        raise StoreError(msg)
    if place.suffix == ".csv":
        return _read_matrix(place)
    found = read_transforms(place)
    if len(found) == 1:
        return found[0]
    msg = f"{path} holds {len(found)} transforms; expected one, or a composite of them"
    raise InputError(msg)


def _read_matrix(path: Path) -> Any:
    try:
        return np.loadtxt(path, delimiter=",", ndmin=2)
    except (ValueError, OSError) as error:
        msg = (
            f"{path} cannot be read: {error}; expected a homogeneous matrix, one row "
            "per line, numbers separated by commas"
        )
        raise StoreError(msg) from error


@contextlib.contextmanager
def output_folder(path: Path) -> Iterator[None]:
    """Make a folder for outputs unless it exists; remove it if nothing came of it."""
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"the folder {path} cannot be made: {error.strerror}; choose another"
        raise StoreError(msg) from error
    try:
        yield
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):  # as it is not empty
                folder.rmdir()
        raise
