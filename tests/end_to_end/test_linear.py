"""Registrations by linear stages, from any pose."""

import json

import numpy as np
import pytest

import xdreg
from tests.helpers.images import (
    FLAT,
    SOLID,
    about_centre,
    body,
    corner_error,
    image,
    moved,
    rotation,
)
from xdreg.engines.pose_text import DOUBTFUL


@pytest.mark.parametrize("grid", [FLAT, SOLID])
@pytest.mark.parametrize("kind", ["translation", "rigid", "similarity", "affine"])
def test_every_kind_is_found_from_far(grid, kind):
    part = np.eye(grid.ndim) if kind == "translation" else rotation(grid.ndim, 38.0)
    if kind in ("similarity", "affine"):
        part = 1.15 * part
    if kind == "affine":
        part = part @ np.diag([1.05, 0.95, 1.0][: grid.ndim])
    shift = 0.2 * np.multiply(grid.shape, grid.spacing) * [1, -1, 1][: grid.ndim]
    truth = about_centre(grid, part, shift)
    fixed = body(grid)
    stage = getattr(xdreg, kind.capitalize())()
    field = fixed.dreg.register(moved(fixed, truth), stages=stage, progress=False)
    found = np.array(json.loads(field.attrs["matrix"]))
    assert corner_error(found, truth, grid) < 1.25
    pose = json.loads(field.attrs["pose"])
    turn = 0 if kind == "translation" else 38
    assert pose["turn"] == pytest.approx(turn, abs=4)
    assert pose["margin"] > DOUBTFUL


def test_two_poses_that_fit_alike_are_told(tmp_path, caplog):
    """A body of two halves that are alike fits either way round."""
    half = body(FLAT).values
    fixed = image(half + half[::-1, ::-1], FLAT)
    run = {"stages": [xdreg.Rigid()], "workdir": tmp_path, "progress": False}
    for _ in ("fresh", "resumed"):
        caplog.clear()
        with (
            caplog.at_level("INFO", "xdreg"),
            pytest.warns(UserWarning, match="two different poses.*as initial"),
        ):
            field = fixed.dreg.register(fixed, **run)
        assert "a turn of 0°" in caplog.text
        pose = json.loads(field.attrs["pose"])
        assert pose["origin"] == "identity"
        assert pose["margin"] < DOUBTFUL


def test_a_start_that_is_given_is_not_searched_for():
    fixed = body(FLAT)
    field = fixed.dreg.register(
        fixed, stages=[xdreg.Affine()], initial=np.eye(3), progress=False
    )
    assert "pose" not in field.attrs


def test_affine_stage_in_register():
    truth = about_centre(FLAT, 1.1 * rotation(2, 100.0), [12.0, -9.0])
    fixed = body(FLAT)
    field = fixed.dreg.register(
        moved(fixed, truth), stages=[xdreg.Affine()], progress=False
    )
    points = FLAT.index_to_physical([[45, 55], [30, 40], [60, 70]])
    expected = points @ truth[:-1, :-1].T + truth[:-1, -1]
    np.testing.assert_allclose(field.dreg.transform_points(points), expected, atol=0.5)
    assert field.block_similarity_after.item() > field.block_similarity_before.item()


def test_samples_are_for_elastix():
    fixed = body(FLAT)
    with pytest.raises(xdreg.InputError, match="samples=100 is for elastix"):
        fixed.dreg.plan(fixed, stages=[xdreg.Affine(samples=100)])
    plan = fixed.dreg.plan(fixed, stages=[xdreg.Affine(samples=100)], metric="mi")
    assert plan.stages[0].metric == "mi"
