"""Robust fits of one transform to many blocks."""

import itertools

import numpy as np
import pytest

import xdreg
from tests.helpers.matrices import affine, applied, turn
from xdreg.numerics.consensus import find_consensus, fit_linear

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
        xdreg.Custom(method=fit_linear, reduction="mean")
