"""Reports on a registration: one HTML file with all its pictures, for a browser.

The page loads nothing, and a policy in its head forbids it to. The template escapes all
strings from data and from users.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xdreg.errors import InputError, printable
from xdreg.fields.accuracy import label_overlaps, landmark_errors
from xdreg.fields.field import field_grid
from xdreg.fields.provenance import last_deformable, stages_of
from xdreg.registration.verdict import verdict
from xdreg.stores.apart import check_apart
from xdreg.stores.outputs import check_file, new_file
from xdreg.stores.paths import as_address, is_remote, local_path
from xdreg.views import report_content as content
from xdreg.views import report_figures as figures
from xdreg.views.plot_axes import role_name
from xdreg.views.scene import make_scene
from xdreg.views.summary import image_text, mean_similarity

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import xarray as xr

    from xdreg.fields.accuracy import LabelOverlap, LandmarkErrors
    from xdreg.fields.provenance import StageRecord
    from xdreg.views.scene import Scene, ScenePlane

#: Most blocks that are shown one by one.
WORST = 10


def report(
    field: xr.Dataset,
    path: str | os.PathLike[str],
    fixed: Any,
    moving: Any,
    *,
    landmarks: tuple[Any, Any] | None = None,
    landmark_names: Sequence[object] | None = None,
    labels: tuple[Any, Any] | None = None,
    label_names: Mapping[int, object] | None = None,
    channel: Any = None,
    moving_channel: Any = None,
    title: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a report on a registration: one HTML file that needs no network.

    Pictures are drawn from a coarse level of the images, those of single blocks from
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
        Corresponding points of both images and their names, as in
        `xdreg.landmark_errors`.
    landmark_names
        Names of the landmarks.
    labels : pair of DataTree, DataArray or itk.Image, optional
        Label images of both; zero is background.
    label_names
        Names of labels, by number.
    channel, moving_channel
        Channels to show, as in `xdreg.plot.compare`.
    title
        Heading of the report; by default the images' names.
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
    >>> file.read_text("utf-8").startswith("<!doctype html>")
    True
    """
    target = local_page(path)
    check_apart(target, field, fixed, moving, labels)
    check_file(target, overwrite=overwrite)
    if label_names is not None and not isinstance(label_names, Mapping):
        msg = f"label_names must map labels to names, got {label_names!r:.80}"
        raise InputError(msg)
    options = {"channel": channel, "moving_channel": moving_channel}
    scene = make_scene(field, fixed, moving, **options)
    errors = None
    if landmarks is not None:
        points = _pair_of(landmarks, "landmarks")
        errors = landmark_errors(field, *points, names=landmark_names)
    pair = None if labels is None else _pair_of(labels, "labels")
    overlaps = ({}, []) if pair is None else label_overlaps(field, *pair)
    context = _context(scene, errors)
    context |= _labels(context["planes"], pair, overlaps, label_names or {})
    context["remarks"] = content.remarks(
        field,
        context["agreement"],
        context["folds"],
        errors,
        context["overlap_of"],
        {view.name: view.grids[0] for view in scene.pair},
    )
    context["title"] = _title(scene) if title is None else str(title)
    return write_page(target, render(context), overwrite=overwrite)


def local_page(path: str | os.PathLike[str]) -> Path:
    """Return where to write a report, or raise if that is a URL."""
    address = as_address(path)
    if is_remote(address):
        msg = f"a report is a local file, got {address}; copy it there afterwards"
        raise InputError(msg)
    return local_path(address)


def write_page(target: Path, text: str, *, overwrite: bool) -> Path:
    """Write a report, and return its path."""
    with new_file(target, overwrite=overwrite) as file:
        file.write_text(text, encoding="utf-8")
    return target


def render(context: Mapping[str, Any], page: str = "report") -> str:
    """Return a report by the template of a page, which escapes all that it is given.

    Characters that turn text around are escaped too, and those that UTF-8 lacks.
    """
    try:
        import jinja2
        from markupsafe import Markup, escape
    except ImportError as error:
        msg = "reports need jinja2 and matplotlib: pip install 'xdreg[report]'"
        raise ImportError(msg) from error

    folder = files("xdreg.views") / "templates"
    template, style, script = (
        (folder / name).read_text(encoding="utf-8")
        for name in (f"{page}.html", "report.css", "report.js")
    )
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # A path may go on in the next line after any of its folders.
    environment.filters["path"] = lambda text: Markup("/<wbr>").join(
        escape(part) for part in text.split("/")
    )
    digest = hashlib.sha256(script.encode()).digest()
    text = environment.from_string(template).render(
        context,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=version("xdreg"),
        # From the package, not from data; the policy lets no other script run.
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(digest).decode("ascii"),
    )
    return printable(text)


