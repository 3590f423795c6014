"""Text and numbers of a report, from a field's provenance and measures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from dask.utils import format_bytes

from xdreg.engines.pose_text import DOUBTFUL, pose_text
from xdreg.errors import InputError
from xdreg.fields.accuracy import LabelOverlap, LandmarkErrors
from xdreg.fields.diagnostics import HARMLESS, status_name
from xdreg.fields.field import fixed_grid, moving_grid
from xdreg.fields.measures import folded_share
from xdreg.fields.provenance import (
    StageRecord,
    last_deformable,
    last_metric,
    manifest_of,
    pose_of,
    worst_blocks,
)
from xdreg.grid import Grid
from xdreg.numerics.metrics import mutual_information, normalised_correlation
from xdreg.partition import BlockStatus
from xdreg.registration.estimates import PROCESS_BYTES, block_memory
from xdreg.stages import OWN_METRICS
from xdreg.views.plot_blocks import MEASURES
from xdreg.views.scene import ScenePlane
from xdreg.views.summary import image_text

#: A field of at most this many numbers is searched for folds; of others the planes.
MOST_SEARCHED = 2**27

#: Fewest landmarks among which some stand out, and times the median at which they do.
LEAST_LANDMARKS, FAR_OFF = 5, 4.0

#: Most outliers that are named.
LISTED = 5

#: Longest text of an option or a source.
LONGEST = 400


@dataclass(frozen=True)
class Similarity:
    """A measure of agreement of the images in the planes shown; larger is better."""

    name: str
    before: float
    after: float


def across_modalities(field: xr.Dataset) -> bool:
    """Return whether the images were compared by a metric for several modalities."""
    return last_metric(field) in ("mind", "mi")


def similarity(field: xr.Dataset, planes: Sequence[ScenePlane]) -> Similarity:
    """Measure the agreement of a pair in some planes, where both have values."""
    fixed, before, after = (
        np.concatenate([getattr(plane, name).ravel() for plane in planes])
        for name in ("fixed", "before", "after")
    )
    across = across_modalities(field)
    measure = mutual_information if across else normalised_correlation
    name = "mutual information / nat" if across else "correlation"
    return Similarity(name, measure(fixed, before), measure(fixed, after))


def folding(field: xr.Dataset, planes: Sequence[ScenePlane]) -> tuple[float, str]:
    """Return the share of points at which a field folds, and of which points."""
    if field["displacement"].size <= MOST_SEARCHED:
        return float(folded_share(field)), "of all points of the field"
    folds = [plane.field.jacobian.ravel() <= 0 for plane in planes]
    return float(np.concatenate(folds).mean()), "of the planes shown"


def inputs(field: xr.Dataset) -> list[tuple[str, str]]:
    """Return what was registered, by name."""
    manifest = manifest_of(field)
    rows = []
    for name, grid in _known_grids(field).items():
        entry = manifest.get(name)
        known = entry if isinstance(entry, dict) else {}
        if known.get("source"):
            rows.append((f"{name} image", _short(known["source"])))
        if grid is not None:
            kind = f", {_short(known['dtype'])}" if "dtype" in known else ""
            rows.append((f"{name} geometry", image_text(grid) + kind))
        mask = manifest.get(f"{name}_mask")
        if mask is not None:
            rows.append((f"{name} mask", _mask_text(mask)))
    rows += [
        (key, _short(manifest[key]))
        for key in ("channels", "initial")
        if manifest.get(key) not in (None, [], [[{}], [{}]])
    ]
    if "metric" in field.attrs:
        rows.append(("metric", _short(field.attrs["metric"])))
    pose = _pose(field)
    if pose:
        rows.append(("pose", pose))
    versions = manifest.get("versions")
    if isinstance(versions, dict):
        listed = (f"{_short(k)} {_short(v)}" for k, v in versions.items())
        rows.append(("versions", ", ".join(listed)))
    return rows


def _known_grids(field: xr.Dataset) -> dict[str, Grid | None]:
    return {"fixed": fixed_grid(field), "moving": moving_grid(field)}


def _mask_text(mask: Any) -> str:
    if not isinstance(mask, dict):
        return "found"
    if isinstance(mask.get("share"), float):
        return f"found in the image, {mask['share']:.0%} of it"
    return _short(mask.get("source") or "given")


def _pose(field: xr.Dataset) -> str:
    pose = pose_of(field)
    try:
        return pose_text(pose, field["displacement"].attrs.get("units"))
    except (KeyError, TypeError, ValueError):
        return ""


def options(stage: StageRecord) -> list[tuple[str, str]]:
    """Return the options of a stage that were set or derived."""
    return [
        (str(name), _short(value))
        for name, value in stage.options.items()
        if value is not None
    ]


def cost(stage: StageRecord) -> str:
    """Return the time of a stage's blocks, and the estimated memory of one."""
    parts = []
    seconds = stage.blocks.get("seconds")
    if seconds is not None and np.isfinite(seconds).any():
        parts.append(
            f"{np.nansum(seconds):.1f} s in all blocks, at most "
            f"{np.nanmax(seconds):.1f} s in one"
        )
    metric = stage.options.get("metric")
    # The memory of a user's own method is not known.
    own = "method" in stage.options
    if stage.partition is not None and isinstance(metric, str) and not own:
        elastix = stage.name == "bspline" or (
            stage.linear and metric not in OWN_METRICS
        )
        size = block_memory(stage.partition, metric, elastix=elastix, isolated=elastix)
        parts.append(
            f"estimated memory {format_bytes(size)} for a block and "
            f"{format_bytes(PROCESS_BYTES)} for its process"
        )
    return "; ".join(parts)


