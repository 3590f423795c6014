"""Drift of time series: references, frames that do not count, smoothing, warping."""

import warnings

import dask
import numpy as np
import pytest
import scipy.ndimage
import xarray as xr

import xdreg
from xdreg.coordinates import coordinates
from xdreg.fields.field import is_field
from xdreg.grid import Grid
from xdreg.registration.motion_path import judge_frames, time_weights

SHAPE, MARGIN, COUNT = (80, 96), 12, 12
GRID = Grid(("y", "x"), SHAPE, (2.0, 1.0), (5.0, -3.0), "micrometer")
SHIFTS = np.stack([np.sin(np.arange(COUNT) / 4), np.arange(COUNT) / 3], 1) * [3.0, 1.0]
SHIFTS -= SHIFTS[0]


@pytest.fixture(scope="module")
def still():
    """Return the values of a wide phantom."""
    wide = tuple(n + 2 * MARGIN for n in SHAPE)
    return xdreg.datasets.phantom_pair(wide, noise=0).fixed.values.astype(np.float32)


def frames_of(still, shifts=SHIFTS, noise=0.03):
    """Return frames that drift by shifts in voxels."""
    rng, inner = np.random.default_rng(3), (slice(MARGIN, -MARGIN),) * 2
    moved = [scipy.ndimage.shift(still, shift, order=3)[inner] for shift in shifts]
    noises = rng.standard_normal((len(moved), *SHAPE)) * noise * still.max()
    return (np.stack(moved) + noises).astype(np.float32)


def series_of(frames, times=None):
    """Return frames as a time series of two channels."""
    both = np.stack([frames, frames[::-1]], 1)
    series = xr.DataArray(both, coordinates(GRID), ("t", "c", *GRID.dims))
    series = series.assign_coords(c=["still", "other"])
    return series if times is None else series.assign_coords(t=times)


def errors(motion, truth=SHIFTS):
    """Return the errors of shifts, in voxels."""
    found = motion.matrix.values[:, :2, 2] / GRID.spacing
    return np.linalg.norm(found - truth, axis=1)


@pytest.mark.parametrize("reference", [0, 4, -1, "mean", "previous"])
def test_drift_is_found_from_every_reference(still, reference):
    series = series_of(frames_of(still), np.arange(COUNT) * 0.5)
    motion = series.dreg.stabilize(reference=reference, channel="still", progress=False)
    first = SHIFTS[reference] if isinstance(reference, int) else 0
    assert errors(motion, SHIFTS - first).mean() < (
        0.1 if reference != "previous" else 0.2
    )
    assert (motion.status == 0).all()
    np.testing.assert_array_equal(motion.t, series.t)
    assert motion.matrix.dims == ("t", "row", "column")
    assert is_field(motion.isel(t=3))
    point = motion.isel(t=3).dreg.transform_points([[50.0, 20.0]])
    np.testing.assert_allclose(
        point - [[50.0, 20.0]], motion.matrix[3, :2, 2].values[None], atol=1e-4
    )


def test_large_shifts_are_found(still):
    shifts = np.array([[0, 0], [9.3, -10.4], [-11.0, 7.7], [0.2, 11.1]])
    motion = series_of(frames_of(still, shifts)).dreg.stabilize(
        channel=0, progress=False
    )
    assert errors(motion, shifts).max() < 0.2


def test_all_times_and_channels_are_warped(still, tmp_path):
    series = series_of(frames_of(still, noise=0), np.arange(COUNT) * 2.0)
    series = xr.concat([series.isel(c=0, drop=True)] * 2, "c").transpose("t", "c", ...)
    for dim in GRID.dims:
        series[dim].attrs = {"units": "micrometer"}
    motion = series.dreg.stabilize(channel=0, progress=False)
    warped = motion.dreg.warp(series)
    assert warped.dims == series.dims
    inner = {"y": slice(12, -12), "x": slice(12, -12)}
    before, after = (
        float(np.abs(image - series[0]).isel(inner).mean())
        for image in (series, warped)
    )
    assert after < 0.15 * before
    np.testing.assert_array_equal(warped.t, series.t)
    motion.dreg.warp_to(series, tmp_path / "still.ome.zarr", progress=False)
    stored = xdreg.open_ome_zarr(tmp_path / "still.ome.zarr", level=0)
    np.testing.assert_array_equal(stored, warped)
    np.testing.assert_array_equal(stored.t, series.t)
    one = motion.isel(t=5).dreg.warp(series.isel(t=5))
    np.testing.assert_array_equal(one, warped[5])


