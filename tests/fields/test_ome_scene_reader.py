"""Transformations that other tools declare, and the drafts of RFC-5."""

import ngff_zarr as nz
import numpy as np
import pytest
import zarr

import xdreg
from tests.helpers.scenes import (
    GRID,
    PLACES,
    VECTORS,
    change_root,
    ngff_field,
    write_scene,
)
from xdreg.fields.composition import compose
from xdreg.fields.displacement import make_field
from xdreg.fields.field import field_grid

v06 = nz.v06.zarr_metadata

AFFINE = np.array([[0.9, 0.1, 3.0], [-0.2, 1.1, -4.0], [0.0, 0.0, 1.0]])
FIELD = {"type": "displacements", "path": "fields/a"}


def affine_step(matrix=AFFINE):
    return v06.Affine(affine=matrix[:2].tolist())


def sequence(*steps):
    return v06.TransformSequence(transformations=list(steps))


def displacements():
    return v06.Displacements(path="fields/a")


def moved_by(*matrices):
    """Return where the field's own points go through it, then through matrices."""
    moved = PLACES + VECTORS
    for matrix in matrices:
        moved = (
            np.einsum("ij,j...->i...", matrix[:2, :2], moved)
            + matrix[:2, 2, None, None]
        )
    return moved - PLACES


def changed_scene(path, change):
    """Write a scene of one displacement field, and change the scene's metadata."""
    write_scene(path, displacements())
    change_root(path, lambda ome: change(ome["scene"]))
    return path


def with_transformation(path, entry):
    """Write a scene with any metadata in place of its transformation."""
    return changed_scene(
        path, lambda scene: scene.update(coordinateTransformations=[entry])
    )


def test_a_sequence_by_ngff_zarr_with_every_kind_of_affine(tmp_path):
    turn = [[0.0, -1.0], [1.0, 0.0]]
    steps = [
        displacements(),
        affine_step(),
        v06.Scale(scale=[2.0, 3.0]),
        v06.Translation(translation=[1.0, -1.0]),
        v06.Rotation(rotation=turn),
        v06.MapAxis(mapAxis=[1, 0]),
        v06.Identity(),
    ]
    write_scene(tmp_path / "s.zarr", sequence(*steps))
    field = xdreg.open_field(tmp_path / "s.zarr")
    rotation, swap, scale, shift = np.eye(3), np.eye(3), np.eye(3), np.eye(3)
    rotation[:2, :2], swap[:2, :2] = turn, [[0, 1], [1, 0]]
    scale[:2, :2], shift[:2, 2] = np.diag([2.0, 3.0]), [1.0, -1.0]
    expected = moved_by(AFFINE, scale, shift, rotation, swap)
    np.testing.assert_allclose(field.displacement, expected, atol=1e-4)
    assert field.displacement.attrs["units"] == "micrometer"


def test_an_affine_first_asks_for_a_grid(tmp_path):
    write_scene(tmp_path / "s.zarr", sequence(affine_step(), displacements()))
    with pytest.raises(xdreg.InputError, match=r": like=\.\.\."):
        xdreg.open_field(tmp_path / "s.zarr")
    field = xdreg.open_field(tmp_path / "s.zarr", like=GRID)
    expected = compose(AFFINE, make_field(VECTORS, GRID), like=GRID)
    np.testing.assert_allclose(field.displacement, expected.displacement, atol=1e-5)


def test_a_bijection_of_sequences_both_ways(tmp_path):
    back = np.linalg.inv(AFFINE)
    bijection = v06.Bijection(
        forward=sequence(displacements(), affine_step()),
        inverse=sequence(affine_step(back), displacements()),
    )
    write_scene(tmp_path / "r.zarr", bijection)
    field = xdreg.open_field(tmp_path / "r.zarr")
    assert field_grid(field) == GRID
    np.testing.assert_allclose(field.displacement, moved_by(AFFINE), atol=1e-5)
    field = xdreg.open_field(tmp_path / "r.zarr", inverse=True, like=GRID)
    expected = compose(back, make_field(VECTORS, GRID), like=GRID)
    np.testing.assert_allclose(field.displacement, expected.displacement, atol=1e-5)


