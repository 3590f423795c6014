"""Paths and URLs as text."""

from __future__ import annotations

import os

from xdreg.errors import InputError


def as_address(path: object, name: str = "path") -> str:
    """Return a path or URL as text; ``name`` is that of the argument in an error."""
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(text, str) or "\0" in text:
        msg = f"{name} must be a path or a URL as text, got {path!r}"
        raise InputError(msg)
    return text


def is_remote(address: str) -> bool:
    """Return whether an address is a URL."""
    return "://" in address
