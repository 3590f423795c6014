"""What a user gives as a path: text or a path object, local or a URL."""

from __future__ import annotations

import os

from xdreg.errors import InputError


def as_address(path: object, name: str = "path") -> str:
    """Return a path or URL as text.

    Raises
    ------
    InputError
        If it is neither text nor a path object.

    Examples
    --------
    >>> from pathlib import PurePosixPath
    >>> as_address(PurePosixPath("run") / "field.ome.zarr")
    'run/field.ome.zarr'
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(text, str) or "\0" in text:
        msg = f"{name} must be a path or a URL as text, got {path!r}"
        raise InputError(msg)
    return text


def is_remote(address: str) -> bool:
    """Tell a URL from a local path."""
    return "://" in address
