"""Sphinx configuration."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import xdreg

HERE = Path(__file__).parent

# Notebooks draw into the page, whatever the shell says.
os.environ.pop("MPLBACKEND", None)

project = "xdreg"
author = "The xdreg developers"
copyright = "The xdreg developers"
version = release = xdreg.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
]
autosummary_generate = True
autodoc_typehints = "none"
default_role = "py:obj"
napoleon_google_docstring = False
nb_execution_mode = "cache"
nb_execution_timeout = 900
nb_execution_raise_on_error = True
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3
# Two hyphens are an option's.
smartquotes = False
html_theme = "furo"
html_title = "xdreg"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_templates", "jupyter_execute"]
suppress_warnings = ["mystnb.unknown_mime_type"]


def _tutorials() -> None:
    """Bring the notebooks here; Sphinx reads nothing from outside its folder."""
    target = HERE / "notebooks"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for path in (HERE.parent / "notebooks").glob("*.ipynb"):
        shutil.copy2(path, target)


def _command_line() -> None:
    """Write down what the command itself says of its arguments."""
    arguments = ["xdreg.cli.main", "utils", "docs", "--name", "xdreg"]
    command = [sys.executable, "-m", "typer", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    target = HERE / "generated" / "command_line.inc"
    target.parent.mkdir(exist_ok=True)
    # Its first heading and its list of commands are those of the page.
    _, mark, rest = done.stdout.partition("\n## ")
    target.write_text(mark.lstrip() + rest)


_tutorials()
_command_line()