def remarks(
    field: xr.Dataset,
    agreement: Similarity,
    folds: tuple[float, str],
    errors: LandmarkErrors | None,
    overlaps: Mapping[int, LabelOverlap],
    given: Mapping[str, Grid],
) -> list[str]:
    """Return what to look at first; empty if nothing is suspicious."""
    found = [
        f"The {name} image given to this report is not the one that was registered: "
        f"{image_text(given[name])} here, {image_text(known)} then."
        for name, known in _known_grids(field).items()
        if known is not None and not _alike(given[name], known)
    ]
    last = last_deformable(field)
    if last is not None and last.statuses:
        found += _block_remarks(last)
    if folds[0] > 0:
        found.append(f"The field folds at {folds[0]:.2%} {folds[1]}.")
    if not agreement.after > agreement.before:
        found.append(
            f"The images agree no better after registration: {agreement.name} "
            f"{agreement.before:.3f} before, {agreement.after:.3f} after."
        )
    margin = pose_of(field).get("margin")
    if isinstance(margin, int | float) and margin < DOUBTFUL:
        found.append(
            f"Two different poses fit about equally well (margin {margin:.2f}): check "
            "the orientation of the images."
        )
    if errors is not None:
        found += _landmark_remarks(errors)
    worse = sum(v.dice[1] < v.dice[0] for v in overlaps.values())
    if worse:
        verb = "overlaps" if worse == 1 else "overlap"
        found.append(
            f"{worse} of {counted(len(overlaps), 'label')} {verb} less afterwards."
        )
    return found


def _alike(a: Grid, b: Grid) -> bool:
    try:
        b = b.to_units(a.units)
    except InputError:
        return False
    near = np.allclose(np.asarray(a.bounds), np.asarray(b.bounds), rtol=1e-4)
    return bool(a.dims == b.dims and a.shape == b.shape and near)


def _block_remarks(last: StageRecord) -> list[str]:
    found = []
    success = BlockStatus.SUCCESS.meaning
    fine = {success, *(status.meaning for status in HARMLESS)}
    bad = {name: count for name, count in last.statuses.items() if name not in fine}
    if bad:
        text = ", ".join(f"{count} {name}" for name, count in bad.items())
        count = sum(bad.values())
        share = f"{count} of {counted(sum(last.statuses.values()), 'block')}"
        verb = "contributes" if count == 1 else "contribute"
        found.append(f"{share} of the last stage {verb} no update ({text}).")
    if success not in last.statuses:
        found.append("No block of the last stage succeeded.")
    return found


def _landmark_remarks(errors: LandmarkErrors) -> list[str]:
    found = []
    odd = outliers(errors)
    if odd:
        median = errors.table()["median"][1]
        listed = ", ".join(
            f"{errors.names[i]} ({errors.after[i]:.3g})" for i in odd[:LISTED]
        )
        more = f" and {len(odd) - LISTED} more" if len(odd) > LISTED else ""
        found.append(
            f"{counted(len(odd), 'landmark')} {'is' if len(odd) == 1 else 'are'} much "
            f"farther off than the median of {median:.3g}: {listed}{more}. Look there "
            "in both images: a landmark may be misplaced, or the field wrong."
        )
    worse = int((errors.after > errors.before).sum())
    if worse:
        verb = "is" if worse == 1 else "are"
        share = f"{worse} of {counted(len(errors.names), 'landmark')}"
        found.append(f"{share} {verb} farther off afterwards.")
    if errors.outside:
        verbs = ("lies", "is") if errors.outside == 1 else ("lie", "are")
        share = f"{errors.outside} of {counted(len(errors.names), 'landmark')}"
        found.append(
            f"{share} {verbs[0]} outside the image that the field was made for, and "
            f"{verbs[1]} not counted."
        )
    return found


def outliers(errors: LandmarkErrors) -> list[int]:
    """Return the landmarks that are much farther off than the others, worst first.

    By Tukey's outer fence, and at least a multiple of the median.
    """
    known = errors.after[np.isfinite(errors.after)]
    if known.size < LEAST_LANDMARKS:
        return []
    low, median, high = np.percentile(known, (25, 50, 75))
    fence = max(high + 3 * (high - low), FAR_OFF * median)
    return [i for i in errors.order if errors.after[i] > fence]


def counted(count: int, noun: str) -> str:
    """Return a count with its noun.

    Examples
    --------
    >>> counted(1, "block"), counted(3, "label")
    ('1 block', '3 labels')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def block_facts(stage: StageRecord, count: int) -> list[dict[str, Any]]:
    """Return the worst blocks of a stage: index, status, and numbers as rows."""
    return [
        {
            "index": index,
            "status": status_name(stage.blocks["status"][index]),
            "rows": [
                (title, f"{float(stage.blocks[name][index]):.4g}")
                for name, (title, _) in MEASURES.items()
                if name in stage.blocks and np.isfinite(stage.blocks[name][index])
            ],
        }
        for index in worst_blocks(stage, count)
    ]


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
