"""The command ``xdreg``: its subcommands, error messages and exit codes.

| exit code | reason |
|---|---|
| 0 | success |
| 1 | an error that xdreg raises, shown as one line |
| 2 | wrong arguments |
| 3 | the outputs are written, and the verdict on them is failed |
| 130 | Ctrl-C |
"""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import os
import sys
from typing import Annotated

import typer

from xdreg.cli.commands import Subcommands
from xdreg.cli.speaking import Stopped, note, speaking
from xdreg.errors import XdregError

app = typer.Typer(
    help="Register images too large for memory, block by block.",
    cls=Subcommands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain: to load what colours it takes as long as the rest.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# What is imported so far stays. To look for garbage in it takes as long as to import
# Zarr.
gc.freeze()

#: Error numbers of an output that takes no more.
_FULL = errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO

#: Exit code of an interrupted command, as shells have it.
_INTERRUPTED = 130


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"xdreg {version('xdreg')}")
        raise typer.Exit


@app.callback()
def _whole(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Register images too large for memory, block by block."""


def describe(error: XdregError) -> str:
    """Return the message of an error, with its remedy as command-line options.

    Examples
    --------
    >>> describe(XdregError("it exists; overwrite it", overwrite=True))
    'it exists; overwrite it: --overwrite'
    >>> describe(XdregError("it does not fit; coarsen it", step=3))
    'it does not fit; coarsen it: --step 3'
    """
    flags = []
    for name, value in error.remedy.items():
        flag = f"--{name.replace('_', '-')}"
        values = [value]
        if isinstance(value, dict):
            values = [f"{one}={own}" for one, own in value.items()]
        flags += [flag if v is True or v is ... else f"{flag} {v}" for v in values]
    return f"{error.message}: {', '.join(flags)}" if flags else error.message


def main() -> None:
    """Run the command and exit with its code."""
    # Names of files that are not UTF-8 appear in answers. In JSON the escape is valid.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with speaking():
            code = app(standalone_mode=False)
            sys.stdout.flush()
    except XdregError as error:
        note(describe(error), "red")
        code = 1
    except Stopped as stopped:
        note(str(stopped), "yellow")
        _leave(_INTERRUPTED)
    except (KeyboardInterrupt, typer.Abort):
        note("stopped", "yellow")
        _leave(_INTERRUPTED)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        note(f"the output cannot be written: {error.strerror}", "red")
        # Python would fail again to write what is left.
        _leave(1)
    except Exception as error:
        # Usage errors of click print themselves. Anything else is a bug.
        if not (hasattr(error, "show") and hasattr(error, "exit_code")):
            raise
        error.show()
        code = error.exit_code
    sys.exit(code)


def _leave(code: int) -> None:
    """Exit at once; Python would wait minutes for blocks that run in threads."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)
