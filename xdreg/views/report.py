"""A report on a registration: one HTML file with all its pictures, for a browser.

It fetches nothing, and a policy in its head forbids it to. Whatever comes from data or
from a user is escaped by the template.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xdreg.errors import InputError
from xdreg.fields.accuracy import label_overlaps, landmark_errors
from xdreg.fields.field import field_grid
from xdreg.fields.provenance import last_deformable, stages_of
from xdreg.stores.outputs import check_file, new_file
from xdreg.stores.paths import as_address, is_remote
from xdreg.views import report_content as content
from xdreg.views.viewed import viewed_pair

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import xarray as xr
    from numpy.typing import ArrayLike

    from xdreg.fields.accuracy import LabelOverlap
    from xdreg.fields.provenance import StageRecord
    from xdreg.views.viewed import Viewed

#: Blocks that are shown one by one.
WORST = 10


def report(
    field: xr.Dataset,
    path: str | os.PathLike[str],
    fixed: Any,
    moving: Any,
    *,
    landmarks: tuple[ArrayLike, ArrayLike] | None = None,
    landmark_names: Sequence[object] | None = None,
    labels: tuple[Any, Any] | None = None,
    label_names: Mapping[int, object] | None = None,
    channel: Any = None,
    moving_channel: Any = None,
    title: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a report on a registration: one HTML file that needs no network.

    Pictures are drawn from a coarse level of the images; those of single blocks from
    the level that they need.

    Parameters
    ----------
    field : Dataset
        A displacement field.
    path
        The file to write.
    fixed, moving : DataTree, DataArray or itk.Image ([c], [z], y, x)
        The pair.
    landmarks : pair of (n, ndim), optional
        Corresponding points of both images, in dims order and physical units.
    landmark_names
        What to call them; by default their numbers, from 1.
    labels : pair of DataTree, DataArray or itk.Image, optional
        Label images of both; zero is background.
    label_names
        What to call labels, by number.
    channel, moving_channel
        Which channels to show, as in `xdreg.plot.compare`.
    title
        A heading; by default the images' names.
    overwrite
        Replace a file that is there.

    Returns
    -------
    Path
        Of the file.

    Raises
    ------
    StoreError
        If the file exists, or cannot be written.
    InputError
        If the images, landmarks or labels do not fit the field.
    ImportError
        If matplotlib or jinja2 is missing.

    Examples
    --------
    >>> import tempfile, xdreg
    >>> pair = xdreg.datasets.phantom_pair((48, 56), amplitude=2.0)
    >>> field = xdreg.register(pair.fixed, pair.moving, progress=False)
    >>> folder = tempfile.TemporaryDirectory()
    >>> points = pair.fixed_points, pair.moving_points
    >>> file = report(field, f"{folder.name}/qc.html", pair.fixed, pair.moving,
    ...               landmarks=points)
    >>> file.read_text().startswith("<!doctype html>")
    True
    """
    address = as_address(path)
    if is_remote(address):
        msg = f"a report is a local file, got {address}; copy it there afterwards"
        raise InputError(msg)
    target = Path(address)
    check_file(target, overwrite=overwrite)
    if label_names is not None and not isinstance(label_names, Mapping):
        msg = f"label_names must map labels to names, got {label_names!r:.80}"
        raise InputError(msg)
    pair = viewed_pair(field, fixed, moving, channel, moving_channel)
    text = render(
        _context(
            field,
            *pair,
            _pair_of(landmarks, "landmarks"),
            landmark_names,
            _pair_of(labels, "labels"),
            label_names or {},
        )
        | {"title": _title(pair) if title is None else str(title)}
    )
    with new_file(target, overwrite=overwrite) as file:
        file.write_text(text, encoding="utf-8")
    return target


def render(context: Mapping[str, Any]) -> str:
    """Return a report's page; the template escapes all that it is given.

    Raises
    ------
    ImportError
        If jinja2 is missing.
    """
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError as error:
        msg = "reports need jinja2 and matplotlib: pip install 'xdreg[report]'"
        raise ImportError(msg) from error

    folder = files("xdreg.views") / "templates"
    style, script = (
        (folder / name).read_text(encoding="utf-8")
        for name in ("report.css", "report.js")
    )
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.from_string((folder / "report.html").read_text("utf-8"))
    digest = hashlib.sha256(script.encode()).digest()
    return template.render(
        context,
        # From the package, not from data; the policy lets no other script run.
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(digest).decode("ascii"),
    )