def test_frames_that_do_not_count_take_the_transform_of_their_neighbours(still):
    frames = frames_of(still)
    frames[3] = 0
    frames[7] = scipy.ndimage.gaussian_filter(frames[7], 8)
    frames[7] += np.random.default_rng(1).standard_normal(SHAPE) * 900
    frames[11] = np.nan
    for reference in (0, "mean", "previous"):
        with pytest.warns(UserWarning, match="3 empty, 7 rejected, 11 empty"):
            motion = series_of(frames).dreg.stabilize(
                reference=reference, channel=0, progress=False
            )
        off = errors(motion)
        assert off[[3, 7]].max() < 0.5
        assert off[11] < 1
        assert np.delete(off, 11).mean() < 0.3
        np.testing.assert_array_equal(
            motion.matrix[11].values.round(6), motion.matrix[10].values.round(6)
        )


def test_the_first_frame_may_be_empty(still):
    frames = frames_of(still)
    frames[0] = 5
    with pytest.raises(xdreg.InputError, match=r"frame 0, the reference, is empty"):
        series_of(frames).dreg.stabilize(channel=0, progress=False)
    for reference in ("mean", "previous"):
        with pytest.warns(UserWarning, match="0 empty"):
            motion = series_of(frames).dreg.stabilize(
                reference=reference, channel=0, progress=False
            )
        assert errors(motion, SHIFTS - SHIFTS[1])[1:].mean() < 0.3


def test_a_jump_is_believed(still):
    shifts = SHIFTS + np.where(np.arange(COUNT)[:, None] > 6, [7.0, -8.0], 0)
    motion = series_of(frames_of(still, shifts)).dreg.stabilize(
        channel=0, progress=False
    )
    assert (motion.status == 0).all()
    assert errors(motion, shifts).max() < 0.3


def test_a_frame_astray_is_rejected():
    matrices = np.stack([np.eye(3)] * 9)
    matrices[:, 0, 2] = np.linspace(0, 2, 9)
    matrices[4, 1, 2] = 30.0
    scores, status = np.full(9, 0.8), np.zeros(9, int)
    scores[4] = 0.6
    found = judge_frames(matrices, scores, status, GRID)
    assert np.flatnonzero(found.doubtful).tolist() == [4]
    scores[4] = 0.8
    assert not judge_frames(matrices, scores, status, GRID).doubtful.any()
    scores[4] = 0.2
    assert found.status[4] == 0
    assert judge_frames(matrices, scores, status, GRID).status[4] != 0


def test_smoothing_removes_jitter_and_keeps_a_steady_drift(still):
    rng = np.random.default_rng(0)
    times = np.linspace(0, 6, COUNT)
    line = np.arange(COUNT)[:, None] * [0.2, -0.3]
    jitter = rng.normal(0, 0.4, line.shape)
    series = series_of(frames_of(still, line + jitter), times)
    own = series.dreg.stabilize(channel=0, progress=False)
    smooth = series.dreg.stabilize(channel=0, progress=False, smooth=1.5)
    offset = (jitter[0], jitter.mean(axis=0))
    assert errors(own, line + jitter - offset[0]).mean() < 0.1
    assert errors(smooth, line + offset[1] - offset[0]).mean() < 0.25
    weights = time_weights(times, np.ones(COUNT, bool), 1.5)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    np.testing.assert_allclose(weights @ times, times, atol=1e-9)


