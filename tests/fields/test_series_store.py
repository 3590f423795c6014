"""The field of a time series is written to a store, and comes back."""

import json
import shutil

import numpy as np
import pytest
import xarray as xr
import zarr

import xdreg

SHIFTS = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def series():
    still = xdreg.datasets.phantom_pair((48, 56)).fixed.compute()
    frames = [still.shift(x=k, fill_value=0) for k in SHIFTS]
    series = xr.concat(frames, "t").assign_coords({d: still[d] for d in "yx"})
    return series.assign_coords(t=("t", np.arange(4) * 0.5, {"units": "second"}))


@pytest.fixture(scope="module")
def motion(series):
    return series.dreg.stabilize(progress=False)


DATES = np.array(["2026-01-01", "2026-01-03", "2026-01-04", "2026-02-01"], "M8[ns]")


@pytest.mark.parametrize("times", [None, DATES, DATES - DATES[0], np.arange(4)])
def test_a_series_comes_back_to_the_bit(series, motion, tmp_path, times):
    if times is not None:
        series, motion = (data.assign_coords(t=times) for data in (series, motion))
    path = tmp_path / "motion.zarr"
    motion.dreg.to_ome_zarr(path, progress=False)
    back = xdreg.open_field(path)
    assert back.displacement.chunks is not None
    assert back.t.dtype == motion.t.dtype
    xr.testing.assert_identical(back.load(), motion)
    xr.testing.assert_identical(back.dreg.warp(series), motion.dreg.warp(series))
    frame = tmp_path / "frame.ome.zarr"
    xdreg.save(back.isel(t=3), frame, progress=False)
    np.testing.assert_array_equal(
        xdreg.open_field(frame).displacement, motion.displacement[3]
    )


def test_fields_of_deformable_stages_come_back(series, tmp_path):
    stages = ["translation", xdreg.LocalCorrelation(level=0, search=False)]
    motion = series[:3].drop_vars("t").dreg.stabilize(stages=stages, progress=False)
    xdreg.save(motion, tmp_path / "motion.zarr", progress=False)
    back = xdreg.open_field(tmp_path / "motion.zarr")
    xr.testing.assert_identical(back.load(), motion.load())


def test_a_url_holds_a_series(motion):
    url = "memory://series/motion.zarr"
    xdreg.save(motion, url, progress=False)
    xr.testing.assert_identical(xdreg.open_field(url).load(), motion)
    xdreg.save(motion, url, overwrite=True, progress=False)


def test_a_series_is_replaced_and_nothing_else(motion, tmp_path):
    path = tmp_path / "motion.zarr"
    xdreg.save(motion, path, progress=False)
    with pytest.raises(xdreg.StoreError, match=r"exists.*overwrite=True"):
        xdreg.save(motion, path, progress=False)
    xdreg.save(motion.isel(t=slice(2)), path, overwrite=True, progress=False)
    assert xdreg.open_field(path).sizes["t"] == 2
    (path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(xdreg.StoreError, match=r"notes\.txt"):
        xdreg.save(motion, path, overwrite=True, progress=False)
    (path / "notes.txt").unlink()
    back = xdreg.open_field(path)
    with pytest.raises(xdreg.StoreError, match="is an input, which is read"):
        xdreg.save(back, path, overwrite=True, progress=False)


def test_options_for_a_pair_are_refused(motion, tmp_path):
    for options in ({"affine": True}, {"inverse": motion}):
        with pytest.raises(xdreg.InputError, match=r"time series; .*isel\(t=0\)"):
            xdreg.save(motion, tmp_path / "motion.zarr", **options)
    xdreg.save(motion, tmp_path / "motion.zarr", progress=False)
    for options in ({"inverse": True}, {"name": "a"}, {"like": motion.isel(t=0)}):
        with pytest.raises(xdreg.InputError, match="of a time series"):
            xdreg.open_field(tmp_path / "motion.zarr", **options)


def test_a_damaged_series_is_refused(motion, tmp_path):
    path = tmp_path / "motion.zarr"
    xdreg.save(motion, path, progress=False)

    def damaged(change):
        broken = tmp_path / "broken.zarr"
        shutil.rmtree(broken, ignore_errors=True)
        shutil.copytree(path, broken)
        change(zarr.open_group(broken, mode="r+"), broken)
        with pytest.raises(xdreg.StoreError, match=r"broken\.zarr"):
            xdreg.open_field(broken)

    damaged(lambda group, _: group["xdreg"].attrs.update(field_grid="{}"))
    damaged(lambda group, _: group["xdreg/status"].attrs.update(dtype="O"))
    damaged(lambda group, _: group["xdreg/t"].attrs.update(attrs=json.dumps(3)))
    damaged(lambda group, _: group.attrs.update(xdreg_series=7))
    damaged(lambda _, folder: shutil.rmtree(folder / "xdreg" / "displacement"))
    damaged(lambda group, _: group["xdreg/score"].resize((9,)))


def test_the_commands_know_a_series(series, motion, tmp_path, xdreg_command):
    xdreg.save(motion, tmp_path / "motion.zarr", progress=False)
    xdreg.save(series, tmp_path / "series.ome.zarr", progress=False)
    assert "frames  4: 4 success" in repr(motion.dreg)
    code, out, err = xdreg_command("info", tmp_path / "motion.zarr")
    assert code == 0, err
    assert "4 success" in out
    code, out, _ = xdreg_command("info", tmp_path / "motion.zarr", "--json")
    assert json.loads(out)["frames"] == {"success": 4}
    names = [tmp_path / name for name in ("motion.zarr", "series.ome.zarr", "still")]
    code, _, err = xdreg_command("warp", *names[:2], "-o", names[2])
    assert code == 0, err
    still = xdreg.open_ome_zarr(names[2], level=0)
    np.testing.assert_array_equal(still, motion.dreg.warp(series))
