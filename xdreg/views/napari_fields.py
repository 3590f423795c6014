"""A field as layers of napari: magnitude, arrows, and blocks coloured by status."""

from __future__ import annotations

import itertools
import math
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from xdreg.fields.displacement import open_displacement
from xdreg.fields.field import field_grid
from xdreg.fields.provenance import last_deformable
from xdreg.grid import Grid, pyramid_factors
from xdreg.numerics.inversion import fit_affine
from xdreg.partition import BlockStatus
from xdreg.stores.napari_layers import placement
from xdreg.views.colours import LENGTHS, STATUS_COLOURS
from xdreg.views.lazy_readers import MagnitudeReader, WindowArray
from xdreg.views.napari_images import AS_PLANES, image_layer
from xdreg.views.pictures import enlargement

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr
    from numpy.typing import NDArray

    from xdreg.fields.reader import FieldReader
    from xdreg.views.napari_images import LayerData

#: Vectors along the longest axis of a field.
VECTORS = 24

#: Most bytes of a field that are read for vectors.
VECTOR_BYTES = 2**28

#: Key in a layer's metadata of the distance of its arrows per axis: slices of that
#: thickness always show some.
ARROW_SPACING = "arrow_spacing"


def field_layers(field: xr.Dataset) -> list[LayerData]:
    """Return a field as layers: its magnitude, vectors, and the status of its blocks.

    Two layers show vectors: the displacement, and the displacement without its affine
    part, enlarged by the factor in the layer's name. Both are read by this call, from a
    part of the field if it is large.
    """
    reader = open_displacement(field)
    found = read_vectors(reader)
    longest = float(np.linalg.norm(found.displacement, axis=1).max(initial=0.0))
    layers = [_magnitude_layer(reader, longest)]
    if found.points.size:
        grid, rest = reader.grid, found.deformation()
        layers += [
            _vector_layer(found, grid, "field displacement", visible=False),
            _vector_layer(rest, grid, "field deformation", enlarged=True),
        ]
    blocks = block_grid(field)
    if blocks is not None:
        layers.append(_status_layer(field, blocks))
    # For the writer, which saves the field of any of them.
    for _, options, _ in layers:
        options["metadata"] = options.get("metadata", {}) | {"field": field}
    return layers


def _magnitude_layer(reader: FieldReader, longest: float) -> LayerData:
    strides = [(1,) * reader.grid.ndim]
    for factors in pyramid_factors(reader.grid, smallest=256):
        strides.append(tuple(k * f for k, f in zip(strides[-1], factors, strict=True)))
    return image_layer(
        [WindowArray(MagnitudeReader(reader, steps)) for steps in strides],
        placement(reader.grid),
        name="field magnitude",
        colormap=LENGTHS,
        contrast_limits=(0.0, longest or 1.0),
        visible=False,
    )


@dataclass(frozen=True)
class Vectors:
    """Some points of a field and their displacements, ``(n, ndim)``, physical units.

    ``stride`` is in points of the field, per axis.
    """

    points: NDArray[np.float64]
    displacement: NDArray[np.float64]
    stride: tuple[int, ...]

    def deformation(self) -> Vectors:
        """Return the vectors without their affine part, which may dwarf the rest."""
        matrix = fit_affine(self.points, self.points + self.displacement)
        mapped = self.points @ matrix[:-1, :-1].T + matrix[:-1, -1]
        return replace(self, displacement=self.points + self.displacement - mapped)


