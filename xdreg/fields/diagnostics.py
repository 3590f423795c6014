"""Diagnostics of a field's blocks: names, meanings, colours, and variables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xdreg.partition import BlockStatus

DIAGNOSTICS = {
    "status": "what became of the block",
    "similarity_before": "similarity of the window before the stage",
    "similarity_after": "similarity of the window after the stage",
    "min_jacobian": "smallest Jacobian determinant of the block's update",
    "max_update": "largest displacement of the block's update",
    "attempts": "times that the method was tried, the second time with safer options",
    "from_search": "whether what began at the discrete search's result was kept",
    "missing_chunks": "share of the chunks read for the block that are missing",
    "disagreement": "RMS difference of the block's patch from the blend",
    "neighbour_difference": "median difference from its neighbours' patches, in voxels",
    "seconds": "time the block took",
}

#: Variable with the diagnostics of all stages but the last deformable one.
EARLIER = "stage_blocks"

#: Its dimensions: a diagnostic, and the blocks of one stage after those of another.
EARLIER_DIMS = ("measure", "stage_block")

#: Diagnostics of an inverse, see `xdreg.fields.inverse`.
INVERSE_DIAGNOSTICS = {
    "status": "what became of the block",
    "mean_residual": "mean distance of there and back again from its points",
    "max_residual": "largest distance of there and back again from its points",
    "outside": "share of points that come from outside the fixed image",
    "folded": "share of points without an inverse, for the field folds",
}

#: Statuses of blocks with nothing to register, which are no failures.
HARMLESS = (BlockStatus.EMPTY, BlockStatus.NO_OVERLAP)

#: Statuses that are failures, worst first.
SEVERITY = (
    BlockStatus.CRASHED,
    BlockStatus.TIMEOUT,
    BlockStatus.UNREADABLE,
    BlockStatus.REJECTED,
    BlockStatus.FOLDED,
    BlockStatus.NOT_IMPROVED,
    BlockStatus.TOO_FEW_SAMPLES,
)


def block_variables(
    record: Mapping[str, NDArray[np.float32]], dims: Sequence[str]
) -> dict[str, xr.Variable]:
    """Return a stage's diagnostics, each ``(*counts)``, as variables of a field."""
    axes = [f"block_{dim}" for dim in dims]
    result = {}
    for name, long_name in DIAGNOSTICS.items():
        values = record[name].astype(np.int8 if name == "status" else np.float32)
        variable = xr.Variable(axes, values, {"long_name": long_name})
        if name == "status":
            variable.attrs |= status_attrs()
        result[f"block_{name}"] = variable
    return result


def earlier_variable(
    records: Mapping[int, Mapping[str, NDArray[np.float32]]],
) -> xr.Variable:
    """Return the diagnostics of stages, by their numbers, as one variable."""
    values = [
        np.stack([record[name].ravel() for name in DIAGNOSTICS])
        for record in records.values()
    ]
    attrs = {
        "long_name": "diagnostics of the blocks of the other stages",
        "measures": " ".join(DIAGNOSTICS),
        "stages": list(records),
        "counts": [n for record in records.values() for n in record["status"].shape],
    }
    return xr.Variable(EARLIER_DIMS, np.concatenate(values, 1, dtype=np.float32), attrs)


def of_earlier(variable: xr.DataArray, number: int) -> dict[str, NDArray[Any]]:
    """Return the diagnostics of a stage, each ``(*counts)``; empty if not there.

    The variable may come from any store.
    """
    try:
        stages = [int(v) for v in variable.attrs["stages"]]
        counts = [int(v) for v in variable.attrs["counts"]]
        names = str(variable.attrs["measures"]).split()
        place, ndim = stages.index(number), len(counts) // len(stages)
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return {}
    shapes = [counts[i : i + ndim] for i in range(0, len(counts), ndim or 1)]
    sizes = [math.prod(shape) for shape in shapes]
    fits = variable.shape == (len(names), sum(sizes)) and len(shapes) == len(stages)
    if not fits or min(counts, default=0) < 1:
        return {}
    begin = sum(sizes[:place])
    values = variable.values[:, begin : begin + sizes[place]]
    found: dict[str, NDArray[Any]] = {
        name: row.reshape(shapes[place])
        for name, row in zip(names, values, strict=True)
    }
    if "status" in found:
        status = np.nan_to_num(found["status"], nan=-1).clip(-1, 127)
        found["status"] = status.astype(np.int8)
    return found


def status_attrs() -> dict[str, Any]:
    """Return the CF attributes that explain the numbers of a status."""
    used = [s for s in BlockStatus if s is not BlockStatus.PENDING]
    return {
        "flag_values": [int(s) for s in used],
        "flag_meanings": " ".join(s.meaning for s in used),
    }


def status_name(value: float) -> str:
    """Return a status as a word, or its number if this version does not know it."""
    known = {float(status): status.meaning for status in BlockStatus}
    return known.get(float(value), f"status {value:g}")


def status_counts(field: xr.Dataset, name: str = "block_status") -> dict[str, int]:
    """Return how many blocks of the last deformable stage ended in each status.

    With the ``name`` ``"status"`` it is how many frames of a time series.
    """
    if name not in field:
        return {}
    values, counts = np.unique(field[name].values, return_counts=True)
    return {status_name(v): int(c) for v, c in zip(values, counts, strict=True)}
