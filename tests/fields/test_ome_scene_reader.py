"""Scenes, sequences and bijections: written, read, and those of others."""

import json

import dask.array
import ngff_zarr as nz
import numpy as np
import pytest
import zarr

import xdreg
from tests.helpers.fields import Known, moving_like
from xdreg.fields.composition import compose
from xdreg.fields.field import field_grid, make_field
from xdreg.grid import Grid

v06 = nz.v06.zarr_metadata


def pair(ndim):
    """Return a field that turns and bends, and its inverse."""
    known = Known(ndim, 8.0)
    return known.field, known.field.dreg.inverse(moving_like(known), step=3).load()


def difference(one, other):
    assert field_grid(one) == field_grid(other)
    return np.abs(one.displacement.values - other.displacement.values).max()


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_bijection_of_sequences_is_valid_and_read_both_ways(tmp_path, ndim):
    field, inverse = pair(ndim)
    path = tmp_path / "field.ome.zarr"
    field.dreg.to_ome_zarr(path, inverse=inverse, affine=True)
    scene = nz.from_ome_zarr(str(path), kind="scene", validate=True)
    (transform,) = scene.coordinateTransformations
    assert (transform.type, transform.input.name) == ("bijection", "fixed")
    for side in (transform.forward, transform.inverse):
        assert [step.type for step in side.transformations] == [
            "displacements",
            "affine",
        ]
        stored = nz.from_ome_zarr(str(path / side.transformations[0].path))
        assert stored.images[0].axes_types["c"] == "displacement"
        assert stored.images[0].axes_units["x"] == "micrometer"
        # Nothing was smoothed: a lone level tells of no method.
        assert stored.metadata.type is None
    # Beyond what bends, nothing is left to the displacements.
    rest = zarr.open_group(path)["coordinateTransformations/displacement"]
    assert np.abs(rest["scale0/displacement"][...]).max() < 2 * 1.5 + 1
    assert difference(xdreg.open_field(path), field) < 1e-5
    back = xdreg.open_field(path, inverse=True)
    assert difference(back, inverse) < 1e-5
    np.testing.assert_array_equal(back.block_status, inverse.block_status)


def test_without_an_inverse_there_is_none(tmp_path):
    field, _ = pair(2)
    field.dreg.to_ome_zarr(tmp_path / "field.ome.zarr")
    with pytest.raises(xdreg.StoreError, match=r"invert it: xdreg\.inverse"):
        xdreg.open_field(tmp_path / "field.ome.zarr", inverse=True)
    other = make_field(np.zeros((2, 3, 3), np.float32), grid(units="nanometer"))
    with pytest.raises(xdreg.InputError, match="the inverse is in"):
        field.dreg.to_ome_zarr(tmp_path / "b.ome.zarr", inverse=other)
    assert not (tmp_path / "b.ome.zarr").exists()


@pytest.mark.parametrize("affine", [False, True])
def test_ngff_zarr_applies_what_was_written(tmp_path, affine):
    field, _ = pair(3)
    path = tmp_path / "field.ome.zarr"
    field.dreg.to_ome_zarr(path, affine=affine)
    scene = nz.from_ome_zarr(str(path), kind="scene", validate=True)
    (transform,) = scene.coordinateTransformations
    own = field_grid(field)
    image = nz.to_ngff_image(
        np.random.default_rng(0).random(own.shape).astype(np.float32),
        dims=own.dims,
        scale=dict(zip(own.dims, own.spacing, strict=True)),
        translation=dict(zip(own.dims, own.origin, strict=True)),
    )
    steps = transform.transformations if affine else [transform]
    stored = {
        step.path: nz.from_ome_zarr(str(path / step.path)).images[0]
        for step in steps
        if step.type == "displacements"
    }
    assert len(stored) == 1
    if affine:
        # It refuses displacements in a sequence, and takes each step by itself. Of a
        # list, ITK applies the last one first.
        transform = [
            entry
            for step in reversed(steps)
            for entry in nz.ngff_transform_to_itk_transform(
                step, own.dims, fields=stored
            )
        ]
    theirs = nz.resample(transform, image, image, fields=stored)
    moving = make_image(image, own)
    ours = field.dreg.warp(moving, like=moving)
    inside = (slice(3, -3),) * 3
    np.testing.assert_allclose(
        np.asarray(theirs.data)[inside], ours.values[inside], atol=1e-3
    )


