"""Reductions of the blocks of a stage to one transform."""

import functools
import itertools

import numpy as np
import pytest
import xarray as xr

import xdreg
from tests.helpers.matrices import corners_error, matrix_of
from tests.helpers.pairs import textured
from xdreg.coordinates import grid_of
from xdreg.engines.linear import linear_displacement
from xdreg.numerics.itk_transforms import displacement_to_itk, matrix_to_itk
from xdreg.partition import BlockStatus


def wrong_in_some(fixed, moving, wrong):
    """Register a block rigidly; in some claim what is not so."""
    found = linear_displacement(fixed, moving)
    start = tuple(round(v) for v in grid_of(fixed).origin)
    return found + 7.0 * (-1) ** len(wrong) if start in wrong else found


def test_a_stage_of_blocks_that_share_one_motion(tmp_path):
    fixed, moving, truth = textured(3.0)
    stage = xdreg.Consensus(level=0, block_shape=44, overlap=4)
    options = {
        "stages": [stage], "metric": "lncc", "progress": False, "workdir": tmp_path,
    }  # fmt: skip
    field = fixed.dreg.register(moving, **options)
    found = matrix_of(field)
    assert corners_error(found, truth, fixed.shape) < 0.3
    np.testing.assert_allclose(found[:2, :2] @ found[:2, :2].T, np.eye(2), atol=1e-5)
    assert field.block_disagreement.max() < 5
    assert (field.block_status == BlockStatus.SUCCESS).sum() >= 8
    again = fixed.dreg.register(moving, **options)
    xr.testing.assert_identical(again.displacement, field.displacement)
    np.testing.assert_array_equal(again.block_status, field.block_status)
    assert "consensus" in str(fixed.dreg.plan(moving, stages=[stage]))


def test_wrong_blocks_of_a_method_are_left_out():
    fixed, moving, truth = textured(1.0)
    starts = list(itertools.product((0, 50, 100), (0, 58, 116)))
    wrong = (starts[1], starts[5], starts[6])
    stage = xdreg.Custom(
        method=wrong_in_some, options={"wrong": wrong}, isolated=False,
        reduction="rigid", level=0, block_shape=(50, 60), overlap=0,
    )  # fmt: skip
    initial = truth.copy()
    initial[:2, 2] += 0.4
    field = fixed.dreg.register(
        moving, stages=[stage], metric="lncc", initial=initial, progress=False
    )
    assert corners_error(matrix_of(field), truth, fixed.shape) < 0.2
    assert field.block_status.shape == (3, 3)
    for i, start in enumerate(starts):
        good = field.block_status.values.ravel()[i] == BlockStatus.SUCCESS
        assert good == (start not in wrong)


def reduced_to(kind, results):
    """Return the mean shift of the blocks as something that a reduction may return."""
    results = list(results)
    used = [r for r in results if r.displacement is not None]
    assert len(results) == 4
    shift = np.mean([r.displacement.mean(axis=(1, 2)) for r in used], axis=0)
    matrix = np.eye(3)
    matrix[:2, 2] = shift
    if kind != "field":
        return matrix if kind == "matrix" else matrix_to_itk(matrix)
    image = results[0].image
    values = np.broadcast_to(shift[:, None, None], (2, *image.shape))
    return displacement_to_itk(values.astype(np.float32), image)


@pytest.mark.parametrize("before", ["nothing", "field"])
@pytest.mark.parametrize("kind", ["matrix", "linear", "field"])
def test_a_reduction_may_be_any_function(kind, before):
    fixed, moving, truth = textured()
    method = functools.partial(linear_displacement, transform="translation")
    stage = xdreg.Custom(
        method=method, isolated=False, reduction=functools.partial(reduced_to, kind),
        level=0, block_shape=(76, 86), overlap=8,
    )  # fmt: skip
    initial = None
    if before == "field":
        initial = xdreg.compose(np.eye(3), like=fixed).compute()
    field = fixed.dreg.register(
        moving, stages=[stage], metric="lncc", initial=initial, progress=False
    )
    inner = field.displacement.values[:, 5:-8, 5:-8]
    inner = field.displacement.values if kind != "field" else inner
    expected = np.broadcast_to(truth[:2, 2, None, None], inner.shape)
    np.testing.assert_allclose(inner, expected, atol=0.1)


def failing(results):
    next(results)
    msg = "no consensus"
    raise RuntimeError(msg)


def test_a_reduction_that_fails_names_its_stage():
    fixed, moving, _ = textured()
    stage = xdreg.Custom(
        method=linear_displacement, isolated=False, reduction=failing, level=0
    )
    with pytest.raises(RuntimeError, match="no consensus") as caught:
        fixed.dreg.register(moving, stages=[stage], metric="lncc", progress=False)
    assert "reduction of stage 0" in caught.value.__notes__[0]


def test_methods_and_reductions_return_matrices():
    fixed, moving, truth = textured(1.0)

    def method(fixed, moving):
        return truth.tolist()

    def reduction(results):
        return next(r for r in results if r.status == "success").fit("affine").tolist()

    options = {"level": 0, "block_shape": (80, 90), "overlap": "10%"}
    for extra in ({}, {"reduction": reduction}):
        stage = xdreg.Custom(method=method, isolated=False, **options, **extra)
        field = fixed.dreg.register(
            moving, stages=[stage], metric="lncc", progress=False
        )
        found = xdreg.bridges.to_matrix(field, tolerance=np.inf)
        assert corners_error(found, truth, fixed.shape) < 0.1
