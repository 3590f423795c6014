"""A field as napari's layers: its magnitude, arrows, and its blocks in colours."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from xdreg.fields.diagnostics import STATUS_COLOURS
from xdreg.fields.field import field_grid, open_displacement
from xdreg.fields.provenance import last_deformable
from xdreg.grid import Grid, pyramid_factors
from xdreg.numerics.inversion import fit_affine
from xdreg.partition import BlockStatus
from xdreg.views.lazy_readers import MagnitudeReader, WindowArray
from xdreg.views.napari_images import AS_PLANES, placement
from xdreg.views.pictures import enlargement

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr
    from numpy.typing import NDArray

    from xdreg.fields.reader import FieldReader
    from xdreg.views.napari_images import LayerData

#: Vectors along the longest axis of a field.
VECTORS = 24

#: Vectors are read from so much of a field at most.
VECTOR_BYTES = 2**28

#: In a layer's metadata, the distance of its arrows per axis: slices of that thickness
#: show some wherever they are.
ARROW_SPACING = "arrow_spacing"


def field_layers(field: xr.Dataset, name: str = "field") -> list[LayerData]:
    """Return a field as layers: its magnitude, vectors, and the status of its blocks.

    Two layers of vectors: the displacement, and what of it is no affine transform, with
    longer arrows where those would be small; the name tells by how much. Both are read
    when this is called, from a part of the field if it is large.

    Parameters
    ----------
    field : Dataset
        A displacement field.
    name
        What the layers' names begin with.
    """
    reader = open_displacement(field)
    found = read_vectors(reader)
    longest = float(np.linalg.norm(found.displacement, axis=1).max(initial=0.0))
    layers = [_magnitude_layer(reader, name, longest)]
    if found.points.size:
        plain = {"enlarged": False, "visible": False}
        rest = {"enlarged": True, "visible": True}
        layers += [
            _vector_layer(found, reader.grid, f"{name} displacement", **plain),
            _vector_layer(
                found.deformation(), reader.grid, f"{name} deformation", **rest
            ),
        ]
    blocks = block_grid(field)
    if blocks is not None:
        layers.append(_status_layer(field, blocks, f"{name} blocks"))
    # So that whichever is saved knows its field.
    for _, options, _ in layers:
        options["metadata"] = options.get("metadata", {}) | {"field": field}
    return layers


def _magnitude_layer(reader: FieldReader, name: str, longest: float) -> LayerData:
    strides = [1] * reader.grid.ndim
    data = [WindowArray(MagnitudeReader(reader, strides))]
    for factors in pyramid_factors(reader.grid, smallest=256):
        strides = [k * f for k, f in zip(strides, factors, strict=True)]
        data.append(WindowArray(MagnitudeReader(reader, strides)))
    options = (
        placement(reader.grid)
        | AS_PLANES
        | {
            "name": f"{name} magnitude",
            "colormap": "viridis",
            "contrast_limits": (0.0, longest or 1.0),
            "multiscale": len(data) > 1,
            "visible": False,
        }
    )
    return data if len(data) > 1 else data[0], options, "image"


@dataclass(frozen=True)
class Vectors:
    """Some points of a field and where they are moved.

    Parameters
    ----------
    points : (n, ndim)
        Physical positions.
    displacement : (n, ndim)
        Physical lengths.
    stride
        Points of the field from one to the next, per axis.
    """

    points: NDArray[np.float64]
    displacement: NDArray[np.float64]
    stride: tuple[int, ...]

    def deformation(self) -> Vectors:
        """Return the same without its affine part, which may dwarf the rest."""
        matrix = fit_affine(self.points, self.points + self.displacement)
        mapped = self.points @ matrix[:-1, :-1].T + matrix[:-1, -1]
        return replace(self, displacement=self.points + self.displacement - mapped)


def read_vectors(
    reader: FieldReader, count: int = VECTORS, most: int = VECTOR_BYTES
) -> Vectors:
    """Read a field at a density at which arrows can be told apart.

    Parameters
    ----------
    reader
        The field.
    count
        Vectors along the longest axis.
    most : int, byte
        Of a larger field the middle is read, for any point costs its whole chunk.

    Warns
    -----
    UserWarning
        If the field is larger.
    """
    grid = reader.grid
    window = [slice(0, n) for n in grid.shape]
    while _bytes(window) > most:
        sizes = [part.stop - part.start for part in window]
        axis = int(np.argmax(sizes))
        middle, half = grid.shape[axis] // 2, max(sizes[axis] // 4, 1)
        window[axis] = slice(middle - half, middle + half)
    if _bytes(window) < _bytes([slice(0, n) for n in grid.shape]):
        warnings.warn(
            f"the field is large: vectors are shown in its middle only, of "
            f"{' × '.join(str(p.stop - p.start) for p in window)} points",
            stacklevel=2,
        )
    extents = [
        (part.stop - part.start) * s
        for part, s in zip(window, grid.spacing, strict=True)
    ]
    stride = tuple(max(1, round(max(extents) / count / s)) for s in grid.spacing)
    places = [
        np.arange(part.start + (part.stop - part.start - 1) % k // 2, part.stop, k)
        for part, k in zip(window, stride, strict=True)
    ]
    parts = tuple(
        slice(int(p[0]), int(p[-1]) + 1, k) for p, k in zip(places, stride, strict=True)
    )
    values = np.asarray(reader.source[(slice(None), *parts)], np.float64)
    index = np.array(list(itertools.product(*places)), np.float64)
    displacement = values.reshape(grid.ndim, -1).T
    known = np.isfinite(displacement).all(axis=1)
    points = grid.index_to_physical(index[known])
    return Vectors(points, displacement[known], stride)


def _bytes(window: Sequence[slice]) -> int:
    sizes = [part.stop - part.start for part in window]
    return int(np.prod(sizes, dtype=np.int64)) * len(window) * 4


def _vector_layer(
    vectors: Vectors, grid: Grid, name: str, *, enlarged: bool, visible: bool
) -> LayerData:
    start = grid.physical_to_index(vectors.points)
    along = vectors.displacement / np.asarray(grid.spacing)
    length = np.linalg.norm(vectors.displacement, axis=1)
    spacing = np.multiply(vectors.stride, grid.spacing)
    factor = enlargement(length, float(spacing.min())) if enlarged else 1
    options = placement(grid) | {
        "name": f"{name} × {factor}" if factor > 1 else name,
        "length": factor,
        "features": {"length": length},
        "edge_color": "length",
        "edge_colormap": "turbo",
        "edge_contrast_limits": (0.0, float(length.max()) or 1.0),
        "edge_width": 0.12 * min(vectors.stride),
        "vector_style": "arrow",
        "projection_mode": "all",
        "visible": visible,
        "metadata": {ARROW_SPACING: tuple(spacing.tolist())},
    }
    return np.stack([start, along], axis=1), options, "vectors"


def block_grid(field: xr.Dataset) -> Grid | None:
    """Return the blocks of a field's last deformable stage as a grid, if it has any.

    Each block is a voxel of it. The last one along an axis may end beyond the image.

    Examples
    --------
    >>> import xdreg
    >>> pair = xdreg.datasets.phantom_pair((48, 56), amplitude=2.0)
    >>> stage = xdreg.LocalCorrelation(level=0, iterations=2)
    >>> field = xdreg.register(
    ...     pair.fixed, pair.moving, stages=stage, block_shape=28, progress=False
    ... )
    >>> block_grid(field).spacing, block_grid(field).origin
    ((24.0, 28.0), (11.5, 13.5))
    """
    if "block_status" not in field:
        return None
    own = field_grid(field)
    geometry = _stage_geometry(field) or _chunk_geometry(field)
    if geometry is None:
        return None
    points, steps = geometry
    spacing = tuple(s * n for s, n in zip(own.spacing, points, strict=True))
    # The first voxel of a block is its first field point.
    origin = tuple(
        o + 0.5 * s * (n - 1 / k)
        for o, s, n, k in zip(own.origin, own.spacing, points, steps, strict=True)
    )
    counts = field["block_status"].shape
    return Grid(own.dims, counts, spacing, origin, own.units)


def _stage_geometry(
    field: xr.Dataset,
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Return field points per block, and voxels per field point, as the run tells."""
    stage = last_deformable(field)
    partition = None if stage is None else stage.partition
    if partition is None:
        return None
    sizes = zip(partition.block_shape, partition.field_step, strict=True)
    return tuple(block // step for block, step in sizes), partition.field_step


def _chunk_geometry(
    field: xr.Dataset,
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Return points per chunk, where every chunk is a block, as in an inverse."""
    chunks = field["displacement"].chunksizes
    sizes = [chunks.get(dim, ()) for dim in field_grid(field).dims]
    if tuple(len(parts) for parts in sizes) != field["block_status"].shape:
        return None
    return tuple(parts[0] for parts in sizes), (1,) * len(sizes)


def _status_layer(field: xr.Dataset, blocks: Grid, name: str) -> LayerData:
    status = np.asarray(field["block_status"].values, np.int64)
    second = np.indices(status.shape).sum(axis=0) % 2
    # Labels begin at 1, for 0 is no label; those of a status are neighbours.
    labels = (2 * np.maximum(status, 0) + second + 1).astype(np.uint8)
    known = [s for s in BlockStatus if s.name.lower() in STATUS_COLOURS]
    # A lighter one for every second block.
    colours: dict[int | None, Any] = {None: (0, 0, 0, 0), 0: (0, 0, 0, 0)}
    names = ["no block"]
    for s, offset in itertools.product(known, (0, 1)):
        colour = STATUS_COLOURS[s.name.lower()]
        colours[2 * int(s) + offset + 1] = _shade(colour, 0.35 * offset)
        names.append(s.meaning)
    options = (
        placement(blocks)
        | AS_PLANES
        | {
            "name": name,
            "colormap": colours,
            "features": {"index": list(range(len(names))), "status": names},
            "opacity": 0.3,
            "blending": "translucent_no_depth",
            "visible": False,
        }
    )
    return labels, options, "labels"


def _shade(colour: str, share: float) -> tuple[float, float, float, float]:
    """Return a colour, mixed with a share of white."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (v + share * (1 - v) for v in channels)
    return r, g, b, 1.0
