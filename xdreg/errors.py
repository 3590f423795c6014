"""The exceptions and warnings of xdreg.

Every message says what was expected, what came, and the remedy.
"""

import re
import sys
import unicodedata
import warnings
from types import FrameType

#: What may be more than a character to read.
_ODD = re.compile(r"[^ -~\n\t]")

#: Characters of a message; the middle of a longer one is left out.
LONGEST = 20_000


def printable(value: object, most: int | None = None) -> str:
    r"""Return a text with control characters and other invisible ones as escapes.

    Text of files may steer a terminal, or turn around what is shown. File names that
    are not UTF-8 have characters that no encoding has. Letters of all scripts, spaces,
    line ends and tabs stay.

    Parameters
    ----------
    value
        A text, or an exception. One that fails to give its text is named by its type.
    most
        Characters of the result; the middle of a longer text is left out.

    Examples
    --------
    >>> print(printable("red \x1b[31m, µm"))
    red \x1b[31m, µm
    """
    try:
        text = str(value)
    except Exception:
        text = f"{type(value).__name__} without a text"
    if most is not None and len(text) > most:
        half = most // 2 - 20  # room for the number of those left out
        text = f"{text[:half]} [… {len(text) - 2 * half} …] {text[-half:]}"
    return _ODD.sub(lambda found: _escaped(found[0]), text)


def _escaped(character: str) -> str:
    # Spaces other than the usual one count as not printable.
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    return ascii(character)[1:-1]


class XdregError(Exception):
    """Base class of every error that xdreg raises on purpose.

    Parameters
    ----------
    message
        What was expected, what came, and the remedy.
    **remedy
        Options that help, with their values; ``...`` where the user chooses one. They
        follow the message, in Python as ``workdir=..., overwrite=True``.
    """

    def __init__(self, message: str = "", **remedy: object) -> None:
        message = printable(message, LONGEST)
        super().__init__(message)
        self.message, self.remedy = message, remedy

    def __str__(self) -> str:
        options = [
            f"{name}={'...' if value is ... else repr(value)}"
            for name, value in self.remedy.items()
        ]
        return f"{self.message}: {', '.join(options)}" if options else self.message


class InputError(XdregError, ValueError):
    """An argument, an image or an option that cannot be used as it is."""


class StoreError(XdregError, OSError):
    """A store or file that is missing, is of another kind, or is damaged."""


class UnreadableError(StoreError):
    """A part of an image that could not be read, however often it was tried."""

    #: Store and key of the chunk to blame, if it is one.
    chunk: str | None = None


class UnavailableError(UnreadableError):
    """An image whose storage is gone, or does not answer."""


class MethodError(XdregError, RuntimeError):
    """A registration method that failed on the block it was given."""


class MethodCrash(MethodError):
    """A registration method that took its process down with it."""


class MethodTimeout(MethodError):
    """A registration method that did not answer within its time limit."""


class Interrupted(XdregError):
    """Work that was stopped before its end, through no fault of its own."""


def warn(message: str) -> None:
    """Warn at the line outside the package that led here."""
    depth, frame = 1, sys._getframe()
    while frame.f_back and _package_of(frame) == _package_of(sys._getframe()):
        depth, frame = depth + 1, frame.f_back
    warnings.warn(printable(message, LONGEST), stacklevel=depth)


def _package_of(frame: FrameType) -> str:
    # Code that is executed from text may have no module.
    return str(frame.f_globals.get("__name__")).partition(".")[0]
