"""The stages, blocks and landmarks of the run that made a field, as pandas tables."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from xdreg.fields.diagnostics import status_name
from xdreg.fields.field import field_grid
from xdreg.fields.provenance import stages_of


def stage_table(field: xr.Dataset) -> pd.DataFrame:
    """Return one row per stage: its name, options, blocks, and mean similarity.

    Parameters
    ----------
    field : Dataset
        A displacement field.
    """
    rows = []
    for stage in stages_of(field):
        row = {"stage": stage.name, "metric": stage.options.get("metric")}
        row |= {
            "level": stage.options.get("level"),
            "blocks": int(np.prod(stage.counts)),
        }
        for name in ("similarity_before", "similarity_after"):
            row[name] = stage.mean(name)
        rows.append(row | stage.statuses)
    table = pd.DataFrame(rows)
    # A status that a stage does not have occurs in none of its blocks.
    statuses = [name for stage in stages_of(field) for name in stage.statuses]
    counts = {n: table[n].fillna(0).astype(int) for n in dict.fromkeys(statuses)}
    return table.assign(**counts)


def landmark_table(field: xr.Dataset) -> pd.DataFrame | None:
    """Return one row per landmark that constrained a field, None if none did.

    Parameters
    ----------
    field : Dataset
        A displacement field.

    Returns
    -------
    DataFrame
        ``name``; ``left_out``, why a pair is not used, else empty; ``distance`` of the
        field from the moving landmark; ``tolerance`` of the last stage.
    """
    stored = field.attrs.get("landmarks")
    return None if stored is None else pd.DataFrame(json.loads(stored))


def block_table(field: xr.Dataset) -> pd.DataFrame:
    """Return one row per block of every stage: its place, status and measures.

    Parameters
    ----------
    field : Dataset
        A displacement field.

    Returns
    -------
    DataFrame
        Indexed by the number of the stage and of the block along each dim.
    """
    dims = field_grid(field).dims
    parts = []
    for stage in stages_of(field):
        if not stage.counts:
            continue
        index = np.indices(stage.counts).reshape(len(dims), -1)
        columns = {"stage": stage.number, **dict(zip(dims, index, strict=True))}
        values: dict[str, Any] = {n: v.ravel() for n, v in stage.blocks.items()}
        values["status"] = [status_name(v) for v in values["status"]]
        parts.append(pd.DataFrame(columns | values))
    if not parts:
        return pd.DataFrame()
    return pd.concat(parts).set_index(["stage", *dims])
