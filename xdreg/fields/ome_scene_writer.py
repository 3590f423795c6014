"""Metadata of displacement fields as an OME-Zarr 0.6 scene (RFC-5)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import zarr
from numpy.typing import NDArray

from xdreg.grid import Grid
from xdreg.stores.ome_writer import compression, ome_units


@dataclass(frozen=True)
class FieldPart:
    """A field's layout, and the matrix applied to the displaced points, if any.

    ``chunks`` starts with that of the components.
    """

    name: str
    grid: Grid
    chunks: tuple[int, ...]
    matrix: NDArray[np.float64] | None = None

    @property
    def location(self) -> str:
        """The field's group below the store."""
        return f"coordinateTransformations/{self.name}"


def write_field_metadata(
    path: Path, forward: FieldPart, inverse: FieldPart | None = None
) -> list[str]:
    """Write the metadata of a scene that holds displacement fields and no images.

    One transformation relates the coordinate systems ``fixed`` and ``moving``:
    ``displacements``; a ``sequence`` of them and an ``affine``; or, with an inverse, a
    ``bijection`` of two of these. A field is a multiscale image with a
    ``displacement`` axis, at ``coordinateTransformations/NAME``. The paths of the empty
    arrays ``(ndim, *grid.shape)`` of ``forward`` and ``inverse`` are returned.
    """
    import ngff_zarr as nz

    parts = [forward] if inverse is None else [forward, inverse]
    arrays = [_lay_out_field(path, part) for part in parts]
    grid = forward.grid
    units = ome_units(grid.units)
    axes = [
        nz.v06.zarr_metadata.Axis(name=d, type="space", unit=units) for d in grid.dims
    ]
    transform = _transformation(forward)
    if inverse is not None:
        transform = nz.v06.zarr_metadata.Bijection(
            forward=transform, inverse=_transformation(inverse)
        )
    transform.name = "fixed to moving"
    transform.input = nz.CoordinateSystemIdentifier(name="fixed")
    transform.output = nz.CoordinateSystemIdentifier(name="moving")
    scene = nz.NgffScene(
        images={},
        coordinateTransformations=[transform],
        coordinateSystems=[
            nz.CoordinateSystem(name="fixed", axes=axes),
            nz.CoordinateSystem(name="moving", axes=axes),
        ],
    )
    nz.to_ome_zarr(
        str(path), scene, version="0.6", overwrite=False, consolidate_metadata=False
    )
    return arrays


def _transformation(part: FieldPart) -> Any:
    """Return the transformation of one direction, as ngff-zarr's object."""
    import ngff_zarr as nz

    displacements = nz.Displacements(path=part.location, interpolation="linear")
    if part.matrix is None:
        return displacements
    affine = nz.v06.zarr_metadata.Affine(affine=part.matrix[:-1].tolist())
    return nz.v06.zarr_metadata.TransformSequence(
        transformations=[displacements, affine], name=None
    )


def _lay_out_field(path: Path, part: FieldPart) -> str:
    """Write the metadata of a field's multiscale, and return the path of its array."""
    import ngff_zarr as nz

    grid = part.grid
    units = ome_units(grid.units)
    dims = ("c", *grid.dims)
    image = nz.NgffImage(
        dask.array.zeros(
            (grid.ndim, *grid.shape), dtype=np.float32, chunks=part.chunks
        ),
        dims,
        dict(zip(dims, (1.0, *grid.spacing), strict=True)),
        dict(zip(dims, (0.0, *grid.origin), strict=True)),
        part.name,
        dict.fromkeys(grid.dims, units) if units else None,
        axes_types={"c": nz.AxisType.Displacement},
    )
    multiscales = nz.to_multiscales(
        image, scale_factors=[], chunks=dict(zip(dims, part.chunks, strict=True))
    )
    # They describe how levels were made; there is only one.
    multiscales.metadata.type = multiscales.metadata.metadata = None
    multiscales.method = None
    nz.to_ome_zarr(
        str(path / part.location),
        multiscales,
        version="0.6",
        metadata_only=True,
        consolidate_metadata=False,
        **compression("0.6"),
    )
    group = zarr.open_group((path / part.location).absolute(), mode="r+")
    metadata: Any = group.attrs["ome"]
    place = f"{part.location}/{metadata['multiscales'][0]['datasets'][0]['path']}"
    # A chunk that is lost later is then not read as a displacement of zero.
    document = path / place / "zarr.json"
    content = json.loads(document.read_text("utf-8")) | {"fill_value": "NaN"}
    document.write_text(json.dumps(content, indent=2), "utf-8")
    return place