def _context(scene: Scene, errors: LandmarkErrors | None) -> dict[str, Any]:
    """Return what the page shows, apart from labels and remarks."""
    field, grid = scene.field, field_grid(scene.field)
    cuts: list[str | None] = [None] if grid.ndim == 2 else list(grid.dims)
    planes = [scene.plane(cut) for cut in cuts]
    across = content.across_modalities(field)
    last = last_deformable(field)
    odd = [] if errors is None else content.outliers(errors)
    return {
        "counted": content.counted,
        "verdict": verdict(field),
        "units": grid.units or "",
        "field_text": image_text(grid).replace("voxels", "points"),
        "agreement": content.similarity(field, planes),
        "folds": content.folding(field, planes),
        "statuses": {} if last is None else last.statuses,
        "inputs": content.inputs(field),
        "planes": planes,
        "names": [role_name(view.title, view.name) for view in scene.pair],
        "taken_upward": any(p.plane.upward and not p.plane.anatomical for p in planes),
        "wipes": [figures.wipe(plane) for plane in planes],
        "pairs": [figures.pair_figure(plane, across=across) for plane in planes],
        "fields": [figures.field_figure(plane) for plane in planes],
        "stages": [_stage(field, stage) for stage in stages_of(field)],
        "errors": errors,
        "odd": odd,
        "error_figure": errors and figures.landmark_figure(errors, grid.units),
        "error_map": errors and figures.landmark_map(planes, errors, odd),
        "blocks": _blocks(scene, last),
    }


def _labels(
    planes: Sequence[ScenePlane],
    pair: tuple[Any, Any] | None,
    found_and_lonely: tuple[Mapping[int, LabelOverlap], Sequence[int]],
    names: Mapping[int, object],
) -> dict[str, Any]:
    """Return what the page shows of labels, the worst first."""
    found, lonely = found_and_lonely
    overlaps = dict(sorted(found.items(), key=lambda item: item[1].dice[1]))
    shown = [*overlaps][: figures.MOST_LABELS]
    called = {label: str(names.get(label) or label) for label in shown}
    return {
        "dice": np.mean([v.dice for v in overlaps.values()] or [(0, 0)], axis=0),
        "overlap_of": overlaps,
        "overlaps": [
            (label, str(names.get(label, "")), overlap)
            for label, overlap in overlaps.items()
        ],
        "lonely": lonely,
        "label_figure": figures.label_figure(overlaps) if overlaps else None,
        "label_map": (
            figures.label_map(planes, pair, called) if pair and overlaps else None
        ),
    }


def _stage(field: xr.Dataset, stage: StageRecord) -> dict[str, Any]:
    return {
        "record": stage,
        "cost": content.cost(stage),
        "options": content.options(stage),
        "similarity": mean_similarity(stage),
        "figure": figures.stage_figure(field, stage),
    }


def _blocks(
    scene: Scene, stage: StageRecord | None
) -> list[tuple[dict[str, Any], str | None]]:
    """Return the worst blocks, with pictures where the field has their geometry."""
    if stage is None or stage.linear or sum(stage.statuses.values()) < 2:
        return []
    facts, where = content.block_facts(stage, WORST), stage.partition
    if where is None:
        return [(block, None) for block in facts]
    return [(v, figures.block_figure(scene, where, v["index"])) for v in facts]


def _pair_of(given: Any, name: str) -> tuple[Any, Any]:
    if isinstance(given, tuple | list) and len(given) == 2:
        return given[0], given[1]
    msg = f"{name} must be a pair, one of fixed and one of moving; got {given!r:.80}"
    raise InputError(msg)


def _title(scene: Scene) -> str:
    fixed, moving = (view.title for view in scene.pair)
    return f"{moving} registered to {fixed}"
