"""Landmarks as a constraint of a stage, in blocks as in one, and what is left out."""

import json

import numpy as np
import pytest

import xdreg
from xdreg.cli.options_file import read_options, write_options

#: Steps along the axes that the images do not show.
AWAY = 3.0


@pytest.fixture(scope="module")
def pair():
    """Return a pair in a plane, and landmarks that contradict it in one place."""
    made = xdreg.datasets.phantom_pair((96, 112), amplitude=3.0)
    rng = np.random.default_rng(4)
    points = rng.uniform(12, (84, 100), (14, 2))
    field = xdreg.make_field(made.displacement.values, xdreg_grid(made.fixed))
    goals = field.dreg.transform_points(points)
    goals[3] += (AWAY, 0.0)
    return made, points, goals


def xdreg_grid(image):
    """Return the grid of an image."""
    from xdreg.coordinates import grid_of

    return grid_of(image)


def distances(field, points, goals):
    return np.linalg.norm(field.dreg.transform_points(points) - goals, axis=1)


def registered(made, landmarks, level=0, **options):
    weight = options.pop("landmark_weight", None)
    stage = xdreg.LocalCorrelation(
        level=level, landmarks=landmarks, landmark_weight=weight
    )
    return made.fixed.dreg.register(
        made.moving, stages=[stage], progress=False, metric="lncc",
        initial=np.eye(3), **options,
    )  # fmt: skip


def test_a_field_passes_landmarks_in_blocks_as_in_one(pair):
    made, points, goals = pair
    free = registered(made, None)
    assert distances(free, points, goals)[3] > 1.5
    one = registered(made, (points, goals))
    blocks = registered(made, (points, goals), block_shape=40, overlap=16)
    assert blocks.block_status.size > 4
    for field in (one, blocks):
        assert distances(field, points, goals).max() <= 0.5
        assert float(field.dreg.folded_share()) == 0
        table = field.dreg.landmarks
        assert table["left_out"].tolist() == [""] * len(points)
        np.testing.assert_allclose(table["distance"], distances(field, points, goals))
        assert table["tolerance"].tolist() == [0.5] * len(points)
    gap = np.linalg.norm(one.displacement - blocks.displacement, axis=0)
    assert np.median(gap) < 0.1
    # Far from the landmark that contradicts the images, they decide.
    there = np.linalg.norm(one.displacement - free.displacement, axis=0)
    assert np.median(there) < 0.35
    assert free.dreg.landmarks is None


def test_a_weight_is_a_tolerance(pair):
    made, points, goals = pair
    loose = registered(made, (points, goals), landmark_weight=0.25)
    tight = registered(made, (points, goals), landmark_weight=2.0)
    assert 0.5 < distances(loose, points, goals)[3] <= 2.0
    assert distances(tight, points, goals).max() <= 0.25


def test_landmarks_far_apart_are_brought_together_before_the_blocks(pair):
    made, points, goals = pair
    turned = goals.copy()
    # A bend by far more than the blocks would find, and no texture that says so.
    turned[:, 1] += 12 * np.sin(points[:, 0] / 25)
    field = registered(made, (points, turned), block_shape=40, overlap=16)
    assert distances(field, points, turned).max() <= 0.5
    assert float(field.dreg.folded_share()) == 0


def test_pairs_that_cannot_be_joined_are_named_and_left_out(pair):
    made, points, goals = pair
    wrong = goals.copy()
    wrong[5] += (25.0, -20.0)
    outside = np.concatenate([points, [[500.0, 3.0]]])
    wrong = np.concatenate([wrong, [[500.0, 3.0]]])
    with pytest.warns(UserWarning, match=r"2 of 15 .*row 6, row 15"):
        field = registered(made, (outside, wrong))
    table = field.dreg.landmarks
    assert table.loc[5, "left_out"] == "outlier"
    assert table.loc[14, "left_out"] == "outside"
    assert np.isnan(float(table.loc[14, "distance"]))
    kept = table["left_out"] == ""
    assert distances(field, outside, wrong)[kept].max() <= 0.5


