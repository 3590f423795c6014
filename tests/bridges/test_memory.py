"""Transforms of ITK, ITK-Wasm and SimpleITK in memory."""

import itk
import numpy as np
import pytest

import xdreg
from tests.helpers.fields import Known, difference, moving_like, points_of
from xdreg import bridges


def test_itk_goes_on_with_the_turn_of_a_field_beyond_its_grid():
    known = Known(3, 20.0, amplitude=0.0)
    transform = known.field.dreg.to_itk_transform(affine=True)
    far = known.fixed.centre + 1000.0
    moved = np.array(list(transform.TransformPoint(far[::-1].tolist())))[::-1]
    # The field holds single precision over a hundredth of that distance.
    np.testing.assert_allclose(moved, known.forth(far[None])[0], atol=1e-3)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("ndim", [2, 3])
def test_itkwasm_warps_by_what_it_is_given(ndim, affine):
    from itkwasm import Image, Transform
    from itkwasm_downsample import resample_to_reference

    known = Known(ndim, 5.0)
    field = known.field
    entries = bridges.to_itkwasm(field, affine=affine)
    assert [type(entry) for entry in entries] == [Transform] * (1 + affine)
    target = moving_like(known)
    random = np.random.default_rng(0).random(target.shape).astype(np.float32)
    moving = target.copy(data=random)
    fixed = field.displacement[0].drop_vars("component")
    images = [
        Image(**itk.dict_from_image(one.dreg.to_itk_image())) for one in (moving, fixed)
    ]
    theirs = resample_to_reference(*images, transform=entries)
    ours = field.dreg.warp(moving, like=fixed)
    inside = (slice(2, -2),) * ndim
    np.testing.assert_allclose(
        np.asarray(theirs.data)[inside], ours.values[inside], atol=1e-3
    )


@pytest.mark.parametrize("affine", [False, True])
def test_itkwasm_s_transforms_come_back(affine):
    from itkwasm import Transform, TransformType

    field = Known(2, 5.0).field
    entries = bridges.to_itkwasm(field, affine=affine)
    again = bridges.from_itkwasm(entries, units="micrometer")
    assert difference(again, field) < 1e-4
    # As ITK-Wasm returns a composite, and in single precision.
    kind = TransformType("Composite", "float32", 2, 2)
    for entry in entries:
        entry.transformType.parametersValueType = "float32"
        entry.parameters = entry.parameters.astype(np.float32)
    listed = [Transform(kind), *entries]
    assert difference(bridges.from_itkwasm(listed, like=field), field) < 1e-4
    known_to_itk = itk.dict_from_transform(field.dreg.to_itk_transform())
    assert difference(bridges.from_itkwasm(known_to_itk, like=field), field) < 1e-5
    for wrong in ([{"name": "x"}], ["x"], [None]):
        with pytest.raises(xdreg.InputError, match="transformType"):
            bridges.from_itkwasm(wrong)
    with pytest.raises(xdreg.StoreError, match="holds no transform"):
        bridges.from_itkwasm([])


@pytest.mark.parametrize("affine", [False, True])
def test_simpleitk_takes_and_gives_the_same(affine):
    sitk = pytest.importorskip("SimpleITK")
    known = Known(3, 5.0)
    transform = bridges.to_simpleitk(known.field, affine=affine)
    points = points_of(known, 5)
    found = [transform.TransformPoint(p[::-1].tolist())[::-1] for p in points]
    expected = known.field.dreg.transform_points(points)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    again = bridges.from_simpleitk(transform, units="micrometer")
    assert difference(again, known.field) < 1e-4
    turn = sitk.Euler3DTransform((1.0, 2.0, 3.0), 0.1, 0.2, 0.3, (4.0, 5.0, 6.0))
    field = bridges.from_simpleitk(turn, like=known.field)
    matrix = bridges.to_matrix(field)
    there = turn.TransformPoint((7.0, 8.0, 9.0))[::-1]
    np.testing.assert_allclose(matrix[:3] @ [9.0, 8.0, 7.0, 1.0], there, atol=1e-3)