def make_image(image, own):
    import xarray as xr

    from xdreg.coordinates import coordinates

    return xr.DataArray(np.asarray(image.data), dims=own.dims, coords=coordinates(own))


def grid(shape=(3, 3), units="micrometer"):
    return Grid(("y", "x"), shape, (2.0, 0.5), (10.0, -3.0), units)


VECTORS = np.random.default_rng(1).normal(size=(2, 4, 5)).astype(np.float32)
AFFINE = np.array([[0.9, 0.1, 3.0], [-0.2, 1.1, -4.0], [0.0, 0.0, 1.0]])


def ngff_field(kind="displacement"):
    values, own = VECTORS, grid((4, 5))
    if kind == "coordinate":
        places = np.meshgrid(*(own.axis(d) for d in own.dims), indexing="ij")
        values = values + np.stack(places)
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


def scene_of(path, transform, name="a", more=()):
    """Write a scene by ngff-zarr, its field at ``fields/a``."""
    axes = [v06.Axis(name=d, type="space", unit="micrometer") for d in "yx"]
    nz.to_ome_zarr(str(path / "fields/a"), ngff_field(), version="0.6")
    for one in (transform, *more):
        one.name = name if one is transform else "b"
        one.input = nz.CoordinateSystemIdentifier(name="template")
        one.output = nz.CoordinateSystemIdentifier(name="subject")
    scene = nz.NgffScene(
        images={},
        coordinateTransformations=[transform, *more],
        coordinateSystems=[
            nz.CoordinateSystem(name=n, axes=axes) for n in ("template", "subject")
        ],
    )
    nz.to_ome_zarr(str(path), scene, version="0.6", overwrite=False)


def moved_by(values, *matrices, points=None):
    """Return where a field's own points go, then through matrices."""
    own = grid((4, 5))
    places = np.stack(np.meshgrid(*(own.axis(d) for d in own.dims), indexing="ij"))
    moved = places + values
    for matrix in matrices:
        moved = (
            np.einsum("ij,j...->i...", matrix[:2, :2], moved)
            + matrix[:2, 2, None, None]
        )
    return moved - places


def test_a_sequence_by_ngff_zarr_with_every_kind_of_affine(tmp_path):
    turn = [[0.0, -1.0], [1.0, 0.0]]
    scene_of(
        tmp_path / "s.zarr",
        v06.TransformSequence(
            transformations=[
                v06.Displacements(path="fields/a"),
                v06.Affine(affine=AFFINE[:2].tolist()),
                v06.Scale(scale=[2.0, 3.0]),
                v06.Translation(translation=[1.0, -1.0]),
                v06.Rotation(rotation=turn),
                v06.MapAxis(mapAxis=[1, 0]),
                v06.Identity(),
            ]
        ),
    )
    field = xdreg.open_field(tmp_path / "s.zarr")
    rotation, swap, scale, shift = np.eye(3), np.eye(3), np.eye(3), np.eye(3)
    rotation[:2, :2], swap[:2, :2] = turn, [[0, 1], [1, 0]]
    scale[:2, :2], shift[:2, 2] = np.diag([2.0, 3.0]), [1.0, -1.0]
    expected = moved_by(VECTORS, AFFINE, scale, shift, rotation, swap)
    np.testing.assert_allclose(field.displacement, expected, atol=1e-4)
    assert field.displacement.attrs["units"] == "micrometer"


def test_an_affine_first_asks_for_a_grid(tmp_path):
    scene_of(
        tmp_path / "s.zarr",
        v06.TransformSequence(
            transformations=[
                v06.Affine(affine=AFFINE[:2].tolist()),
                v06.Displacements(path="fields/a"),
            ]
        ),
    )
    with pytest.raises(xdreg.InputError, match=r": like=\.\.\."):
        xdreg.open_field(tmp_path / "s.zarr")
    field = xdreg.open_field(tmp_path / "s.zarr", like=grid((4, 5)))
    inner = make_field(VECTORS, grid((4, 5)))
    expected = compose(AFFINE, inner, like=grid((4, 5)))
    assert difference(field, expected) < 1e-5