def read_vectors(reader: FieldReader) -> Vectors:
    """Read a field with a stride that keeps arrows apart.

    Of a large field only the middle is read, with a warning, as each point costs its
    whole chunk.
    """
    grid = reader.grid
    window = _middle(grid.shape)
    sizes = [len(part) for part in window]
    if sizes != list(grid.shape):
        warnings.warn(
            f"the field is large: vectors are shown in its middle only, of "
            f"{' × '.join(map(str, sizes))} points",
            stacklevel=2,
        )
    longest = max(np.multiply(sizes, grid.spacing))
    stride = tuple(max(1, round(longest / VECTORS / s)) for s in grid.spacing)
    places = [
        part[(len(part) - 1) % k // 2 :: k]
        for part, k in zip(window, stride, strict=True)
    ]
    parts = (slice(p.start, p[-1] + 1, p.step) for p in places)
    values = np.asarray(reader.source[(slice(None), *parts)], np.float64)
    index = np.array(list(itertools.product(*places)), np.float64)
    displacement = values.reshape(grid.ndim, -1).T
    known = np.isfinite(displacement).all(axis=1)
    points = grid.index_to_physical(index[known])
    return Vectors(points, displacement[known], stride)


def _middle(shape: Sequence[int]) -> list[range]:
    """Return the points of a field per axis, of a large one those of its middle."""
    window = [range(n) for n in shape]
    while 4 * len(shape) * math.prod(map(len, window)) > VECTOR_BYTES:
        axis = int(np.argmax([len(part) for part in window]))
        middle, half = shape[axis] // 2, max(len(window[axis]) // 4, 1)
        window[axis] = range(middle - half, middle + half)
    return window


def _vector_layer(
    vectors: Vectors,
    grid: Grid,
    name: str,
    *,
    enlarged: bool = False,
    visible: bool = True,
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
        "edge_colormap": LENGTHS,
        "edge_contrast_limits": (0.0, float(length.max()) or 1.0),
        "edge_width": 0.12 * min(vectors.stride),
        "vector_style": "arrow",
        "projection_mode": "all",
        "visible": visible,
        "metadata": {ARROW_SPACING: tuple(spacing.tolist())},
    }
    return np.stack([start, along], axis=1), options, "vectors"


def block_grid(field: xr.Dataset) -> Grid | None:
    """Return the blocks of a field's last deformable stage as voxels of a grid.

    The last block along an axis may end beyond the image. None without blocks.
    """
    geometry = _block_geometry(field) if "block_status" in field else None
    if geometry is None:
        return None
    own, (points, steps) = field_grid(field), geometry
    spacing = tuple(s * n for s, n in zip(own.spacing, points, strict=True))
    # The first voxel of a block is its first field point.
    origin = tuple(
        o + 0.5 * s * (n - 1 / k)
        for o, s, n, k in zip(own.origin, own.spacing, points, steps, strict=True)
    )
    return Grid(own.dims, field["block_status"].shape, spacing, origin, own.units)


def _block_geometry(
    field: xr.Dataset,
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Return field points per block and voxels per field point.

    From provenance; else from chunks where they are the blocks, as in an inverse.
    """
    stage = last_deformable(field)
    if stage is not None and stage.partition is not None:
        steps = stage.partition.field_step
        blocks = zip(stage.partition.block_shape, steps, strict=True)
        return tuple(block // step for block, step in blocks), steps
    chunks = field["displacement"].chunksizes
    sizes = [chunks.get(dim, ()) for dim in field_grid(field).dims]
    if tuple(len(parts) for parts in sizes) != field["block_status"].shape:
        return None
    return tuple(parts[0] for parts in sizes), (1,) * len(sizes)


def _status_layer(field: xr.Dataset, blocks: Grid) -> LayerData:
    status = np.asarray(field["block_status"].values, np.int64)
    second = np.indices(status.shape).sum(axis=0) % 2
    # Two labels per status, from 1, as 0 is no label.
    labels = (2 * np.maximum(status, 0) + second + 1).astype(np.uint8)
    known = [s for s in BlockStatus if s.meaning in STATUS_COLOURS]
    # Every second block is lighter.
    colours: dict[int | None, Any] = {None: (0, 0, 0, 0), 0: (0, 0, 0, 0)}
    names = ["no block"]
    for s, offset in itertools.product(known, (0, 1)):
        colour = STATUS_COLOURS[s.meaning]
        colours[2 * int(s) + offset + 1] = _shade(colour, 0.35 * offset)
        names.append(s.meaning)
    options = {
        **placement(blocks),
        **AS_PLANES,
        "name": "field blocks",
        "colormap": colours,
        "features": {"index": list(range(len(names))), "status": names},
        "opacity": 0.3,
        "blending": "translucent_no_depth",
        "visible": False,
    }
    return labels, options, "labels"


def _shade(colour: str, share: float) -> tuple[float, float, float, float]:
    """Return a colour, mixed with a share of white."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (v + share * (1 - v) for v in channels)
    return r, g, b, 1.0
