"""Anatomical directions of axes, which are brought to one convention (RFC-4).

That is ITK's and DICOM's, LPS: x runs to the left, y to posterior, z to superior.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xdreg.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xdreg.stores.ome_metadata import LevelMetadata

#: Name of the convention in an image's attributes.
CONVENTION = "LPS"

#: Direction of each axis of the convention.
LPS = {
    "z": "inferior-to-superior",
    "y": "anterior-to-posterior",
    "x": "right-to-left",
}

#: Directions without a dim of their own, in which such axes run here.
_KEPT = {
    *("dorsal-to-ventral", "rostral-to-caudal", "cranial-to-caudal"),
    *("dorsal-to-palmar", "dorsal-to-plantar", "proximal-to-distal"),
    *("superficial-to-deep", "apical-to-basal", "apex-to-base"),
}


def placed_axes(
    level: LevelMetadata,
    shape: Sequence[int],
    orientations: Mapping[str, str],
    address: str,
) -> dict[str, tuple[str, float, bool]]:
    """Return by dim the stored axis that runs along it, its origin, and if backwards.

    Raises
    ------
    StoreError
        If two axes run along the same direction, or one has an unknown direction.
    """
    found: dict[str, tuple[str, float, bool]] = {}
    for stored in (dim for dim in level.dims if dim in LPS):
        dim, back = stored, False
        if stored in orientations:
            dim, back = _along(stored, orientations, address)
        size = shape[level.dims.index(stored)]
        origin = level.translation[stored]
        if back:
            origin = -(origin + (size - 1) * level.scale[stored])
        if dim in found:
            msg = (
                f"{address}: the axes {found[dim][0]!r} and {stored!r} both run along "
                f"{dim!r}, by their orientations {dict(orientations)}; correct them"
            )
            raise StoreError(msg)
        found[dim] = (stored, origin, back)
    return found


def _along(
    stored: str, orientations: Mapping[str, str], address: str
) -> tuple[str, bool]:
    """Return the dim that a stored axis runs along, and whether backwards."""
    value = orientations[stored]
    start, _, end = value.partition("-to-")
    opposite = f"{end}-to-{start}"
    for dim, direction in LPS.items():
        if direction in (value, opposite):
            # Of an image with few directions, the other axes must stay.
            whole = len(orientations) == len(LPS)
            return dim if whole else stored, direction == opposite
    if not {value, opposite} & _KEPT:
        msg = f"{address}: the axis {stored!r} has the unknown orientation {value!r}"
        raise StoreError(msg)
    return stored, opposite in _KEPT
