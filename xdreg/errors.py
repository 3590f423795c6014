"""The exceptions that xdreg raises for its users.

Every message says what was expected, what came, and the remedy.
"""


class XdregError(Exception):
    """Base class of every error that xdreg raises on purpose."""


class InputError(XdregError, ValueError):
    """An argument, an image or an option that cannot be used as it is."""


class StoreError(XdregError, OSError):
    """A store or file that is missing, is of another kind, or is damaged."""


class UnreadableError(StoreError):
    """A part of an image that could not be read, however often it was tried."""


class MethodError(XdregError, RuntimeError):
    """A registration method that failed on the block it was given."""


class MethodCrash(MethodError):
    """A registration method that took its process down with it."""


class MethodTimeout(MethodError):
    """A registration method that did not answer within its time limit."""


class Interrupted(XdregError):
    """Work that was stopped before its end, through no fault of its own."""
