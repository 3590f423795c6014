"""Which metric is chosen, and that the choice is told and kept."""

import json
import logging

import numpy as np
import pytest
import xarray as xr

import xdreg
from tests.helpers.data import ROOT, needs_data
from xdreg.engines.metric_choice import choose_metric

PAIR = xdreg.datasets.phantom_pair((200, 240), amplitude=5.0)
FIXED, MOVING = (v.astype("float32").load() for v in (PAIR.fixed, PAIR.moving))
UNIT = (MOVING / MOVING.max()).values


def like(values):
    return xr.DataArray(values.astype(np.float32), MOVING.coords, MOVING.dims)


def classes(order):
    """Give the moving image's classes of intensity other values, in an odd order."""
    edges = np.quantile(UNIT[UNIT > 0.05], np.linspace(0, 1, len(order) + 1)[1:-1])
    return np.asarray(order)[np.digitize(UNIT, edges)] / len(order)


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


OPTIONS = {"block_shape": 128, "progress": False}


def test_the_choice_is_told_and_gives_what_naming_it_gives(caplog):
    moving = like(classes([3, 0, 5, 1, 4, 2]))
    with caplog.at_level(logging.INFO, "xdreg"):
        field = FIXED.dreg.register(moving, **OPTIONS)
    assert field.attrs["metric"].startswith("mind, chosen: ")
    assert field.attrs["metric"] in caplog.text
    made = json.loads(field.attrs["xdreg"])
    assert {stage["metric"] for stage in made["stages"]} == {"mind"}
    assert made["choice"]["metric"] == "mind"
    named = FIXED.dreg.register(moving, metric="mind", **OPTIONS)
    np.testing.assert_array_equal(field.displacement, named.displacement)
    assert "metric" not in named.attrs


@pytest.mark.parametrize(
    "options",
    [
        {"initial": np.eye(3)},
        {"initial": "field"},
        {"stages": [xdreg.LocalCorrelation(level=0)]},
        {"stages": [xdreg.Translation(), xdreg.Rigid()]},
        {"fixed_mask": PAIR.foreground},
    ],
    ids=["matrix", "field", "local", "translation", "mask"],
)
def test_any_run_may_be_left_to_choose(options):
    if isinstance(options.get("initial"), str):
        stages = [xdreg.LocalCorrelation(level=1, iterations=3)]
        field = FIXED.dreg.register(MOVING, stages=stages, metric="lncc", **OPTIONS)
        options = {"initial": field}
    options = {"stages": [xdreg.LocalCorrelation(level=1, iterations=3)]} | options
    field = FIXED.dreg.register(MOVING, **options, **OPTIONS)
    assert {s["metric"] for s in json.loads(field.attrs["xdreg"])["stages"]} == {"lncc"}
    assert field.attrs["metric"].startswith("lncc")


def test_a_run_that_is_resumed_does_not_choose_again(tmp_path, monkeypatch):
    options = OPTIONS | {"workdir": tmp_path / "run"}
    options["stages"] = [xdreg.LocalCorrelation(level=1, iterations=3)]
    first = FIXED.dreg.register(MOVING, **options)

    def never(*_, **__):
        raise AssertionError

    monkeypatch.setattr("xdreg.engines.metric_choice.choose_metric", never)
    again = FIXED.dreg.register(MOVING, **options)
    assert again.attrs == first.attrs
    np.testing.assert_array_equal(again.displacement, first.displacement)


def test_the_pose_is_looked_for_once(monkeypatch):
    def never(*_, **__):
        raise AssertionError

    monkeypatch.setattr("xdreg.registration.linear_stage.find_pose", never)
    field = FIXED.dreg.register(MOVING, stages=[xdreg.Affine()], **OPTIONS)
    assert json.loads(field.attrs["pose"])["score"] > 0.5


def test_a_stage_with_a_metric_of_its_own_keeps_it():
    stages = [xdreg.LocalCorrelation(level=1, metric="mind", iterations=3)]
    field = FIXED.dreg.register(MOVING, stages=stages, **OPTIONS)
    assert "metric" not in field.attrs
    assert json.loads(field.attrs["xdreg"])["stages"][0]["metric"] == "mind"


def test_a_plan_leaves_it_open_and_reads_nothing():
    lazy = PAIR.fixed.copy(data=PAIR.fixed.data.map_blocks(_fails, dtype="uint16"))
    plan = lazy.dreg.plan(lazy)
    assert {row["metric"] for row in plan.table()} == {"auto"}
    assert "chosen when the run starts" in str(plan)
    assert {s.metric for s in plan.decided("mind").stages} == {"mind"}
    assert "chosen when" not in str(plan.decided("mind"))
    nearest = lazy.dreg.plan(lazy, stages=[xdreg.BSpline()]).decided("mind")
    assert nearest.stages[0].metric == "mi"


def _fails(block):
    raise AssertionError


def test_samples_need_a_metric_of_elastix():
    stages = [xdreg.Affine(samples=500)]
    with pytest.raises(xdreg.InputError, match="'auto' takes every voxel"):
        FIXED.dreg.plan(MOVING, stages=stages)


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
    choice, _ = choose_metric(images[0], scrambled)
    assert choice.metric == "mind", choice