def test_several_are_chosen_by_name(tmp_path):
    write_scene(
        tmp_path / "s.zarr",
        displacements(),
        sequence(displacements(), v06.Translation(translation=[5.0, 0.0])),
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
    nz.to_ome_zarr(str(alone), displacements(), version="0.6", overwrite=False)
    declared = tmp_path / "d.zarr"
    nz.to_ome_zarr(
        str(declared), nz.declare_field_transform(ngff_field()), version="0.6"
    )
    undeclared = tmp_path / "u.zarr"
    nz.to_ome_zarr(str(undeclared), ngff_field(), version="0.6")
    for path in (alone, declared, undeclared):
        field = xdreg.open_field(path)
        assert field_grid(field) == GRID
        np.testing.assert_array_equal(field.displacement, VECTORS)


def test_ends_that_are_images_are_not_opened(tmp_path):
    def change(scene):
        (entry,) = scene["coordinateTransformations"]
        entry["input"] = {"path": "images/template", "name": "physical"}
        entry["output"] = {"path": "images/subject", "name": "physical"}

    field = xdreg.open_field(changed_scene(tmp_path / "s.zarr", change))
    np.testing.assert_array_equal(field.displacement, VECTORS)


def test_axes_may_have_long_names(tmp_path):
    def change(scene):
        for system in scene["coordinateSystems"]:
            system["axes"][0]["longName"] = "rows"

    field = xdreg.open_field(changed_scene(tmp_path / "s.zarr", change))
    np.testing.assert_array_equal(field.displacement, VECTORS)


def test_matrices_in_arrays(tmp_path):
    path = with_transformation(
        tmp_path / "s.zarr",
        {
            "type": "sequence",
            "transformations": [FIELD, {"type": "affine", "path": "matrices/affine"}],
        },
    )
    zarr.open_group(path).create_array("matrices/affine", data=AFFINE[:2])
    field = xdreg.open_field(path)
    np.testing.assert_allclose(field.displacement, moved_by(AFFINE), atol=1e-5)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"type": "byDimension", "transformations": []}, "affine"),
        ({"type": "sequence", "transformations": 5}, "cannot be used"),
        ({"type": "affine", "affine": [[1.0]]}, "its parameters are"),
        ({"type": "scale", "scale": [0.0, 1.0]}, "invertible"),
        ({"type": "affine", "path": "../elsewhere"}, "leaves the store"),
        ({"type": "affine", "path": "fields/a"}, "no array of parameters"),
        ({"type": "scale", "scale": [1.0, 1.0, 1.0]}, "one and the same"),
        ({**FIELD, "interpolation": "cubic"}, "interpolated linearly"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path, step, message):
    whole = {"type": "sequence", "transformations": [FIELD, step]}
    path = with_transformation(tmp_path / "a.zarr", whole)
    with pytest.raises(xdreg.StoreError, match=message):
        xdreg.open_field(path)


def test_units_and_axes_of_the_ends_are_looked_at(tmp_path):
    def change(scene):
        for axis in scene["coordinateSystems"][1]["axes"]:
            axis["unit"] = "nanometer"

    path = changed_scene(tmp_path / "a.zarr", change)
    with pytest.raises(xdreg.StoreError, match="different units"):
        xdreg.open_field(path)
    change_root(
        path, lambda ome: ome["scene"]["coordinateSystems"][1]["axes"].reverse()
    )
    with pytest.raises(xdreg.StoreError, match="in this order"):
        xdreg.open_field(path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({**FIELD, "input": "JRC", "output": "FCWB"}, "the text 'JRC'"),
        ({"type": "inverseOf", "transform": FIELD}, "'inverseOf'"),
        ({**FIELD, "path": "fields/array"}, "'fields/array' is an array"),
    ],
)
def test_drafts_are_refused_with_the_way_out(tmp_path, entry, message):
    path = with_transformation(tmp_path / "a.zarr", entry)
    change_root(path, lambda ome: ome.update(version="0.6.dev1"))
    zarr.open_group(path).create_array("fields/array", data=VECTORS)
    with pytest.raises(xdreg.StoreError, match=message) as caught:
        xdreg.open_field(path)
    for part in ("drafts of RFC-5", "'0.6.dev1'", "0.6", "again", "ngff-zarr"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "scene",
    [[], {"coordinateTransformations": None},
     {"coordinateTransformations": [{"type": "displacements"}]},
     {"coordinateTransformations": [{"type": "displacements", "path": 3}]}],
)  # fmt: skip
def test_a_damaged_scene_is_said(scene, tmp_path):
    zarr.create_group(tmp_path / "a.zarr", attributes={"ome": {"scene": scene}})
    with pytest.raises(xdreg.StoreError, match="displacement"):
        xdreg.open_field(tmp_path / "a.zarr")


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
