"""The subcommands, each imported as it is used: the help of all needs none of them."""

from __future__ import annotations

import importlib
from typing import Any

import typer
from typer.core import TyperGroup

#: First lines of the subcommands' docstrings, in the order of the help page.
SENTENCES = {
    "register": "Register MOVING to FIXED; write field.ome.zarr and moved.ome.zarr.",
    "rounds": "Register ROUNDS to FIXED; write their fields and one image of all "
    "channels.",
    "plan": "Print the stages, blocks, memory and bytes of a registration; nothing "
    "runs.",
    "warp": "Resample MOVING through FIELD onto the fixed grid, or another.",
    "points": "Map POINTS of the fixed image into the moving one, in physical units.",
    "regions": "Print the volume of each region of LABELS in both images of FIELD.",
    "landmarks": "Fit a transform to landmarks, fixed → moving; print residuals and "
    "outliers.",
    "invert": "Write the inverse of FIELD, moving → fixed, on the grid of the moving "
    "image.",
    "convert": "Convert FIELD between formats, which the suffixes of FIELD and OUT "
    "name.",
    "info": "Print the contents of an image or a field.",
    "report": "Write a report about a registration: one HTML file with its pictures.",
    "view": "Show FIELD: the fixed and warped images as an overlay, vectors, blocks.",
    "demo": "Make a pair with a known deformation, register it in blocks, print the "
    "error.",
}

#: Modules of the subcommands that have not one of their own.
_MODULES = {"plan": "register"}


class Subcommands(TyperGroup):
    """The group of all subcommands."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands.update(dict.fromkeys(SENTENCES))  # type: ignore[arg-type]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a subcommand, None if there is no such."""
        if cmd_name in SENTENCES and self.commands[cmd_name] is None:
            place = _MODULES.get(cmd_name, cmd_name)
            module = importlib.import_module(f"xdreg.cli.{place}")
            app = typer.Typer(add_completion=False, rich_markup_mode="rich")
            app.command(cmd_name)(getattr(module, cmd_name))
            self.commands[cmd_name] = typer.main.get_command(app)
        return self.commands.get(cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of the subcommands of a help page."""
        with formatter.section("Commands"):
            formatter.write_dl(list(SENTENCES.items()))
