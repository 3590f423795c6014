"""Transforms fitted to landmarks: alone, composed, as ITK's, as a start."""

import numpy as np
import pandas as pd
import pytest

import xdreg
from tests.helpers.fields import Known, points_of
from tests.helpers.matrices import applied, turn
from tests.helpers.pairs import textured


def bent(count=30, ndim=3):
    """Return pairs of a known smooth map, and the map."""
    known = Known(ndim, 8)
    fixed = points_of(known, count)
    return fixed, known.forth(fixed), known


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("kind", ["rigid", "affine"])
def test_a_linear_transform_and_its_outliers(ndim, kind):
    fixed = np.random.default_rng(0).uniform(0, 90, (14, ndim))
    matrix = turn(ndim, 20.0)
    moving = applied(matrix, fixed)
    moving[5] += 30.0
    with pytest.warns(UserWarning, match=r"1 of 14 .* row 6"):
        found = xdreg.landmarks(fixed, moving, kind=kind)
    np.testing.assert_allclose(found.matrix, matrix, atol=1e-9)
    assert found.rejected == [5]
    assert found.residuals[5] == pytest.approx(30 * ndim**0.5)
    assert "row 6" in str(found)
    assert found.table.loc[5, "left_out"] == "outlier"
    everything = xdreg.landmarks(fixed, moving, kind=kind, robust=False)
    assert everything.rejected == []
    assert np.abs(everything.matrix - matrix).max() > 0.1


def test_a_thin_plate_spline_passes_its_landmarks_as_a_field():
    fixed, moving, known = bent()
    moving[7] += (0, 9, 12)
    with pytest.warns(UserWarning, match="row 8"):
        found = xdreg.landmarks(fixed, moving, kind="thin-plate", units="micrometer")
    assert found.residuals[7] == pytest.approx(15, abs=1)
    kept = found.pairs.used
    field = found.to_field(known.fixed)
    assert field.displacement.chunks is not None
    gap = field.dreg.transform_points(fixed[kept]) - moving[kept]
    assert np.abs(gap).max() < 0.1
    others = points_of(known, 200)[100:]
    error = np.linalg.norm(
        field.dreg.transform_points(others) - known.forth(others), axis=1
    )
    assert np.median(error) < 0.4
    coarse = found.to_field(known.fixed, step=4)
    assert coarse.displacement.size < field.displacement.size / 30
    again = xdreg.compose(found, like=known.fixed)
    np.testing.assert_array_equal(again.displacement, field.displacement)


def test_the_field_is_computed_chunk_by_chunk():
    fixed, moving, _ = bent()
    found = xdreg.landmarks(fixed, moving, kind="thin-plate")
    large = xdreg.Grid(("z", "y", "x"), (900,) * 3, (0.1,) * 3, (-7.0, 30, 11))
    field = found.to_field(large)
    corner = field.displacement[:, :2, :2, :2].values
    expected = found.move(np.array([large.origin]))[0] - large.origin
    np.testing.assert_allclose(corner[:, 0, 0, 0], expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["rigid", "thin-plate"])
def test_as_a_transform_of_itk(kind):
    fixed, moving, known = bent()
    found = xdreg.landmarks(fixed, moving, kind=kind)
    transform = found.to_itk_transform()
    places = points_of(known, 6)
    there = [list(transform.TransformPoint(p[::-1].tolist()))[::-1] for p in places]
    np.testing.assert_allclose(there, found.move(places), atol=1e-8)


def test_units_of_points_and_images():
    fixed, moving, known = bent()  # in micrometers
    found = xdreg.landmarks(fixed / 1000, moving / 1000, units="mm", kind="affine")
    field = found.to_field(known.fixed)
    assert field.displacement.attrs["units"] == "micrometer"
    same = xdreg.landmarks(fixed, moving).to_field(known.fixed)
    np.testing.assert_allclose(field.displacement, same.displacement, atol=1e-4)
    with pytest.raises(xdreg.InputError, match="outside the fixed image"):
        xdreg.landmarks(fixed / 1000, moving / 1000).to_field(known.fixed)