def test_several_are_told_apart_by_name(tmp_path):
    scene_of(
        tmp_path / "s.zarr",
        v06.Displacements(path="fields/a"),
        more=[
            v06.TransformSequence(
                transformations=[
                    v06.Displacements(path="fields/a"),
                    v06.Translation(translation=[5.0, 0.0]),
                ]
            )
        ],
    )
    with pytest.raises(xdreg.StoreError, match=r"named \['a', 'b'\]"):
        xdreg.open_field(tmp_path / "s.zarr")
    one, other = (xdreg.open_field(tmp_path / "s.zarr", name=n) for n in "ab")
    np.testing.assert_allclose(
        (other.displacement - one.displacement).mean(("y", "x")), [5.0, 0.0], atol=1e-5
    )


def test_a_transformation_on_its_own_and_a_declared_field(tmp_path):
    alone = tmp_path / "t.zarr"
    nz.to_ome_zarr(str(alone / "fields/a"), ngff_field(), version="0.6")
    step = v06.Displacements(path="fields/a")
    nz.to_ome_zarr(str(alone), step, version="0.6", overwrite=False)
    declared = tmp_path / "d.zarr"
    nz.to_ome_zarr(
        str(declared), nz.declare_field_transform(ngff_field()), version="0.6"
    )
    undeclared = tmp_path / "u.zarr"
    nz.to_ome_zarr(str(undeclared), ngff_field(), version="0.6")
    for path in (alone, declared, undeclared):
        field = xdreg.open_field(path)
        assert field_grid(field) == grid((4, 5))
        np.testing.assert_array_equal(field.displacement, VECTORS)


def test_a_field_of_coordinates(tmp_path):
    path = tmp_path / "c.zarr"
    nz.to_ome_zarr(
        str(path),
        nz.declare_field_transform(
            ngff_field("coordinate"), transform_type="coordinates"
        ),
        version="0.6",
    )
    field = xdreg.open_field(path)
    np.testing.assert_allclose(field.displacement, VECTORS, atol=1e-6)


def draft(path, transformations, systems, place="root", factor=1.0):
    """Write a store as the drafts of RFC-5 have it: a field that is an array."""
    root = zarr.create_group(path)
    array = root.create_array(
        "coordinateTransformations/dfield",
        shape=(4, 5, 2),
        dtype=">f8",
        chunks=(2, 5, 2),
    )
    array[...] = np.moveaxis(VECTORS, 0, -1) * factor
    space = [{"type": "space", "name": d, "unit": "micrometer"} for d in "yx"]
    array.attrs["ome"] = {
        "coordinateSystems": [
            {
                "name": "JRC",
                "axes": [
                    *space,
                    {"type": "displacement", "name": "d", "discrete": True},
                ],
            }
        ],
        "coordinateTransformations": [
            {
                "type": "sequence",
                "input": "dfield",
                "output": "JRC",
                "transformations": [
                    {"type": "scale", "scale": [2.0, 0.5, 1.0]},
                    {"type": "translation", "translation": [10.0, -3.0, 0.0]},
                ],
            }
        ],
    }
    document = {
        "coordinateTransformations": transformations,
        "coordinateSystems": [{"name": n, "axes": space} for n in systems],
    }
    if place == "multiscales":
        root.create_array("0", shape=(4, 5), dtype="u1")
        document |= {
            "datasets": [
                {
                    "path": "0",
                    "coordinateTransformations": [
                        {"type": "scale", "input": "0", "output": systems[0],
                         "scale": [1, 1]}
                    ],
                }
            ]
        }  # fmt: skip
        document = {"multiscales": [document]}
    root.attrs["ome"] = {"version": "0.6.dev1", **document}


