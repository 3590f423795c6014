"""Stores that misbehave: each fault costs at most the blocks it touches."""

import shutil
import warnings

import numpy as np
import pytest

import xdreg
from tests.helpers.servers import serving
from xdreg.partition import BlockStatus
from xdreg.stores import retrying

SHAPE, BLOCK = (576, 576), 144
CHUNK = "0/c/1/2"
OPTIONS = {
    "stages": [xdreg.LocalCorrelation(level=0, iterations=3, metric="lncc")],
    "block_shape": BLOCK,
    "overlap": 4,
    "progress": False,
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.01)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Write a pair in chunks of blocks; return the folder."""
    folder = tmp_path_factory.mktemp("sound")
    pair = xdreg.datasets.phantom_pair(SHAPE, amplitude=1.0)
    for name in ("fixed", "moving"):
        image = getattr(pair, name).compute()
        xdreg.save(image, folder / f"{name}.zarr", chunks=BLOCK, levels=2)
    return folder


@pytest.fixture(scope="module")
def whole(sound):
    """Return the field of the undamaged pair."""
    return quietly(*opened(sound / "fixed.zarr", sound / "moving.zarr")).load()


@pytest.fixture
def pair(sound, tmp_path):
    """Copy the pair; return the paths."""
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    return tmp_path / "fixed.zarr", tmp_path / "moving.zarr"


def opened(*paths, **options):
    return [xdreg.open_ome_zarr(path, **options) for path in paths]


def quietly(*images, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return xdreg.register(*images, **OPTIONS | options)


def blocks(field, status):
    found = np.argwhere(field.block_status.values == status)
    return {tuple(int(i) for i in index) for index in found}


def spoil(path, how):
    data = path.read_bytes()
    if how == "corrupt":
        path.write_bytes(bytes(255 - byte for byte in data[:40]) + data[40:])
    elif how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "directory":
        path.unlink()
        path.mkdir()


def test_a_missing_chunk_is_the_fill_value(pair):
    (pair[0] / CHUNK).unlink()
    fixed, moving = opened(*pair)
    part = fixed["scale0/image"][144:288, 288:432]
    assert (part == 0).all()
    assert not blocks(quietly(fixed, moving), BlockStatus.UNREADABLE)


@pytest.mark.parametrize("how", ["corrupt", "truncated", "empty"])
def test_a_damaged_chunk_costs_the_blocks_that_need_it(pair, whole, how, monkeypatch):
    assert (whole.block_status == BlockStatus.SUCCESS).mean() > 0.9
    spoil(pair[0] / CHUNK, how)
    # The block itself, and those whose overlap reaches into it.
    monkeypatch.setattr("xdreg.registration.register_block.MOST_UNREADABLE", 0.6)
    with pytest.warns(
        UserWarning, match=r"9 of 16 blocks .* could not be read: \(0, 1"
    ):
        field = xdreg.register(*opened(*pair), **OPTIONS)
    expected = {(i, j) for i in (0, 1, 2) for j in (1, 2, 3)}
    assert blocks(field, BlockStatus.UNREADABLE) == expected
    assert np.isfinite(field.displacement.values).all()
    assert "unreadable" in field.block_status.attrs["flag_meanings"]
    far = (slice(None), slice(None), slice(0, 60))
    np.testing.assert_array_equal(
        field.displacement.values[far], whole.displacement.values[far]
    )


def test_too_many_stop_the_run_and_the_rest_is_kept(pair, whole, tmp_path):
    good = (pair[0] / CHUNK).read_bytes()
    spoil(pair[0] / CHUNK, "truncated")
    images = opened(*pair)
    run = tmp_path / "run"
    with pytest.raises(xdreg.StoreError, match="blocks cannot be read, more than 25%"):
        quietly(*images, workdir=run)
    kept = {p.name for p in run.glob("stage_00/patches/*.0.0.0")}
    assert kept
    times = {
        name: (run / "stage_00/patches" / name).stat().st_mtime_ns for name in kept
    }
    (pair[0] / CHUNK).write_bytes(good)
    field = quietly(*images, workdir=run)
    np.testing.assert_array_equal(field.displacement, whole.displacement)
    for name, time in times.items():
        assert (run / "stage_00/patches" / name).stat().st_mtime_ns == time


@pytest.mark.parametrize("answers", [[500], [503, 500, 429], ["cut"], ["garbage"]])
def test_a_server_that_recovers_costs_nothing(pair, whole, tmp_path, answers):
    pytest.importorskip("aiohttp")
    with serving(tmp_path) as (url, faults):
        images = opened(f"{url}/fixed.zarr", f"{url}/moving.zarr")
        faults.answers = {CHUNK: list(answers), "moving.zarr/0/c/3/3": [500]}
        field = quietly(*images)
    np.testing.assert_array_equal(field.displacement, whole.displacement)
    assert sum(CHUNK in path for path in faults.asked) > len(answers)


def test_a_server_that_hangs_is_asked_again(pair, tmp_path):
    aiohttp = pytest.importorskip("aiohttp")
    options = {"client_kwargs": {"timeout": aiohttp.ClientTimeout(sock_read=0.3)}}
    with serving(tmp_path) as (url, faults):
        images = opened(
            f"{url}/fixed.zarr", f"{url}/moving.zarr", storage_options=options
        )
        faults.answers = {CHUNK: ["hang", "hang"]}
        field = quietly(*images)
    assert not blocks(field, BlockStatus.UNREADABLE)


@pytest.mark.parametrize("answer", [500, 403, "cut"])
def test_a_server_that_does_not_recover_costs_its_blocks(pair, tmp_path, answer):
    pytest.importorskip("aiohttp")
    corner = "fixed.zarr/0/c/0/0"
    with serving(tmp_path) as (url, faults):
        images = opened(f"{url}/fixed.zarr", f"{url}/moving.zarr")
        faults.answers = {corner: answer}
        with pytest.warns(UserWarning, match="4 of 16 blocks .* could not be read"):
            field = xdreg.register(*images, **OPTIONS)
    assert blocks(field, BlockStatus.UNREADABLE) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    # Five times for each look, unless the answer is that it may not be read.
    assert sum(corner in path for path in faults.asked) < (20 if answer == 403 else 100)


def test_a_coarse_look_does_without_a_damaged_part(pair):
    spoil(pair[0] / "1/c/0/1", "truncated")
    stages = [xdreg.Translation(metric="lncc")]
    with pytest.warns(UserWarning, match="cannot be read: .*; it is masked out"):
        field = xdreg.register(*opened(*pair), **OPTIONS | {"stages": stages})
    assert field.block_status.values.item() == BlockStatus.SUCCESS
