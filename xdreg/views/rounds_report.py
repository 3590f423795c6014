"""A report on several rounds: one HTML file with a table, and pictures of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from xdreg.fields.field import field_grid
from xdreg.stores.apart import check_apart
from xdreg.stores.outputs import check_file
from xdreg.views import report_content as content
from xdreg.views import report_figures as figures
from xdreg.views.report import local_page, render, write_page
from xdreg.views.scene import make_scene
from xdreg.views.summary import image_text

if TYPE_CHECKING:
    import os
    from pathlib import Path

    import xarray as xr

    from xdreg.registration.rounds_result import Rounds


def report_rounds(
    rounds: Rounds,
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a report on rounds: one HTML file that needs no network.

    It has the table of the rounds, those that failed with their errors, and pictures
    before and after from a coarse level. `xdreg.report` says more of one round.

    Parameters
    ----------
    rounds : Rounds
        The result of `xdreg.register_rounds`.
    path
        The file to write.
    title
        Heading of the report.
    overwrite
        Replace an existing file.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    StoreError
        If the file exists, or cannot be written.
    ImportError
        If matplotlib or jinja2 is missing.
    """
    target = local_page(path)
    check_apart(target, rounds.fixed, *rounds.moving.values())
    check_file(target, overwrite=overwrite)
    table = rounds.table
    failed = sum(table["verdict"] == "failed")
    context = {
        "title": f"{content.counted(len(table), 'round')} registered"
        if title is None
        else str(title),
        "failed": content.counted(int(failed), "round") if failed else "",
        "columns": [str(name) for name in table.columns],
        "rows": [(name, [_cell(v) for v in row]) for name, row in _rows(table)],
        "rounds": [
            _pictures(name, field, rounds.fixed, rounds.moving[name])
            for name, field in rounds.items()
        ],
    }
    return write_page(target, render(context, "rounds"), overwrite=overwrite)


def _rows(table: pd.DataFrame) -> list[tuple[str, list[Any]]]:
    return [(str(name), row.tolist()) for name, row in table.iterrows()]


def _cell(value: Any) -> str:
    """Return a value of the table as text; empty where it is not known."""
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.4g}"
    return "" if value is None else str(value)


def _pictures(name: str, field: xr.Dataset, fixed: Any, moving: Any) -> dict[str, Any]:
    """Return the pictures of a round, and by how much it agrees with the fixed."""
    scene, grid = make_scene(field, fixed, moving), field_grid(field)
    cuts: list[str | None] = [None] if grid.ndim == 2 else list(grid.dims)
    planes = [scene.plane(cut) for cut in cuts]
    across = content.across_modalities(field)
    return {
        "name": name,
        "geometry": image_text(scene.moving_view.grids[0]),
        "agreement": content.similarity(field, planes),
        "folds": content.folding(field, planes),
        "pairs": [figures.pair_figure(plane, across=across) for plane in planes],
    }
