"""Anatomical directions of axes, which are brought to one convention (RFC-4).

That is ITK's and DICOM's, LPS: x runs to the left, y to posterior, z to superior.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from xdreg.errors import InputError, StoreError
from xdreg.grid import SPATIAL_DIMS, Grid, rows_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import zarr

    from xdreg.stores.ome_metadata import ImageMetadata, LevelMetadata

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


class Layout(NamedTuple):
    """How a level is laid out as an image: its stored axes, and where voxels lie.

    ``order`` has the stored axis of each dim; ``backwards``, whether it is reversed.
    """

    dims: tuple[str, ...]
    order: list[int]
    backwards: list[bool]
    grid: Grid


def level_layout(
    source: zarr.Array[Any], level: LevelMetadata, image: ImageMetadata, address: str
) -> Layout:
    """Return how a level is laid out, with its axes in the order of dims.

    Raises
    ------
    StoreError
        If its geometry cannot be used.
    """
    placed = placed_axes(level, source.shape, image.orientations, address)
    spatial = tuple(dim for dim in SPATIAL_DIMS if dim in placed)
    dims = (*(dim for dim in ("t", "c") if dim in level.dims), *spatial)
    stored = [placed[dim][0] if dim in placed else dim for dim in dims]
    order = [level.dims.index(dim) for dim in stored]
    backwards = [dim in placed and placed[dim][2] for dim in dims]
    shape = tuple(source.shape[level.dims.index(placed[dim][0])] for dim in spatial)
    spacing = tuple(level.scale[placed[dim][0]] for dim in spatial)
    origin = tuple(placed[dim][1] for dim in spatial)
    try:
        turn = rows_of(image.direction)
        grid = Grid(spatial, shape, spacing, origin, image.units, turn)
    except (InputError, TypeError, ValueError) as error:
        msg = f"{address}: the level {source.path!r} has no usable geometry: {error}"
        raise StoreError(msg) from error
    return Layout(dims, order, backwards, grid)


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
