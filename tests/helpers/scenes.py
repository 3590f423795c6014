"""Fields and scenes of OME-Zarr 0.6 as ngff-zarr writes them."""

import json

import dask.array
import ngff_zarr as nz
import numpy as np

from xdreg.grid import Grid

VECTORS = np.random.default_rng(1).normal(size=(2, 4, 5)).astype(np.float32)
GRID = Grid(("y", "x"), (4, 5), (2.0, 0.5), (10.0, -3.0), "micrometer")
PLACES = np.stack(np.meshgrid(*(GRID.axis(d) for d in GRID.dims), indexing="ij"))
SYSTEMS = ("template", "subject")


def ngff_field(kind="displacement", values=VECTORS):
    """Return vectors on `GRID` as a multiscale."""
    image = nz.NgffImage(
        dask.array.from_array(values),
        ("c", "y", "x"),
        {"c": 1.0, "y": 2.0, "x": 0.5},
        {"c": 0.0, "y": 10.0, "x": -3.0},
        "field",
        {"y": "micrometer", "x": "micrometer"},
        axes_types={"c": kind},
    )
    return nz.to_multiscales(image, scale_factors=[], cache=False)


def write_scene(path, *transforms):
    """Write a scene with its field at ``fields/a``, and transforms named a and b."""
    axes = [
        nz.v06.zarr_metadata.Axis(name=d, type="space", unit="micrometer") for d in "yx"
    ]
    nz.to_ome_zarr(str(path / "fields/a"), ngff_field(), version="0.6")
    for name, one in zip("ab", transforms, strict=False):
        one.name = name
        one.input, one.output = (nz.CoordinateSystemIdentifier(name=n) for n in SYSTEMS)
    scene = nz.NgffScene(
        images={},
        coordinateTransformations=list(transforms),
        coordinateSystems=[nz.CoordinateSystem(name=n, axes=axes) for n in SYSTEMS],
    )
    nz.to_ome_zarr(str(path), scene, version="0.6", overwrite=False)


def change_root(path, change):
    """Rewrite the ``ome`` metadata of a store: ``change`` alters it in place."""
    document = json.loads((path / "zarr.json").read_text("utf-8"))
    document.pop("consolidated_metadata", None)
    change(document["attributes"]["ome"])
    (path / "zarr.json").write_text(json.dumps(document))
