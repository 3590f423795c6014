"""Sphinx configuration."""

import xdreg

project = "xdreg"
author = "The xdreg developers"
version = release = xdreg.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
]
autosummary_generate = True
autodoc_typehints = "none"
napoleon_google_docstring = False
nb_execution_mode = "cache"
nb_execution_timeout = 900
nb_execution_raise_on_error = True
myst_enable_extensions = ["dollarmath"]
html_theme = "furo"
html_title = "xdreg"
exclude_patterns = ["_build"]
suppress_warnings = ["mystnb.unknown_mime_type"]
