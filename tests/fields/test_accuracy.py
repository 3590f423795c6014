"""Landmarks and labels against a registration."""

import dask.array
import numpy as np
import pytest
import xarray as xr

import xdreg
from tests.helpers.fields import Known, moving_like
from xdreg.coordinates import coordinates
from xdreg.fields import accuracy as judging
from xdreg.fields.warp import warp
from xdreg.numerics import metrics


def test_landmarks_by_a_known_field():
    known = Known(3, 15)
    lower, upper = known.fixed.bounds
    points = np.random.default_rng(0).uniform(lower + 3, upper - 3, (9, 3))
    target = known.forth(points)
    target[4] += (0, 3.0, 4.0)
    points[7] = upper + 50
    errors = judging.landmark_errors(known.field, points, target, names="abcdefghi")
    assert errors.order[:2] == [7, 4]
    assert errors.outside == 1
    assert errors.after[4] == pytest.approx(5, abs=0.1)
    assert np.nanmedian(errors.after) < 0.1
    table = errors.table()
    rest = np.delete(errors.before, 7)
    assert table["mean"][0] == pytest.approx(rest.mean())
    assert table["maximum"][1] == pytest.approx(errors.after[4])
    assert errors.names[4] == "e"


@pytest.mark.parametrize(
    ("fixed", "moving", "names", "message"),
    [
        ([[0, 0]], [[0, 0]], None, r"\(n, 3\)"),
        ([[0, 0, 0]], [[0, 0, 0]] * 2, None, "row i of fixed"),
        ([["a"] * 3], [[0, 0, 0]], None, "must be an array of real numbers"),
        ([[0, 0, 0]], [[0, 0, 0]], ["a", "b"], "2 names"),
    ],
)
def test_what_are_no_landmarks_is_named(fixed, moving, names, message):
    with pytest.raises(xdreg.InputError, match=message):
        judging.landmark_errors(Known(3).field, fixed, moving, names)


def labelled(known):
    """Return label images of a known field's pair: stripes along x."""
    moving = moving_like(known).astype(np.uint16)
    stripes = (moving.x.values // 12 % 5).astype(np.uint16)
    moving = moving.copy(data=np.broadcast_to(stripes, moving.shape).copy())
    like = xr.DataArray(
        np.zeros(known.fixed.shape, np.uint16),
        dims=known.fixed.dims,
        coords=coordinates(known.fixed),
    )
    fixed = warp(known.field, moving, order=0, like=like).compute()
    fixed[:4] = 9
    return fixed, moving


def test_labels_chunk_by_chunk_as_all_at_once():
    known = Known(3, 10)
    fixed, moving = labelled(known)
    parts = fixed.copy(data=dask.array.from_array(fixed.values, chunks=17))
    overlaps, lonely = judging.label_overlaps(known.field, parts, moving)
    moved = warp(known.field, moving, order=0, like=fixed).values
    expected = metrics.dice(fixed.values, moved)
    assert {label: v.dice[1] for label, v in overlaps.items()} == expected
    assert all(v.dice[1] > v.dice[0] for v in overlaps.values())
    assert min(expected.values()) > 0.9
    assert lonely == [9]


def test_of_large_labels_every_so_many_voxels_count(monkeypatch):
    known = Known(3, 10)
    fixed, moving = labelled(known)
    monkeypatch.setattr(judging, "LABEL_VOXELS", fixed.size // 8)
    overlaps, _ = judging.label_overlaps(known.field, fixed, moving)
    assert sum(v.fixed for v in overlaps.values()) <= fixed.size / 8
    assert min(v.dice[1] for v in overlaps.values()) > 0.8


def test_what_are_no_labels_is_named():
    known = Known(3, 10)
    fixed, moving = labelled(known)
    with pytest.raises(xdreg.InputError, match="fixed labels must be whole numbers"):
        judging.label_overlaps(known.field, fixed.astype(float), moving)
    with pytest.raises(xdreg.InputError, match="choose one channel"):
        both = xr.concat([moving, moving], "c")
        judging.label_overlaps(known.field, fixed, both)
