"""Registration of images of which a part was not measured."""

import json

import numpy as np
import pytest

import xdreg


@pytest.fixture(scope="module")
def pair():
    """Return a phantom whose background is noisy, and the wedges that a stack lacks."""
    made = xdreg.datasets.phantom_pair((40, 72, 56), amplitude=2.0)
    rng = np.random.default_rng(0)
    fixed, moving = (
        (100 + image.compute() / 100 + rng.normal(0, 5, image.shape)).astype("float32")
        for image in (made.fixed, made.moving)
    )
    z, y, _ = np.indices(fixed.shape)
    wedge = (y - 0.4 * z < 4) | (y - 0.4 * z > 72 - 0.4 * 40 - 4)
    return fixed, moving, wedge, made


#: A stage from a given start, for what no search for the pose decides.
GIVEN = {"stages": [xdreg.Affine(metric="lncc")], "initial": np.eye(4)}


def registered(fixed, moving, **options):
    return fixed.dreg.register(moving, progress=False, **options)


def padded(image, wedge, value):
    return image.copy(data=np.where(wedge, np.float32(value), image))


def test_padding_counts_as_little_as_nan(pair):
    fixed, moving, wedge, made = pair
    points = np.argwhere(made.foreground.values & ~wedge)[::37].astype(float)
    truth = np.moveaxis(made.displacement.values, 0, -1)[tuple(points.astype(int).T)]
    for value in (0, 65535, np.nan):
        images = (padded(image, wedge, value) for image in (fixed, moving))
        if np.isnan(value):
            with pytest.warns(UserWarning, match="not finite"):
                field = registered(*images, metric="lncc")
        else:
            field = registered(*images, metric="lncc" if value else "auto")
        moved = field.dreg.transform_points(points) - points
        error = np.linalg.norm(moved - truth, axis=1)
        assert np.percentile(error, 95) < 1, value


def test_padding_is_told_and_can_be_counted(pair, caplog):
    fixed, moving, wedge, _ = pair
    images = [padded(image, wedge, 0) for image in (fixed, moving)]
    with caplog.at_level("INFO", logger="xdreg"):
        told = registered(*images, **GIVEN)
    assert "of fixed is constant at its border" in caplog.text
    found = json.loads(told.attrs["xdreg"])["fixed_mask"]
    assert found["without_padding"]
    assert 0.4 < found["share"] < 1 - wedge.mean()
    every = registered(*images, fixed_mask=False, moving_mask=False, **GIVEN)
    assert "without_padding" not in every.attrs["xdreg"]


def test_a_foreground_ends_where_padding_begins(tmp_path):
    made = xdreg.datasets.phantom_pair((40, 72, 56), amplitude=1.0)
    fixed, moving = (
        image.astype("float32").compute() for image in (made.fixed, made.moving)
    )
    cone = (
        np.hypot(
            *(np.indices(fixed.shape)[1:] - np.array([35.5, 27.5])[:, None, None, None])
        )
        < 24
    )
    shares = []
    for mask in (None, "auto"):
        field = registered(
            padded(fixed, ~cone, -32768), moving, fixed_mask=mask, **GIVEN
        )
        entry = json.loads(field.attrs["xdreg"])["fixed_mask"]
        shares.append(entry["share"])
    assert shares[1] <= shares[0] <= cone.mean()


def test_a_value_around_a_whole_object_counts():
    made = xdreg.datasets.phantom_pair((40, 48, 44), amplitude=1.0)
    fixed, moving = (
        image.where(made.foreground, 0).astype("float32").compute()
        for image in (made.fixed, made.moving)
    )
    field = registered(fixed, moving, **GIVEN)
    assert "without_padding" not in field.attrs["xdreg"]