def test_the_registration_of_the_drafts(tmp_path):
    """Laid out as ``image_registration_3d`` of the public examples, in 2-D."""
    inverse = np.linalg.inv(AFFINE)
    fields = {"type": "displacements", "path": "coordinateTransformations/dfield"}
    draft(
        tmp_path / "r.zarr",
        [
            {
                "type": "bijection",
                "input": "JRC",
                "output": "FCWB",
                "forward": {
                    "type": "sequence",
                    "name": "JRC to FCWB",
                    "transformations": [
                        fields,
                        {"type": "affine", "affine": AFFINE[:2].tolist()},
                    ],
                },
                "inverse": {
                    "type": "sequence",
                    "transformations": [
                        {"type": "affine", "affine": inverse[:2].tolist()},
                        fields | {"input": "FCWB", "name": ""},
                    ],
                },
            }
        ],
        ("JRC", "FCWB"),
    )
    field = xdreg.open_field(tmp_path / "r.zarr")
    assert field_grid(field) == grid((4, 5))
    expected = moved_by(VECTORS, AFFINE)
    np.testing.assert_allclose(field.displacement, expected, atol=1e-5)
    back = xdreg.open_field(tmp_path / "r.zarr", inverse=True, like=grid((4, 5)))
    inner = make_field(VECTORS, grid((4, 5)))
    assert difference(back, compose(inverse, inner, like=grid((4, 5)))) < 1e-5


def test_inverse_displacements_of_the_drafts(tmp_path):
    """Laid out as ``2d/nonlinear/invDisplacements`` of the public examples."""
    draft(
        tmp_path / "i.zarr",
        [
            {
                "type": "inverseOf",
                "input": "displaced",
                "output": "physical",
                "transform": {
                    "type": "displacements",
                    "path": "coordinateTransformations/dfield",
                    "interpolation": "linear",
                },
            }
        ],
        ("physical", "displaced"),
        place="multiscales",
    )
    with pytest.raises(xdreg.StoreError, match="Open the opposite direction"):
        xdreg.open_field(tmp_path / "i.zarr")
    field = xdreg.open_field(tmp_path / "i.zarr", inverse=True)
    np.testing.assert_allclose(field.displacement, VECTORS, atol=1e-6)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"type": "byDimension", "transformations": []}, "affine"),
        ({"type": "sequence", "transformations": 5}, "cannot be used"),
        ({"type": "affine", "affine": [[1.0]]}, "its parameters are"),
        ({"type": "scale", "scale": [0.0, 1.0]}, "invertible"),
        ({"type": "affine", "path": "../elsewhere"}, "leaves the store"),
        ({"type": "scale", "scale": [1.0, 1.0, 1.0]}, "one and the same"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path, step, message):
    fields = {"type": "displacements", "path": "coordinateTransformations/dfield"}
    whole = {"type": "sequence", "transformations": [fields, step]}
    draft(tmp_path / "a.zarr", [whole], ("JRC",))
    with pytest.raises(xdreg.StoreError, match=message):
        xdreg.open_field(tmp_path / "a.zarr")


def test_units_and_axes_of_the_ends_are_looked_at(tmp_path):
    path = tmp_path / "a.zarr"
    step = {
        "type": "displacements",
        "path": "coordinateTransformations/dfield",
        "input": "JRC",
        "output": "FCWB",
    }
    draft(path, [step], ("JRC", "FCWB"))
    document = json.loads((path / "zarr.json").read_text())
    axes = document["attributes"]["ome"]["coordinateSystems"][1]["axes"]
    for axis in axes:
        axis["unit"] = "nanometer"
    (path / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(xdreg.StoreError, match="different units"):
        xdreg.open_field(path)
    axes[0]["name"], axes[1]["name"] = "x", "y"
    (path / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(xdreg.StoreError, match="in this order"):
        xdreg.open_field(path)


def test_fields_of_konfai(tmp_path):
    """It declares displacements of a physical system onto itself, or nothing."""
    path = tmp_path / "DVF.ome.zarr"
    nz.to_ome_zarr(str(path), nz.declare_field_transform(ngff_field()), version="0.6")
    group = zarr.open_group(path)
    group.attrs["konfai"] = {"attributes": {"Origin": "[-3. 10.]"}}
    np.testing.assert_array_equal(xdreg.open_field(path).displacement, VECTORS)
    bare = tmp_path / "turned.ome.zarr"
    nz.to_ome_zarr(str(bare), ngff_field(), version="0.6")
    zarr.open_group(bare).attrs["konfai"] = {"attributes": {}}
    with pytest.raises(xdreg.StoreError, match="KonfAI"):
        xdreg.open_field(bare)