def test_missing_frames_are_interpolated_in_time():
    times, good = np.array([0.0, 1.0, 5.0, 6.0, 9.0]), np.array([1, 0, 1, 1, 0], bool)
    weights = time_weights(times, good, None)
    np.testing.assert_allclose(weights @ times, [0, 1, 5, 6, 6])
    assert not weights[:, ~good].any()
    assert not time_weights(times, good, 0.5)[:, ~good].any()


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_the_scheduler_makes_no_difference(still, scheduler):
    series = series_of(frames_of(still, SHIFTS[:4]))
    direct = series.dreg.stabilize(channel=0, reference="mean", progress=False)
    with dask.config.set(scheduler=scheduler, num_workers=2):
        found = series.dreg.stabilize(channel=0, reference="mean", progress=False)
    xr.testing.assert_identical(found, direct)


def test_rigid_motion_is_found(still):
    inner = (slice(MARGIN, -MARGIN),) * 2
    frames = [
        scipy.ndimage.rotate(still, angle, reshape=False, order=3)[inner]
        for angle in (0, 1.5, -2, 3, 2, 0.5)
    ]
    grid = Grid(GRID.dims, SHAPE, (1.0, 1.0), (0.0, 0.0), "micrometer")
    series = xr.DataArray(np.stack(frames), coordinates(grid), ("t", *grid.dims))
    motion = series.dreg.stabilize(stages="rigid", smooth=None, progress=False)
    turns = np.degrees(np.arcsin(motion.matrix.values[:, 1, 0]))
    np.testing.assert_allclose(np.abs(turns), [0, 1.5, 2, 3, 2, 0.5], atol=0.1)
    warped = motion.dreg.warp(series)
    part = {"y": slice(15, -15), "x": slice(15, -15)}
    gap = np.abs(warped - series[0]).isel(part)
    assert gap.mean() < 0.2 * np.abs(series - series[0]).isel(part).mean()


def test_levels_of_a_store_are_used(still, tmp_path):
    series = series_of(frames_of(still), np.arange(COUNT) * 1.0)
    xdreg.save(series, tmp_path / "series.ome.zarr")
    stored = xdreg.open_ome_zarr(tmp_path / "series.ome.zarr")
    stages = [xdreg.Translation(level=1)]
    motion = stored.dreg.stabilize(stages=stages, channel="still", progress=False)
    assert errors(motion).mean() < 0.15
    memory = series.dreg.stabilize(stages=stages, channel="still", progress=False)
    np.testing.assert_allclose(motion.matrix, memory.matrix, atol=0.05)


def flickering(still, shifts=SHIFTS):
    """Return frames with a bright bar that stays, and where there is none."""
    series = series_of(frames_of(still, shifts)).isel(c=0, drop=True)
    counted = xr.ones_like(series[0], dtype=bool)
    counted[20:50, 30:70] = False
    waves = np.random.default_rng(5).uniform(0.5, 9, SHAPE) * float(series.max())
    return series.where(counted, waves.astype(np.float32)), counted


