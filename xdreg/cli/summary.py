"""Summaries that the commands print: blocks, pose, agreement of the images, memory.

Each is a dict of plain values for JSON, and lines of text made from it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xdreg.stores.posix import peak_memory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xdreg.registration.inputs import Channels

#: Most voxels of the level on which the agreement of two images is measured.
AGREEMENT_VOXELS = 2**21


def field_summary(field: xr.Dataset) -> dict[str, Any]:
    """Return the metric, pose, blocks and similarity that a field records.

    What is not recorded is None; ``blocks`` is empty without diagnostics.
    """
    from xdreg.fields.diagnostics import status_counts
    from xdreg.fields.provenance import last_metric, pose_of
    from xdreg.registration.verdict import verdict

    found = verdict(field)

    def mean(name: str) -> float | None:
        values = field[name].values if name in field else np.array([np.nan])
        return float(np.nanmean(values)) if np.isfinite(values).any() else None

    return {
        "metric": field.attrs.get("metric") or last_metric(field),
        "start": field.attrs.get("start"),
        "pose": pose_of(field) or None,
        "blocks": status_counts(field),
        "similarity": {
            when: mean(f"block_similarity_{when}") for when in ("before", "after")
        },
        "missing_chunks": mean("block_missing_chunks"),
        "units": field["displacement"].attrs.get("units"),
        "verdict": {"word": found.word, "reasons": list(found.reasons)},
    }


def summary_lines(summary: Mapping[str, Any]) -> dict[str, str]:
    """Return lines of text from the result of `field_summary`."""
    from xdreg.engines.pose_text import pose_text

    lines = {}
    if summary["metric"] is not None:
        lines["metric"] = summary["metric"]
    if summary["start"] is not None:
        lines["start"] = str(summary["start"])
    if summary["pose"] is not None:
        lines["pose"] = pose_text(summary["pose"], summary["units"])
    if summary["blocks"]:
        lines["blocks"] = ", ".join(f"{n} {s}" for s, n in summary["blocks"].items())
    if summary["missing_chunks"]:
        share = summary["missing_chunks"]
        lines["missing"] = f"{share:.2g} of the images' chunks, mean of the blocks"
    before, after = (summary["similarity"][when] for when in ("before", "after"))
    if before is not None and after is not None:
        lines["last stage"] = f"similarity of its blocks {before:.3f} → {after:.3f}"
    return lines


def verdict_line(summary: Mapping[str, Any]) -> str:
    """Return the verdict as a line of text."""
    from xdreg.registration.verdict import Verdict

    return str(Verdict(**summary["verdict"]))


def agreement(
    field: xr.Dataset,
    fixed: list[xr.DataArray],
    moving: list[xr.DataArray],
    *,
    across: bool = False,
) -> dict[str, Any]:
    """Return the agreement of the images before and after, on one coarse level.

    The images are levels, finest first, of one channel and time point. The measure is
    mutual information ``across`` modalities, else normalised correlation.
    """
    from xdreg.fields.displacement import identity
    from xdreg.fields.warp import warp
    from xdreg.numerics.metrics import mutual_information, normalised_correlation

    reference, source = (
        next((v for v in levels if v.size <= AGREEMENT_VOXELS), levels[-1])
        for levels in (fixed, moving)
    )
    # An image without a pyramid is subsampled.
    stride = max(1, round((reference.size / AGREEMENT_VOXELS) ** (1 / reference.ndim)))
    reference = reference.isel(
        {dim: slice(None, None, min(stride, n)) for dim, n in reference.sizes.items()}
    )
    measure = mutual_information if across else normalised_correlation
    found: dict[str, Any] = {"measure": "information" if across else "correlation"}
    source = source.astype("float32")
    for when, mapping in (("before", identity(field)), ("after", field)):
        warped = warp(mapping, source, like=reference, fill_value=np.nan)
        found[when] = float(measure(reference.values, warped.values))
    return found


def one_channel(
    levels: list[xr.DataArray], channel: Channels, name: str
) -> list[xr.DataArray]:
    """Return levels of an image at the chosen channel and the first time point."""
    from xdreg.registration.inputs import selections
    from xdreg.stores.pyramid import build_pyramid

    chosen = selections(build_pyramid(levels, name), channel, name)[0].get("c")
    if chosen is not None:
        if isinstance(chosen, tuple):
            weights = xr.DataArray(np.asarray(chosen, np.float32), dims="c")
            # Arithmetic drops attributes of coordinates, and so the unit.
            levels = [
                (level.drop_vars("c", errors="ignore") * weights)
                .sum("c")
                .assign_coords({d: level[d] for d in level.dims if d != "c"})
                for level in levels
            ]
        else:
            levels = [level.isel(c=chosen, drop=True) for level in levels]
    others = [dim for dim in ("t", "c") if dim in levels[0].dims]
    return [level.isel(dict.fromkeys(others, 0), drop=True) for level in levels]


def outcome(
    field: xr.Dataset, found: Mapping[str, Any], began: float
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the agreement, field and cost of a run as values and as lines of text.

    ``found`` is the result of `agreement`, ``began`` a time of `time.perf_counter`.
    """
    summary = field_summary(field)
    seconds, peak = time.perf_counter() - began, peak_memory()
    spent = {"seconds": seconds, "peak_memory_bytes": peak}
    lines = {
        found["measure"]: f"{found['before']:.3f} before, {found['after']:.3f} after, "
        "where the images overlap",
        **summary_lines(summary),
        "time": f"{seconds:.1f} s",
        "peak memory": f"{peak / 1e9:.2f} GB in the largest process",
    }
    return {"agreement": found, **summary, **spent}, lines