def test_a_field_that_misses_a_landmark_says_so():
    made = xdreg.datasets.phantom_pair((96, 112), amplitude=1.5)
    # Blocks are empty where the image is, and do not follow a small motion there.
    fixed = made.fixed.where(made.fixed.y >= 48, 0)
    points = np.array([[12.0, 20], [14, 60], [16, 100], [70, 30], [80, 90]])
    marks = points, points + np.array([1.2, 0.0])
    stage = xdreg.LocalCorrelation(level=0, landmarks=marks, block_shape=32, overlap=4)
    options = {"metric": "lncc", "initial": np.eye(3), "progress": False}
    with pytest.warns(UserWarning, match="misses .* of 5 landmarks .*row 1, row 2"):
        field = fixed.dreg.register(made.moving, stages=stage, **options)
    missed = field.dreg.landmarks["distance"] > 0.5
    assert missed[:3].all()
    assert not missed[4]


def test_landmarks_are_part_of_a_run(pair, tmp_path):
    made, points, goals = pair
    workdir = {"workdir": tmp_path / "run"}
    first = registered(made, (points, goals), **workdir)
    again = registered(made, (points, goals), **workdir)
    np.testing.assert_array_equal(first.displacement, again.displacement)
    with pytest.raises(xdreg.InputError, match="landmarks"):
        registered(made, (points, goals + 0.1), **workdir)
    with pytest.raises(xdreg.InputError, match="landmark_weight"):
        registered(made, (points, goals), landmark_weight=2.0, **workdir)


def test_landmarks_of_any_kind_and_of_an_options_file(pair, tmp_path):
    made, points, goals = pair
    fitted = xdreg.landmarks(points, goals, robust=False)
    rows = [
        f'"Pt-{i}","true",{",".join(map(repr, [*q[::-1], *p[::-1]]))}'
        for i, (p, q) in enumerate(zip(points.tolist(), goals.tolist(), strict=True))
    ]
    path = tmp_path / "bigwarp.csv"
    path.write_text("\n".join(rows), encoding="utf-8")
    plans = [
        made.fixed.dreg.plan(
            made.moving, stages=xdreg.LocalCorrelation(level=0, landmarks=given)
        )
        for given in (fitted, (points, goals), path)
    ]
    stages = [plan.stages[0].options for plan in plans]
    assert stages[0].landmarks == stages[1].landmarks
    assert stages[2].landmarks["fixed"] == stages[0].landmarks["fixed"]
    assert stages[2].landmarks["names"][4] == "Pt-4"
    file = tmp_path / "paths.toml"
    text = '[[stages]]\nkind = "LocalCorrelation"\nlandmarks = "bigwarp.csv"\n'
    file.write_text(text, encoding="utf-8")
    assert read_options(file)["stages"][0].landmarks == str(path)
    for suffix in ("toml", "yaml"):
        file = tmp_path / f"run.{suffix}"
        write_options(file, {}, plans[2], overwrite=False)
        (stage,) = read_options(file)["stages"]
        again = made.fixed.dreg.plan(made.moving, stages=stage).stages[0].options
        assert again.landmarks == stages[2].landmarks


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "landmarks of a stage must be"),
        (([[0, 0]] * 3, [[0, 0]] * 2), "3 fixed landmarks"),
        (([[0, 0, 0]], [[0, 0, 0]]), "3 coordinates"),
        (([[0, np.nan]], [[0, 0]]), "NaN"),
        (([[900, 900.0]], [[0, 0]]), "outside the fixed image"),
        (([], []), "must be of shape"),
    ],
)
def test_what_are_no_landmarks_is_named(pair, given, message):
    made, _, _ = pair
    stage = xdreg.LocalCorrelation(level=0, landmarks=given)
    with pytest.raises(xdreg.InputError, match=message):
        made.fixed.dreg.plan(made.moving, stages=stage)


def test_a_weight_without_landmarks_is_refused():
    with pytest.raises(xdreg.InputError, match="none are given"):
        xdreg.LocalCorrelation(landmark_weight=1.0)
    with pytest.raises(xdreg.InputError, match="above zero"):
        xdreg.LocalCorrelation(landmarks=([], []), landmark_weight=0)


def test_a_saved_field_keeps_its_landmarks(pair, tmp_path):
    made, points, goals = pair
    field = registered(made, (points[:2], goals[:2]))
    xdreg.save(field, tmp_path / "field.ome.zarr")
    again = xdreg.open_field(tmp_path / "field.ome.zarr")
    assert json.loads(again.attrs["landmarks"]) == json.loads(field.attrs["landmarks"])