@pytest.mark.parametrize("reference", [0, "mean", "previous"])
def test_voxels_outside_the_mask_do_not_count(still, reference):
    series, counted = flickering(still)
    options = {"reference": reference, "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of frames that do not count
        assert errors(series.dreg.stabilize(**options)).mean() > 1
    each = counted.expand_dims(t=COUNT)
    motion = series.dreg.stabilize(mask=counted, **options)
    assert errors(motion).mean() < (0.15 if reference != "previous" else 0.4)
    for same in (
        series.dreg.stabilize(mask=each, **options),
        series.where(counted).dreg.stabilize(**options),
    ):
        np.testing.assert_array_equal(same.matrix, motion.matrix)
    with pytest.warns(UserWarning, match="neighbours: 5 empty"):
        apart = series.dreg.stabilize(mask=each & (each.t != 5), **options)
    assert np.flatnonzero(apart.status).tolist() == [5]


def test_luminance_is_registered_to_the_mean(still):
    series = series_of(frames_of(still, SHIFTS[:4])).isel(c=0, drop=True)
    grey = xr.concat([series] * 3, "c").transpose("t", "c", ...)
    for dim in GRID.dims:
        grey[dim].attrs = series[dim].attrs
    stages = ["translation", xdreg.LocalCorrelation(level=0, search=False)]
    options = {"stages": stages, "reference": "mean", "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NaN in the mean
        found = grey.dreg.stabilize(channel="luminance", **options)
        alone = series.dreg.stabilize(**options)
    np.testing.assert_allclose(found.displacement, alone.displacement, atol=0.1)


@pytest.mark.parametrize("reference", [1, "mean"])
def test_masks_count_in_deformable_stages(still, reference, tmp_path):
    series, counted = flickering(still, SHIFTS[:4])
    stages = ["translation", xdreg.LocalCorrelation(level=0, search=False)]
    options = {"stages": stages, "reference": reference, "progress": False}
    options |= {"workdir": tmp_path / "run"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NaN in the mean
        motion = series.dreg.stabilize(mask=counted, **options)
        unknown = series.where(counted).dreg.stabilize(
            **options | {"workdir": tmp_path / "unknown"}
        )
        np.testing.assert_array_equal(motion.displacement, unknown.displacement)
        every = series.dreg.stabilize(**options | {"workdir": tmp_path / "every"})
        assert float(np.abs(motion.displacement - every.displacement).max()) > 0.5
        with pytest.raises(xdreg.InputError, match="fresh=True"):
            series.dreg.stabilize(mask=counted | (counted.x > 60), **options)
    if reference == "mean":
        mean = xdreg.open_ome_zarr(tmp_path / "run" / "mean_1.ome.zarr", level=0)
        assert float(mean.max()) <= float(series.where(counted).max())


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (lambda s: "auto", "mask must be an image, or None"),
        (lambda s: False, "mask must be an image, or None"),
        (lambda s: np.ones(SHAPE), "mask is an array without physical coordinates"),
        (lambda s: xr.zeros_like(s), "mask is zero everywhere"),
        (lambda s: xr.ones_like(s)[:3], "3 time points and series 4"),
        (lambda s: xr.ones_like(s).assign_coords(t=[0, 1, 2, 5]), "or other times"),
        (lambda s: xr.ones_like(s)[0, :50], "mask must cover its image"),
        (lambda s: xr.ones_like(s).expand_dims(c=2), "mask has 2 channels"),
    ],
)
def test_masks_that_do_not_fit_are_refused(still, mask, words):
    series = series_of(frames_of(still, SHIFTS[:4]), np.arange(4)).isel(c=0, drop=True)
    with pytest.raises(xdreg.InputError, match=words):
        series.dreg.stabilize(mask=mask(series), progress=False)


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (lambda s: s.isel(t=0), {}, "no axis t"),
        (lambda s: s.isel(t=[0]), {}, "one frame; a series has several"),
        (lambda s: s.assign_coords(t=list("abcd")), {}, "must ascend.*drop_vars"),
        (lambda s: s.assign_coords(t=[0, 2, 1, 3]), {}, "must ascend.*sortby"),
        (lambda s: s.assign_coords(t=[0, 1, np.nan, 3]), {}, "must ascend"),
        (
            lambda s: s.assign_coords(t=np.array(["2026-01-02", "NaT"] * 2, "M8[ns]")),
            {},
            r"must ascend, got \['2026-01-02T.*'NaT'",
        ),
        (lambda s: s, {"channel": None}, "2 channels; choose one"),
        (lambda s: s, {"channel": "DAPI"}, "no channel 'DAPI'"),
        (lambda s: s, {"channel": "all"}, "by one channel"),
        (lambda s: s, {"reference": 4}, "number of one of 4 frames"),
        (lambda s: s, {"reference": "first"}, "'previous' or 'mean'; got 'first'"),
        (lambda s: s, {"reference": True}, "got True"),
        (lambda s: s, {"workdir": "run"}, "keeps deformable stages, and there is none"),
        (lambda s: s, {"fresh": True}, "name its directory"),
        (lambda s: s, {"smooth": 0}, "smooth must be a time above zero"),
        (lambda s: s, {"smooth": "2 s"}, "smooth must be"),
        (lambda s: s, {"stages": xdreg.Rigid(metric="ncc")}, "lncc and mind"),
        (lambda s: s, {"stages": xdreg.Rigid(level=9)}, "share one level, of 0 to"),
        (
            lambda s: s,
            {"stages": [xdreg.LocalCorrelation(), "rigid"]},
            "put linear stages first",
        ),
        (
            lambda s: s,
            {"stages": ["rigid", "local_correlation"], "reference": "previous"},
            "one reference.*reference='mean'",
        ),
    ],
)
def test_what_does_not_fit_is_refused(still, change, options, words):
    series = change(series_of(frames_of(still, SHIFTS[:4])))
    with pytest.raises(xdreg.InputError, match=words):
        xdreg.stabilize(series, progress=False, **{"channel": 0} | options)


