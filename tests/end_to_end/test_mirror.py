"""Registration of images of which one is mirrored."""

import re

import numpy as np
import pytest

import xdreg

SHAPES = {"plane": (96, 112), "volume": (40, 48, 44)}


@pytest.fixture(scope="module", params=SHAPES)
def mirrored(request):
    """Return a phantom pair of which the moving image is mirrored along x."""
    pair = xdreg.datasets.phantom_pair(SHAPES[request.param], amplitude=2.0)
    moving = pair.moving.copy(data=pair.moving.values[..., ::-1])
    points = pair.moving_points.copy()
    points[:, -1] = float(moving.x[0] + moving.x[-1]) - points[:, -1]
    return pair.fixed, moving, (pair.fixed_points, points)


def errors(field, points):
    moved = field.dreg.transform_points(points[0])
    return np.linalg.norm(moved - points[1], axis=1)


def test_a_mirrored_image_causes_a_warning_that_helps(mirrored):
    fixed, moving, points = mirrored
    options = {"metric": "lncc", "progress": False}
    with pytest.warns(UserWarning, match="fits better when it is mirrored") as told:
        fixed.dreg.register(moving, stages="affine", **options)
    (text,) = (str(w.message) for w in told if "mirrored" in str(w.message))
    matrix = np.array(eval(re.search(r"initial=(\[\[.*?\]\])", text).group(1)))
    field = fixed.dreg.register(moving, initial=matrix, **options)
    assert np.percentile(errors(field, points), 95) < 1


def test_a_mirror_is_taken_where_it_is_allowed(mirrored):
    fixed, moving, points = mirrored
    metric = "auto" if fixed.ndim == 2 else "lncc"
    field = fixed.dreg.register(
        moving, allow_mirror=True, metric=metric, progress=False
    )
    assert np.percentile(errors(field, points), 95) < 1
    assert field.dreg.pose["mirror"]
    back = field.dreg.transform_points(points[1], inverse=True)
    assert np.nanpercentile(np.linalg.norm(back - points[0], axis=1), 95) < 1


def test_a_mirror_is_allowed_only_where_a_pose_is_searched():
    pair = xdreg.datasets.phantom_pair((48, 56))
    for options, match in (
        ({"allow_mirror": "yes"}, "must be True or False"),
        ({"allow_mirror": True, "initial": np.eye(3)}, "initial is given"),
        (
            {"allow_mirror": True, "stages": [xdreg.Translation()]},
            "first stage is a translation",
        ),
        (
            {"allow_mirror": True, "stages": [xdreg.LocalCorrelation()]},
            "begin with a Rigid",
        ),
    ):
        with pytest.raises(xdreg.InputError, match=match):
            pair.fixed.dreg.plan(pair.moving, **options)


def test_the_command_allows_a_mirror(xdreg_command, tmp_path):
    pair = xdreg.datasets.phantom_pair((64, 72), amplitude=1.0)
    moving = pair.moving.copy(data=pair.moving.values[::-1])
    for name, image in (("f", pair.fixed), ("m", moving)):
        xdreg.save(image, tmp_path / f"{name}.zarr")
    paths = [tmp_path / "f.zarr", tmp_path / "m.zarr"]
    saved = tmp_path / "run.toml"
    code, _, err = xdreg_command(
        *("register", *paths, "-o", tmp_path / "out", "--metric", "lncc"),
        *("--allow-mirror", "--save-options", saved),
    )
    assert code == 0, err
    field = xdreg.open_field(tmp_path / "out/field.ome.zarr")
    assert field.dreg.pose["mirror"]
    assert "allow_mirror = true" in saved.read_text("utf-8")
    code, _, err = xdreg_command("plan", "--options", saved)
    assert code == 0, err