def test_names_pair_rows_and_are_reported():
    fixed, moving, _ = bent()
    tables = [pd.DataFrame(p, columns=list("zyx")) for p in (fixed, moving)]
    names = [f"P{i}" for i in range(len(fixed))]
    tables = [table.assign(name=names) for table in tables]
    assert xdreg.landmarks(*tables).table["name"].tolist() == names
    tables[1]["name"] = names[::-1]
    with pytest.raises(xdreg.InputError, match="row 1 of the fixed"):
        xdreg.landmarks(*tables)


CUBE = np.stack(np.meshgrid(*([0.0, 9.0],) * 3), axis=-1).reshape(-1, 3)


@pytest.mark.parametrize(
    ("fixed", "moving", "options", "message"),
    [
        (CUBE, CUBE[:-1], {}, "8 fixed landmarks .* and 7 moving"),
        (CUBE, CUBE[:, :2], {}, "3 coordinates and 8 moving ones of 2"),
        (CUBE[:4] * 0 + 5, CUBE[:4], {"kind": "rigid"}, "at one place"),
        (CUBE * (1, 0, 0), CUBE, {"kind": "rigid"}, "in a line"),
        (CUBE * (1, 1, 0), CUBE, {}, "in a plane.*kind='rigid'"),
        (CUBE, CUBE * (1, 1, 0), {"kind": "thin-plate"}, "moving .* in a plane"),
        (CUBE[:3], CUBE[:3], {}, "needs 4 pairs"),
        (CUBE[:0], CUBE[:0], {}, "needs 4 pairs"),
        (CUBE + np.nan * np.eye(8, 3), CUBE, {}, r"fixed_points hold NaN .* row 1"),
        (CUBE, np.where(CUBE == 9, np.inf, CUBE), {}, "moving_points hold NaN or inf"),
        (CUBE, CUBE, {"kind": "spline"}, "kind must be one of"),
        (CUBE, CUBE, {"robust": 1}, "robust must be"),
        (CUBE, None, {}, "moving_points is missing"),
        (CUBE[[0, 0, *range(1, 8)]], CUBE[[0, 3, *range(1, 8)]],
         {"kind": "thin-plate", "robust": False}, "'1', '2' have one fixed point"),
        ("abc", CUBE, {}, "abc"),
    ],
)  # fmt: skip
def test_what_determines_no_transform_is_named(fixed, moving, options, message):
    with pytest.raises(xdreg.XdregError, match=message):
        xdreg.landmarks(fixed, moving, **options)


def test_flat_points_and_other_dimensions_at_a_field():
    fixed, moving, known = bent(ndim=2)
    found = xdreg.landmarks(fixed, moving)
    with pytest.raises(xdreg.InputError, match="2 coordinates"):
        found.to_field(Known(3).fixed)
    with pytest.raises(xdreg.InputError, match="step"):
        found.to_field(known.fixed, step=0)


@pytest.mark.parametrize("kind", ["rigid", "thin-plate"])
def test_a_registration_starts_from_landmarks(kind, tmp_path):
    fixed, moving, matrix = textured(140.0)
    places = np.random.default_rng(3).uniform(20, 130, (12, 2))
    start = xdreg.landmarks(places, applied(matrix, places), kind=kind)
    options = {"stages": "local_correlation", "progress": False, "initial": start}
    field = fixed.dreg.register(moving, workdir=tmp_path / "run", **options)
    gap = field.dreg.transform_points(places) - applied(matrix, places)
    assert np.linalg.norm(gap, axis=1).mean() < 0.3
    # The same landmarks go on with the run; others do not.
    again = fixed.dreg.register(moving, workdir=tmp_path / "run", **options)
    np.testing.assert_array_equal(again.displacement, field.displacement)
    shifted = xdreg.landmarks(places, applied(matrix, places) + 0.1, kind=kind)
    options["initial"] = shifted
    with pytest.raises(xdreg.InputError, match="initial"):
        fixed.dreg.register(moving, workdir=tmp_path / "run", **options)


def test_landmarks_of_other_images_are_no_start():
    fixed, moving, matrix = textured(20.0)
    places = np.random.default_rng(3).uniform(20, 130, (12, 2))
    far = xdreg.landmarks(places + 900, applied(matrix, places))
    with pytest.raises(xdreg.InputError, match="outside the fixed image"):
        fixed.dreg.plan(moving, initial=far)
    solid = xdreg.landmarks(CUBE, CUBE)
    with pytest.raises(xdreg.InputError, match="3 coordinates"):
        fixed.dreg.plan(moving, initial=solid)