def test_a_field_of_a_series_is_for_its_own_times(still):
    series = series_of(frames_of(still, SHIFTS[:4]), np.arange(4.0))
    motion = series.dreg.stabilize(channel=0, progress=False)
    with pytest.raises(xdreg.InputError, match="4 time points and moving 3"):
        motion.dreg.warp(series.isel(t=slice(3)))
    with pytest.raises(xdreg.InputError, match="other times"):
        motion.dreg.warp(series.assign_coords(t=series.t + 1))
    with pytest.raises(xdreg.InputError, match=r"4 time points; choose one.*isel"):
        motion.dreg.inverse()
    empty = series.copy(data=np.zeros(series.shape, np.float32))
    empty[0] = series[0]
    with pytest.raises(xdreg.MethodError, match=r"no frame could be registered.*empty"):
        xdreg.stabilize(empty, channel=0, reference="previous", progress=False)


@pytest.mark.parametrize("reference", [1, "mean"])
def test_deformable_stages_follow_in_blocks_and_are_resumed(still, reference, tmp_path):
    y, x = np.meshgrid(*map(np.arange, still.shape), indexing="ij")
    inner = (slice(MARGIN, -MARGIN),) * 2
    frames = []
    for k in (0.0, 1.0, 0.0, 2.0):
        wave = k * np.sin(x / 15), k * np.cos(y / 15)
        places = np.stack([y + wave[0] + 2 * k, x + wave[1]])
        frames.append(scipy.ndimage.map_coordinates(still, places, order=3)[inner])
    frames[2] = np.zeros(SHAPE)
    series = series_of(np.stack(frames).astype(np.float32)).isel(c=0, drop=True)
    stages = ["translation", xdreg.LocalCorrelation(level=0, search=False)]
    options = {"stages": stages, "reference": reference, "workdir": tmp_path / "run"}
    with pytest.warns(UserWarning, match="2 empty$"):
        motion = series.dreg.stabilize(**options, progress=False)
    assert motion.displacement.dims == ("t", "component", "y", "x")
    assert motion.displacement.chunks is not None
    warped = motion.dreg.warp(series)
    goal = warped[0] if reference == "mean" else series[1]
    part = {"y": slice(12, -12), "x": slice(12, -12)}
    for k in (1, 3):
        gaps = [float(np.abs(v[k] - goal).isel(part).mean()) for v in (series, warped)]
        assert gaps[1] < 0.4 * gaps[0] or gaps[0] == 0, k
    between = (motion.displacement[1] + motion.displacement[3]) / 2
    np.testing.assert_allclose(motion.displacement[2], between, atol=1e-4)
    records = [*(tmp_path / "run").glob("frames_*/rounds/*/*/records/*")]
    assert len({path.parents[2].name for path in records}) == 2 + (reference == "mean")
    then = [path.stat().st_mtime_ns for path in records]
    with pytest.warns(UserWarning, match="2 empty"):
        again = series.dreg.stabilize(**options, progress=False)
    assert [path.stat().st_mtime_ns for path in records] == then
    np.testing.assert_array_equal(again.displacement, motion.displacement)
    with pytest.raises(xdreg.InputError, match="fresh=True"):
        (series + 1).dreg.stabilize(**options, progress=False)
