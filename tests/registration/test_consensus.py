"""One transform of many blocks: robust against those that are wrong."""

import functools
import itertools

import numpy as np
import pytest
import xarray as xr

import xdreg
from tests.helpers.matrices import affine, applied, corners_error, matrix_of, turn
from tests.helpers.pairs import textured
from xdreg.coordinates import grid_of
from xdreg.engines.linear import linear_displacement
from xdreg.numerics.itk_transforms import displacement_to_itk, matrix_to_itk
from xdreg.partition import BlockStatus
from xdreg.registration.consensus import find_consensus, fit_linear

KINDS = ("translation", "rigid", "similarity", "affine")


def of_kind(kind, ndim):
    if kind == "affine":
        return affine(ndim)
    if kind == "translation":
        return turn(ndim, 0)
    return turn(ndim, scale=1.1 if kind == "similarity" else 1.0)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_recovers_its_kind(kind, ndim):
    points = np.random.default_rng(0).normal(size=(20, ndim)) * 30
    matrix = of_kind(kind, ndim)
    weights = np.linspace(0.1, 1, 20)
    found = fit_linear(points, applied(matrix, points), weights, kind)
    np.testing.assert_allclose(found, matrix, atol=1e-9)
    noisy = applied(affine(ndim, 3), points)
    linear = fit_linear(points, noisy, weights, kind)[:ndim, :ndim]
    if kind == "rigid":
        np.testing.assert_allclose(linear @ linear.T, np.eye(ndim), atol=1e-9)
        assert np.linalg.det(linear) > 0


def blocks(counts, size=50.0):
    """Return the corners of blocks (n, 2 ** ndim, ndim)."""
    ndim = len(counts)
    corners = np.array(list(itertools.product((0, size), repeat=ndim)))
    return np.array(list(np.ndindex(*counts)))[:, None] * size + corners


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("counts", [(6, 5), (4, 4, 3)])
def test_thirty_percent_wrong_blocks_do_not_matter(counts, together):
    """They are all over the place, or agree on another motion."""
    rng, ndim = np.random.default_rng(0), len(counts)
    points, truth = blocks(counts), turn(len(counts))
    noise = rng.normal(size=(len(points), 1, ndim)) * 0.3
    moved = applied(truth, points) + noise
    wrong = rng.choice(len(points), round(0.3 * len(points)), replace=False)
    for i in wrong:
        lie = turn(ndim, 40) if together else turn(ndim, rng.uniform(-90, 90))
        moved[i] = applied(lie, points[i])
        if not together:
            moved[i] += rng.normal(size=ndim) * 40
    # One block says nothing.
    silent = next(i for i in range(len(points)) if i not in wrong)
    moved[silent] = np.nan
    weights = rng.uniform(0.5, 1, len(points))
    found = find_consensus(points, moved, weights)
    expected = np.ones(len(points), bool)
    expected[[*wrong, silent]] = False
    np.testing.assert_array_equal(found.agrees, expected)
    assert np.isnan(found.residual[silent])
    gap = applied(found.matrix, points) - applied(truth, points)
    assert np.linalg.norm(gap, axis=-1).max() < 0.3
    # The mean of what the blocks say is far off.
    known = np.isfinite(moved).all(axis=(1, 2))
    mean = fit_linear(
        points[known].reshape(-1, ndim), moved[known].reshape(-1, ndim),
        np.ones(known.sum() * 2**ndim), "rigid",
    )  # fmt: skip
    gap = applied(mean, points) - applied(truth, points)
    assert np.linalg.norm(gap, axis=-1).max() > 3


def test_exact_blocks_leave_no_one_out_and_one_block_is_enough():
    points, truth = blocks((3, 3)), turn(2)
    found = find_consensus(points, applied(truth, points), tolerance=1e-6)
    assert found.agrees.all()
    found = find_consensus(points[:1], applied(truth, points[:1]), tolerance=1e-6)
    np.testing.assert_allclose(found.matrix, truth, atol=1e-9)


def test_weights_decide_between_halves():
    points = blocks((4, 4))
    moved = points + np.where(np.arange(16) < 8, 5.0, -5.0)[:, None, None]
    weights = np.where(np.arange(16) < 8, 1.0, 0.5)
    found = find_consensus(points, moved, weights, kind="translation")
    np.testing.assert_allclose(found.matrix[:2, 2], 5.0)
    assert found.agrees.tolist() == [True] * 8 + [False] * 8


def test_what_cannot_agree_is_refused():
    points = blocks((2, 2))
    for arguments, message in (
        ((points, points[:3]), "one shape"),
        ((points, points, np.ones(3)), "one per block"),
        ((points, np.full_like(points, np.nan)), "no block"),
    ):
        with pytest.raises(xdreg.InputError, match=message):
            find_consensus(*arguments)
    with pytest.raises(xdreg.InputError, match="kind must be"):
        find_consensus(points, points, kind="bent")
    with pytest.raises(xdreg.InputError, match="transform must be"):
        xdreg.Consensus(transform="bent")
    with pytest.raises(xdreg.InputError, match="reduction must be"):
        xdreg.Custom(method=wrong_in_some, reduction="mean")


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
