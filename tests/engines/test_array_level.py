"""The engine on arrays of any kind against the compiled one."""

import tracemalloc

import numpy as np
import pytest
import scipy.ndimage
import xarray as xr

from tests.helpers.device_arrays import SPACE
from tests.helpers.images import image, texture
from xdreg.engines.local_correlation import by_level, local_correlation
from xdreg.errors import MethodTimeout
from xdreg.grid import Grid
from xdreg.numerics.arrays import ArraySpace
from xdreg.registration.estimates import DEVICE_BYTES

#: Where the two may differ, in voxels. They differ by rounding.
MEDIAN, MOST = 0.001, 0.02

SHAPES = {"plane": (52, 60), "volume": (33, 14, 16)}


@pytest.fixture(autouse=True)
def device(monkeypatch):
    """Put arrays that leave the device only when told to in place of CuPy's."""
    monkeypatch.setattr("xdreg.engines.device.gpu_space", lambda: SPACE)


def warped(values, seed=3):
    """Return an image and the same moved by up to two voxels."""
    rng = np.random.default_rng(seed)
    sigma = [n / 6 for n in values.shape]
    moves = [
        scipy.ndimage.gaussian_filter(rng.normal(size=values.shape), sigma)
        for _ in values.shape
    ]
    places = [
        place + 2 * move / np.abs(move).max()
        for place, move in zip(np.indices(values.shape), moves, strict=True)
    ]
    return scipy.ndimage.map_coordinates(values, places, order=3, mode="nearest")


@pytest.fixture(params=SHAPES)
def pair(request):
    """Return a pair that differs in contrast, in a plane and in a volume."""
    values = texture(SHAPES[request.param], 2.0)
    return image(values), image(2 - 3 * warped(values))


def check_equal(fixed, moving, **options):
    """Assert that both engines find the same; return the displacement."""
    options = {"iterations": 3, **options}
    expected = local_correlation(fixed, moving, **options)
    found = local_correlation(fixed, moving, device="cuda", **options)
    steps = [abs(float(fixed[d][1] - fixed[d][0])) for d in fixed.dims if d != "c"]
    gap = (found.displacement - expected.displacement).values
    gap = np.linalg.norm(gap / np.reshape(steps, (-1,) + (1,) * len(steps)), axis=0)
    assert np.median(gap) < MEDIAN
    assert gap.max() < MOST
    assert found.from_search == expected.from_search or np.isnan(found.from_search)
    assert found.displacement.dims == expected.displacement.dims
    values = expected.displacement.values
    assert np.abs(values).max() > 0.3 * min(steps)
    return values


METRICS = pytest.mark.parametrize("metric", ["lncc", "mind"])


@METRICS
@pytest.mark.parametrize("stride", [1, 2])
def test_both_engines_find_the_same(pair, metric, stride):
    check_equal(*pair, metric=metric, stride=stride)


@METRICS
def test_masks(pair, metric):
    masks = np.ones((2, *pair[0].shape), bool)
    masks[0, ..., :5] = masks[1, ..., 20:24, :] = False
    masks[0, ..., 9:11, 9:12] = False
    both = [
        one.assign_coords(mask=(one.dims, mask))
        for one, mask in zip(pair, masks, strict=True)
    ]
    check_equal(*both, metric=metric, stride=2)


@METRICS
def test_anisotropic_spacing(pair, metric):
    stretched = [
        one.assign_coords({dim: 2.5 * one[dim] for dim in one.dims[:1]}) for one in pair
    ]
    check_equal(*stretched, metric=metric, stride=2)


@METRICS
def test_channels_are_registered_together(pair, metric):
    other = [one + 2 * texture(one.shape, 1.5, seed=8) for one in pair]
    several = [xr.concat(channels, "c") for channels in zip(pair, other, strict=True)]
    alone = check_equal(*pair, metric=metric)
    together = check_equal(*several, metric=metric)
    assert np.abs(alone - together).max() > 0.05


@METRICS
def test_a_search(pair, metric):
    check_equal(*pair, metric=metric, search=True, iterations=2)


@pytest.mark.parametrize("rougher", [1e-9, 1e9])
def test_a_smooth_and_a_rough_field(rougher):
    values = texture(SHAPES["volume"], 2.0)
    check_equal(image(values), image(warped(values)), rougher=rougher, stride=2)


@METRICS
@pytest.mark.parametrize("finest", [False, True])
def test_options_of_the_levels_of_a_run(pair, metric, finest):
    fixed, moving = pair
    grid = Grid(fixed.dims, fixed.shape, (1.0,) * fixed.ndim, (0.0,) * fixed.ndim, None)
    options = by_level({"metric": metric, "search": False}, grid, finest=finest)
    contrast = [(float(fixed.std()), float(moving.std()))]
    check_equal(fixed, moving, contrast=contrast, stiffness=[0.01], **options)


def test_images_without_common_voxels_do_not_move(pair):
    mask = (pair[0].dims, np.zeros(pair[0].shape, bool))
    fixed = pair[0].assign_coords(mask=mask)
    for metric in ("lncc", "mind"):
        found = local_correlation(fixed, pair[1], metric=metric, device="cuda")
        assert not found.displacement.values.any()


def test_one_line_of_voxels():
    values = texture((1, 40), 2.0)
    pair = image(values), image(np.roll(values, 1, axis=1))
    for metric in ("lncc", "mind"):
        one, other = (
            local_correlation(*pair, metric=metric, device=name, iterations=5)
            for name in ("cpu", "cuda")
        )
        gap = (one.displacement - other.displacement).values
        assert np.abs(gap).max() < MOST


def test_the_time_limit(pair):
    with pytest.raises(MethodTimeout, match="stopped after 1 iterations"):
        local_correlation(*pair, device="cuda", timeout=1e-9)


def test_numpy_is_a_namespace(pair, monkeypatch):
    space = ArraySpace(np, scipy.ndimage, "stand-in", lambda: None)
    monkeypatch.setattr("xdreg.engines.device.gpu_space", lambda: space)
    check_equal(*pair)


@pytest.mark.parametrize(
    "step",
    [
        *(np.asarray, np.sqrt, np.array, lambda a: np.stack([a, a])),
        *(lambda a: a + np.ones(3), lambda a: np.ones(3) * a),
        *(lambda a: SPACE.xp.maximum(a, np.ones(3)), lambda a: a[np.array([0, 1])]),
        lambda a: SPACE.ndimage.correlate1d(a, np.ones(3)),
    ],
)
def test_the_stand_in_lets_nothing_pass_silently(step):
    with pytest.raises(TypeError):
        step(SPACE.put(np.ones(3)))


@METRICS
@pytest.mark.parametrize("finest", [False, True])
def test_the_estimate_of_the_memory_holds(metric, finest, monkeypatch):
    # NumPy tells what it allocates.
    before = []

    def space():
        before.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.reset_peak()
        return ArraySpace(np, scipy.ndimage, "stand-in", lambda: None)

    monkeypatch.setattr("xdreg.engines.device.gpu_space", space)
    values = texture((32, 32, 32), 2.0)
    mask = np.ones(values.shape, bool)
    mask[:3] = False
    pair = [image(v, mask=mask) for v in (values, np.roll(values, 1, axis=1))]
    options = {"metric": metric, "stride": 1 + finest, "stiffness": [0.01]}
    local_correlation(*pair, device="cuda", iterations=1, **options)  # loads kernels
    before.clear()
    tracemalloc.start()
    try:
        local_correlation(*pair, device="cuda", iterations=2, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0.5 < (peak - before[0]) / (values.size * DEVICE_BYTES[finest]) < 1
