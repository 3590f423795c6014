"""Coordinate systems of spatialdata, in stores and of elements in memory.

Pixels are counted from the corner of the first one, so that its centre is at ½.
Transformations to several systems are alternatives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from xdreg.errors import InputError, StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: End of the version of a store of spatialdata.
PIXELS_FROM_CORNERS = "dev-spatialdata"


def chosen_system(names: Sequence[str], wanted: str | None, what: str) -> str:
    """Return the coordinate system to use; raise if it is not clear which.

    ``what`` has the systems, in errors.
    """
    if wanted in names:
        return str(wanted)
    if wanted is None and len(names) == 1:
        return names[0]
    asked = "" if wanted is None else f", and not {wanted!r}"
    msg = f"{what} has the coordinate systems {sorted(names)}{asked}; choose one"
    raise InputError(msg, coordinate_system=sorted(names)[0] if names else ...)


def steps_to_system(
    address: str, steps: Sequence[Any], wanted: str | None
) -> list[dict[str, Any]]:
    """Return the steps from pixels to one of the systems that a store names."""
    by_name: dict[str, Any] = {}
    for step in steps:
        end = step.get("output") if isinstance(step, Mapping) else None
        name = end.get("name") if isinstance(end, Mapping) else end
        if not isinstance(name, str):
            msg = f"{address}: the transformation {step} names no coordinate system"
            raise StoreError(msg)
        by_name[name] = step
    if not by_name and wanted is None:
        return []
    return [_plain(address, by_name[chosen_system([*by_name], wanted, address)])]


def _plain(address: str, step: Mapping[str, Any]) -> dict[str, Any]:
    """Return a transformation as scales and translations, or raise if it is none."""
    kind = step.get("type")
    ends = [
        [axis.get("name") for axis in end.get("axes") or ()]
        for end in (step.get("input"), step.get("output"))
        if isinstance(end, Mapping)
    ]
    if len(ends) == 2 and ends[0] != ends[1]:
        msg = f"{address}: the transformation maps {ends[0]} to {ends[1]}"
        raise StoreError(msg)
    if kind == "sequence":
        inner = step.get("transformations")
        parts = inner if isinstance(inner, list) else []
        return {
            "type": "sequence",
            "transformations": [_plain(address, part) for part in parts],
        }
    if kind == "affine":
        scale, shift = scale_and_shift(step.get("affine"), address)
        return {
            "type": "sequence",
            "transformations": [
                {"type": "scale", "scale": scale},
                {"type": "translation", "translation": shift},
            ],
        }
    return dict(step)


def scale_and_shift(matrix: Any, what: str) -> tuple[list[float], list[float]]:
    """Return the diagonal and the last column of an affine matrix."""
    values = np.asarray(matrix, np.float64)
    linear = values[:, :-1][: values.shape[1] - 1]
    if not np.allclose(linear, np.diag(np.diag(linear)), atol=1e-9):
        msg = (
            f"{what}: the transformation to the coordinate system turns or shears the "
            "image; choose another system, and pass the affine matrix to register as "
            "initial="
        )
        raise InputError(msg)
    return np.diag(linear).tolist(), values[: len(linear), -1].tolist()
