"""Multiscales of vectors: axes, components, displacements and coordinates."""

import json

import ngff_zarr as nz
import numpy as np
import pytest
import zarr

import xdreg
from tests.helpers.scenes import GRID, PLACES, VECTORS, change_root, ngff_field
from xdreg.fields.displacement import stored_displacement
from xdreg.fields.field import field_grid
from xdreg.fields.ome_vectors import vectors


def stored(path, multiscales):
    nz.to_ome_zarr(str(path), multiscales, version="0.6")
    return zarr.open_group(path, mode="r")


def test_a_field_of_coordinates(tmp_path):
    values = VECTORS + PLACES
    multiscales = nz.declare_field_transform(
        ngff_field("coordinate", values), transform_type="coordinates"
    )
    stored(tmp_path / "c.zarr", multiscales)
    field = xdreg.open_field(tmp_path / "c.zarr")
    np.testing.assert_allclose(field.displacement, VECTORS, atol=1e-6)


def test_components_come_first_whatever_their_axis_and_dtype(tmp_path):
    axes = [{"name": d, "type": "space", "unit": "micrometer"} for d in "yx"]
    axes.append({"name": "d", "type": "displacement"})
    steps = [
        {"type": "scale", "scale": [2.0, 0.5, 1.0]},
        {"type": "translation", "translation": [10.0, -3.0, 0.0]},
    ]
    multiscale = {
        "coordinateSystems": [{"name": "physical", "axes": axes}],
        "datasets": [
            {
                "path": "0",
                "coordinateTransformations": [
                    {
                        "type": "sequence",
                        "input": {"path": "0"},
                        "output": {"name": "physical"},
                        "transformations": steps,
                    }
                ],
            }
        ],
    }
    attributes = {"ome": {"version": "0.6", "multiscales": [multiscale]}}
    group = zarr.create_group(tmp_path / "f.zarr", attributes=attributes)
    group.create_array("0", data=np.moveaxis(VECTORS, 0, -1).astype(">f8"))
    field = xdreg.open_field(tmp_path / "f.zarr")
    assert field_grid(field) == GRID
    np.testing.assert_array_equal(field.displacement, VECTORS)


def test_the_array_itself_where_it_is_the_displacement(tmp_path):
    step = vectors("f", stored(tmp_path / "f.zarr", ngff_field()), "displacement", None)
    assert stored_displacement(step) is step.array
    assert step.grid == GRID


def test_other_axes_are_refused(tmp_path):
    stored(tmp_path / "f.zarr", ngff_field())

    def change(ome):
        (system,) = ome["multiscales"][0]["coordinateSystems"]
        system["axes"][1]["name"], system["axes"][2]["name"] = "x", "y"

    change_root(tmp_path / "f.zarr", change)
    with pytest.raises(xdreg.StoreError, match="in this order"):
        xdreg.open_field(tmp_path / "f.zarr")


def test_other_components_are_refused(tmp_path):
    values = np.zeros((3, 4, 5), np.float32)
    group = stored(tmp_path / "f.zarr", ngff_field(values=values))
    with pytest.raises(xdreg.StoreError, match="a component for each"):
        vectors("f", group, "displacement", None)
    with pytest.raises(xdreg.StoreError, match="one axis of type 'coordinate'"):
        vectors("f", group, "coordinate", None)


@pytest.mark.parametrize(
    ("shape", "chunks"),
    [
        ((2, 400, 400), (1, 1, 1)),
        ((2, 1, 10**7), (2, 1, 100)),
        ((2, 9**9, 7), (2, 400, 1)),
    ],
)
def test_many_small_chunks_are_refused(shape, chunks, tmp_path):
    stored(tmp_path / "f.zarr", ngff_field())
    contents = {
        p: json.loads(p.read_text("utf-8")) for p in tmp_path.rglob("zarr.json")
    }
    ((document, content),) = (
        both for both in contents.items() if both[1]["node_type"] == "array"
    )
    content["shape"] = shape
    content["chunk_grid"]["configuration"]["chunk_shape"] = chunks
    document.write_text(json.dumps(content))
    with pytest.raises(xdreg.StoreError, match="chunks of"):
        xdreg.open_field(tmp_path / "f.zarr")
