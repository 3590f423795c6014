"""What a report says in words and numbers, from a field's provenance and measures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.utils import format_bytes

from xdreg.engines.pose import DOUBTFUL, pose_text
from xdreg.errors import InputError
from xdreg.fields.diagnostics import HARMLESS, status_name
from xdreg.fields.field import field_grid, fixed_grid, moving_grid, open_displacement
from xdreg.fields.measures import folded_share
from xdreg.fields.provenance import (
    StageRecord,
    last_deformable,
    manifest_of,
    pose_of,
    worst_blocks,
)
from xdreg.grid import Grid
from xdreg.numerics.metrics import mutual_information, normalised_correlation
from xdreg.partition import BlockStatus
from xdreg.registration.estimates import PROCESS_BYTES, block_memory
from xdreg.stages import OWN_METRICS
from xdreg.views.field_planes import field_plane
from xdreg.views.plot_field import within
from xdreg.views.summary import image_text
from xdreg.views.viewed import sampled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import xarray as xr

    from xdreg.fields.accuracy import LabelOverlap, LandmarkErrors
    from xdreg.views.planes import Plane
    from xdreg.views.viewed import Viewed

#: All of a field is looked at for folds up to so many numbers; else the planes shown.
MOST_LOOKED_AT = 2**27

#: Longest text of an option or a source that is shown.
LONGEST = 400


@dataclass(frozen=True)
class Similarity:
    """How well the images agree in the planes shown.

    Parameters
    ----------
    name
        The measure.
    before, after
        Its value; larger is better.
    """

    name: str
    before: float
    after: float


def across_modalities(field: xr.Dataset) -> bool:
    """Tell whether the images were compared by a metric for several modalities."""
    stages = manifest_of(field).get("stages")
    last = stages[-1] if isinstance(stages, list) and stages else {}
    return isinstance(last, dict) and last.get("metric") in ("mind", "mi")


def similarity(
    field: xr.Dataset, fixed: Viewed, moving: Viewed, planes: Sequence[Plane]
) -> Similarity:
    """Measure the agreement of a pair in some planes, where both have values."""
    reader = open_displacement(field)
    columns = [
        np.concatenate([sampled(viewed, plane, mapping).ravel() for plane in planes])
        for viewed, mapping in ((fixed, None), (moving, None), (moving, reader))
    ]
    across = across_modalities(field)
    measure = mutual_information if across else normalised_correlation
    name = "mutual information / nat" if across else "correlation"
    before, after = (measure(columns[0], other) for other in columns[1:])
    return Similarity(name, before, after)


def folding(field: xr.Dataset, planes: Sequence[Plane]) -> tuple[float, str]:
    """Return the share of points at which a field folds, and of which points."""
    if field["displacement"].size <= MOST_LOOKED_AT:
        return float(folded_share(field)), "of all points of the field"
    folds = []
    for plane in planes:
        place = within(field, plane.cut, plane.position)
        folds.append(field_plane(field, plane.cut, place).jacobian.ravel() <= 0)
    return float(np.concatenate(folds).mean()), "of the planes shown"


def inputs(field: xr.Dataset) -> list[tuple[str, str]]:
    """Return what was registered, by name."""
    manifest = manifest_of(field)
    rows = []
    grids = {"fixed": fixed_grid(field), "moving": moving_grid(field)}
    for name, grid in grids.items():
        described = manifest.get(name)
        told = described if isinstance(described, dict) else {}
        if told.get("source"):
            rows.append((f"{name} image", _short(told["source"])))
        if grid is not None:
            kind = f", {_short(told['dtype'])}" if "dtype" in told else ""
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


def _mask_text(mask: Any) -> str:
    if isinstance(mask, dict) and isinstance(mask.get("share"), float):
        return f"found in the image, {mask['share']:.0%} of it"
    return _short(mask.get("source") or "given") if isinstance(mask, dict) else "found"


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


def mean_pair(pair: Sequence[Any]) -> tuple[float, float] | None:
    """Return the means before and after; None where there are none."""
    if any(v is None or not np.isfinite(v).any() for v in pair):
        return None
    before, after = (float(np.nanmean(v)) for v in pair)
    return before, after


def cost(stage: StageRecord) -> str:
    """Tell the time that a stage's blocks took, and the memory of one by estimate."""
    parts = []
    seconds = stage.blocks.get("seconds")
    if seconds is not None and np.isfinite(seconds).any():
        parts.append(
            f"{np.nansum(seconds):.1f} s in all blocks, at most "
            f"{np.nanmax(seconds):.1f} s in one"
        )
    metric = stage.options.get("metric")
    # What a user's own method takes nobody knows.
    own = "method" in stage.options
    if stage.partition is not None and isinstance(metric, str) and not own:
        elastix = stage.name == "bspline" or (
            stage.linear and metric not in OWN_METRICS
        )
        size = block_memory(stage.partition, metric, elastix=elastix, isolated=elastix)
        parts.append(
            f"about {format_bytes(size)} for a block beside "
            f"{format_bytes(PROCESS_BYTES)}, estimated"
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
    """Return what a careful person would look at first; empty if nothing stands out."""
    found = [
        f"The {name} image given to this report is not the one that was registered: "
        f"{image_text(given[name])} here, {image_text(known)} then."
        for name, known in (
            ("fixed", fixed_grid(field)),
            ("moving", moving_grid(field)),
        )
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
    pose = pose_of(field)
    margin = pose.get("margin")
    if isinstance(margin, int | float) and margin < DOUBTFUL:
        found.append(
            f"Two different poses fit about equally well (margin {margin:.2f}): see "
            "that the images lie the right way round."
        )
    if errors is not None:
        worse = int((errors.after > errors.before).sum())
        if worse:
            found.append(
                f"{worse} of {len(errors.names)} landmarks are farther off afterwards."
            )
        if errors.outside:
            found.append(
                f"{errors.outside} of {len(errors.names)} landmarks lie outside the "
                "image that the field was made for, and are not counted."
            )
    worse = sum(v.dice[1] < v.dice[0] for v in overlaps.values())
    if worse:
        found.append(f"{worse} of {len(overlaps)} labels overlap less afterwards.")
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
    harmless = {status.meaning for status in HARMLESS}
    total = sum(last.statuses.values())
    bad = {
        name: count
        for name, count in last.statuses.items()
        if name != BlockStatus.SUCCESS.meaning and name not in harmless
    }
    if bad:
        text = ", ".join(f"{count} {name}" for name, count in bad.items())
        found.append(
            f"{sum(bad.values())} of {total} blocks of the last stage contribute no "
            f"update ({text})."
        )
    if last.statuses.get(BlockStatus.SUCCESS.meaning, 0) == 0:
        found.append("No block of the last stage succeeded.")
    return found


@dataclass(frozen=True)
class BlockFacts:
    """A block of a report's list: its place and its numbers."""

    index: tuple[int, ...]
    status: str
    rows: tuple[tuple[str, str], ...]


_FACTS = {
    "similarity_before": "similarity before",
    "similarity_after": "similarity after",
    "min_jacobian": "least Jacobian determinant of its update",
    "max_update": "largest update",
    "neighbour_difference": "difference from neighbours / voxels",
    "attempts": "attempts",
    "from_search": "begun at the search's result",
    "seconds": "time / s",
}


def block_facts(stage: StageRecord, count: int) -> list[BlockFacts]:
    """Return the worst blocks of a stage with their numbers."""
    result = []
    for index in worst_blocks(stage, count):
        rows = tuple(
            (text, f"{float(stage.blocks[name][index]):.4g}")
            for name, text in _FACTS.items()
            if name in stage.blocks and np.isfinite(stage.blocks[name][index])
        )
        result.append(
            BlockFacts(index, status_name(stage.blocks["status"][index]), rows)
        )
    return result


def field_text(field: xr.Dataset) -> str:
    """Tell of a field's own grid in a line."""
    return image_text(field_grid(field)).replace("voxels", "points")


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
