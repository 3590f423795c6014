"""The choice of a metric."""

import numpy as np
import pytest
import xarray as xr

import xdreg
from tests.helpers.contrasts import FIXED, MOVING, UNIT, classes, like
from tests.helpers.data import ROOT, landmarks, needs_data
from xdreg.engines.metric_choice import choose_metric


def bias():
    y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in UNIT.shape], indexing="ij")
    return UNIT * np.exp(0.9 * (np.sin(2 * y) + np.sin(2 * x + 1)) / 2)


@pytest.mark.parametrize(
    ("values", "metric"),
    [
        (UNIT, "lncc"),
        (UNIT**2, "lncc"),
        (1 - UNIT, "lncc"),
        ((1 - UNIT) ** 2, "lncc"),
        (bias(), "lncc"),
        (UNIT + 0.2 * np.random.default_rng(1).standard_normal(UNIT.shape), "lncc"),
        (classes([3, 0, 5, 1, 4, 2]), "mind"),
        (classes([2, 5, 0, 4, 1, 3]), "mind"),
    ],
    ids=["same", "gamma", "inverted", "both", "bias", "noise", "classes", "others"],
)
def test_descriptors_are_for_other_contrast_only(values, metric):
    choice, _ = choose_metric(FIXED, like(values))
    assert choice.metric == metric, choice


def test_it_does_not_matter_where_the_images_lie():
    moving = like(classes([3, 0, 5, 1, 4, 2])).assign_coords(MOVING.coords)
    moving = moving.isel(x=slice(30, None), y=slice(20, None))
    assert choose_metric(FIXED, moving)[0].metric == "mind"
    same = MOVING.isel(x=slice(30, None), y=slice(20, None))
    assert choose_metric(FIXED, same)[0].metric == "lncc"


def test_with_nothing_in_common_it_is_local_correlation():
    rng = np.random.default_rng(2)
    choice, _ = choose_metric(
        like(rng.random(UNIT.shape)), like(rng.random(UNIT.shape))
    )
    assert choice.metric == "lncc"
    assert "too little" in choice.reason


def test_a_small_object_on_an_even_background_is_enough():
    y, x = np.meshgrid(*[np.arange(n) for n in UNIT.shape], indexing="ij")
    disc = ((y - 90) ** 2 + (x - 100) ** 2 < 30**2).astype(float)
    disc *= 1 + 0.3 * np.sin(y / 5) * np.sin(x / 7)
    choice, _ = choose_metric(like(disc), like(np.roll(disc, 6, 0)))
    assert choice.metric == "lncc"
    assert choice.linearity > 0.9


def test_three_dimensions_and_masks():
    pair = xdreg.datasets.phantom_pair((40, 44, 48), amplitude=3.0)
    fixed, moving = (v.astype("float32").load() for v in (pair.fixed, pair.moving))
    # What lies outside the masks says otherwise.
    inner = xr.zeros_like(fixed, bool)
    inner[8:-8, 8:-8, 8:-8] = True
    wrong = moving.where(inner, float(fixed.max()) - moving.values[::-1])
    masked = [v.assign_coords(mask=(v.dims, inner.values)) for v in (fixed, wrong)]
    choice, _ = choose_metric(*masked, start=np.eye(4))
    assert choice.metric == "lncc"
    assert choice.linearity > 0.9


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "level"), [("lung_ct", 1), ("mouse_brain", 1), ("exm_lowres", 2)]
)
@pytest.mark.parametrize("inverted", [False, True])
def test_real_pairs_of_one_modality(name, level, inverted):
    images = [
        xdreg.open_ome_zarr(ROOT / name / f"{which}.ome.zarr", level=level)
        .astype("float32")
        .load()
        for which in ("fixed", "moving")
    ]
    if inverted:
        share = (images[1] - images[1].min()) / (images[1].max() - images[1].min())
        images[1] = (1 - share) ** 2
    choice, _ = choose_metric(*images)
    assert choice.metric == "lncc", choice
    assert choice.linearity > 0.8


@needs_data
@pytest.mark.slow
def test_a_real_pair_in_scrambled_classes_takes_descriptors():
    images = [
        xdreg.open_ome_zarr(ROOT / "lung_ct" / f"{which}.ome.zarr", level=1)
        .astype("float32")
        .load()
        for which in ("fixed", "moving")
    ]
    values = images[1].values
    edges = np.quantile(values[values > values.min()], np.linspace(0, 1, 7)[1:-1])
    order = np.array([3, 0, 5, 1, 4, 2], np.float32)
    scrambled = images[1].copy(data=order[np.digitize(values, edges)])
    # With a start, for tests of other contrasts search for the pose.
    start = np.eye(4)
    points = [landmarks("lung_ct", which).mean(axis=0) for which in ("fixed", "moving")]
    start[:3, 3] = points[1] - points[0]
    choice, _ = choose_metric(images[0], scrambled, start=start)
    assert choice.metric == "mind", choice
