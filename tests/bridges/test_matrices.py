"""Affine fields as matrices, for multiview-stitcher and spatialdata."""

import numpy as np
import pytest
import xarray as xr

import xdreg
from tests.helpers.fields import Known, difference, moving_like
from xdreg import bridges


def test_an_affine_field_is_a_matrix_and_another_is_not():
    known = Known(3, 12.0, amplitude=0.0)
    matrix = bridges.to_matrix(known.field)
    np.testing.assert_allclose(matrix[:3, :3], known.linear, atol=1e-4)
    bent = Known(3, 12.0).field
    with pytest.raises(xdreg.InputError, match="the field bends"):
        bridges.to_matrix(bent)
    assert bridges.to_matrix(bent, tolerance=np.inf).shape == (4, 4)


def test_multiview_stitcher_s_parameters_push_the_moving_view():
    known = Known(3, 12.0, amplitude=0.0)
    params = bridges.to_multiview_stitcher(known.field)
    assert params.dims == ("x_in", "x_out")
    moving = np.append(known.forth(known.fixed.centre[None])[0], 1.0)
    np.testing.assert_allclose(
        (params.values @ moving)[:3], known.fixed.centre, atol=1e-3
    )
    again = bridges.from_multiview_stitcher(params, known.field)
    assert difference(again, known.field) < 1e-3
    with pytest.raises(xdreg.InputError, match="x_in"):
        bridges.from_multiview_stitcher(params.expand_dims(t=2), known.field)


def test_multiview_stitcher_names_axes_alike():
    utils = pytest.importorskip("multiview_stitcher.param_utils")
    known = Known(3, 12.0, amplitude=0.0)
    params = bridges.to_multiview_stitcher(known.field)
    xr.testing.assert_equal(utils.affine_to_xaffine(params.values), params)


def test_spatialdata_pushes_pixels_whose_centres_lie_at_a_half():
    pytest.importorskip("spatialdata")
    known = Known(2, 12.0, amplitude=0.0)
    moving = moving_like(known)
    affine = bridges.to_spatialdata(known.field, moving)
    index = np.array([4.0, 9.0])
    place = [float(moving[d][int(i)]) for d, i in zip("yx", index, strict=True)]
    matrix = affine.to_affine_matrix(("y", "x"), ("y", "x"))
    found = matrix @ [*(index + 0.5), 1.0]
    expected = known.back(np.array([place]))[0]
    np.testing.assert_allclose(found[:2], expected, atol=1e-3)
    again = bridges.from_spatialdata(affine, known.field, moving)
    assert difference(again, known.field) < 1e-3
    with pytest.raises(xdreg.InputError, match="name it: moving="):
        bridges.to_spatialdata(known.field)