def _context(
    field: xr.Dataset,
    fixed: Viewed,
    moving: Viewed,
    landmarks: tuple[Any, Any] | None,
    landmark_names: Sequence[object] | None,
    labels: tuple[Any, Any] | None,
    label_names: Mapping[int, object],
) -> dict[str, Any]:
    """Return everything that the page shows."""
    from xdreg import __version__
    from xdreg.views import report_figures as figures

    grid = field_grid(field)
    cuts: list[str | None] = [None] if grid.ndim == 2 else list(grid.dims)
    planes = [fixed.plane(cut) for cut in cuts]
    errors = None
    if landmarks is not None:
        errors = landmark_errors(field, *landmarks, names=landmark_names)
    overlaps, lonely = ({}, []) if labels is None else label_overlaps(field, *labels)
    across = content.across_modalities(field)
    agreement = content.similarity(field, fixed, moving, planes)
    folds = content.folding(field, planes)
    given = {"fixed": fixed.grids[0], "moving": moving.grids[0]}
    last = last_deformable(field)
    return {
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": __version__,
        "units": grid.units or "",
        "field_text": content.field_text(field),
        "agreement": agreement,
        "folds": folds,
        "statuses": {} if last is None else last.statuses,
        "remarks": content.remarks(field, agreement, folds, errors, overlaps, given),
        "inputs": content.inputs(field),
        "wipes": [figures.wipe(field, fixed, moving, plane) for plane in planes],
        "pairs": [
            figures.pair_figure(field, fixed, moving, plane, across=across)
            for plane in planes
        ],
        "fields": [figures.field_figure(field, fixed, plane) for plane in planes],
        "stages": [_stage(field, stage) for stage in stages_of(field)],
        "errors": errors,
        "error_figure": errors and figures.landmark_figure(errors, grid.units),
        "dice": _mean_dice(overlaps),
        "overlaps": _named(overlaps, label_names),
        "lonely": lonely,
        "label_figure": figures.label_figure(overlaps) if overlaps else None,
        "blocks": _blocks(field, fixed, moving, last),
    }


def _stage(field: xr.Dataset, stage: StageRecord) -> dict[str, Any]:
    from xdreg.views.report_figures import stage_figure

    pair = [stage.blocks.get(f"similarity_{when}") for when in ("before", "after")]
    return {
        "record": stage,
        "cost": content.cost(stage),
        "options": content.options(stage),
        "similarity": content.mean_pair(pair),
        "figure": stage_figure(field, stage),
    }


def _mean_dice(overlaps: Mapping[int, LabelOverlap]) -> tuple[float, float]:
    if not overlaps:
        return 0.0, 0.0
    before, after = zip(*(v.dice for v in overlaps.values()), strict=True)
    return sum(before) / len(before), sum(after) / len(after)


def _named(
    overlaps: Mapping[int, LabelOverlap], names: Mapping[int, object]
) -> list[tuple[int, str, LabelOverlap]]:
    order = sorted(overlaps, key=lambda label: overlaps[label].dice[1])
    return [(v, str(names.get(v, "")), overlaps[v]) for v in order]


def _blocks(
    field: xr.Dataset, fixed: Viewed, moving: Viewed, stage: StageRecord | None
) -> list[tuple[content.BlockFacts, str | None]]:
    """Return the worst blocks with pictures, where the field tells where they lie."""
    from xdreg.views.report_figures import block_figure

    if stage is None or stage.linear or sum(stage.statuses.values()) < 2:
        return []
    result: list[tuple[content.BlockFacts, str | None]] = []
    for facts in content.block_facts(stage, WORST):
        drawn = None
        if stage.partition is not None:
            drawn = block_figure(field, fixed, moving, stage.partition, facts.index)
        result.append((facts, drawn))
    return result


def _pair_of(given: Any, name: str) -> tuple[Any, Any] | None:
    if given is None:
        return None
    if isinstance(given, tuple | list) and len(given) == 2:
        return given[0], given[1]
    msg = f"{name} must be a pair, that of fixed and that of moving; got {given!r:.80}"
    raise InputError(msg)


def _title(pair: tuple[Viewed, Viewed]) -> str:
    names = [str(v.levels[0].attrs.get("name") or v.name) for v in pair]
    return f"{names[1]} registered to {names[0]}"
