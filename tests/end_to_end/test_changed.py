"""Images that are written anew between two calls, or during one."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import time

import dask
import itk
import numpy as np
import pytest
import zarr

import xdreg
from xdreg.fields import warp_to
from xdreg.registration import register_block

STAGES = [xdreg.LocalCorrelation(level=0, iterations=2, metric="lncc")]
OPTIONS = {"stages": STAGES, "block_shape": 64, "progress": False}


@pytest.fixture(scope="module")
def phantom():
    pair = xdreg.datasets.phantom_pair((96, 112), amplitude=2.0)
    mask = (pair.fixed.compute() > 0).astype("uint8")
    return pair.fixed.compute(), pair.moving.compute(), mask


@pytest.fixture
def stores(phantom, tmp_path):
    """Write the pair and a mask, with two levels; return the folder."""
    for name, image in zip(("fixed", "moving", "mask"), phantom, strict=True):
        options = {"chunks": 32, "levels": 2, "progress": False}
        xdreg.save(image, tmp_path / f"{name}.zarr", **options)
    time.sleep(0.02)
    return tmp_path


def opened(folder, *names):
    return [xdreg.open_ome_zarr(folder / f"{name}.zarr") for name in names]


def rewrite(store, part=(slice(None), slice(None)), level=0):
    array = zarr.open_group(store, mode="r+")[str(level)]
    array[part] = array[part][::-1]


def registered(folder, work="run", **more):
    fixed, moving = opened(folder, "fixed", "moving")
    workdir = None if work is None else folder / work
    return xdreg.register(fixed, moving, workdir=workdir, **OPTIONS | more)


CHANGES = {
    "fixed": lambda folder: rewrite(folder / "fixed.zarr"),
    "moving": lambda folder: rewrite(folder / "moving.zarr", np.s_[40:44, 40:44]),
    "moving, coarse": lambda folder: rewrite(folder / "moving.zarr", level=1),
    "fixed_mask": lambda folder: rewrite(folder / "mask.zarr", np.s_[:32, :32]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_image_is_refused_by_name(change, stores):
    def run():
        registered(stores, fixed_mask=opened(stores, "mask")[0])

    run()
    CHANGES[change](stores)
    name = change.partition(",")[0]
    with pytest.raises(xdreg.InputError, match=rf"differs: {name}: .*: fresh=True$"):
        run()


def test_fresh_starts_anew(stores):
    registered(stores)
    rewrite(stores / "moving.zarr")
    (stores / "run" / "notes.txt").write_text("mine")
    found = registered(stores, fresh=True).displacement.values
    np.testing.assert_array_equal(found, registered(stores, None).displacement)
    np.testing.assert_array_equal(found, registered(stores).displacement)
    assert (stores / "run" / "notes.txt").read_text("utf-8") == "mine"


def test_a_store_may_be_moved_and_named_in_another_way(stores, monkeypatch):
    first = registered(stores).displacement.values
    before = (stores / "run/stage_00/records/0.0.0").stat().st_mtime_ns
    shutil.move(stores / "fixed.zarr", stores / "away.zarr")
    (stores / "fixed.zarr").symlink_to("away.zarr")
    shutil.copytree(stores / "moving.zarr", stores / "copy.zarr")
    shutil.rmtree(stores / "moving.zarr")
    (stores / "copy.zarr").rename(stores / "moving.zarr")
    monkeypatch.chdir(stores)
    fixed, moving = (xdreg.open_ome_zarr(f"{n}.zarr") for n in ("fixed", "moving"))
    again = xdreg.register(fixed, moving, workdir="run", **OPTIONS)
    np.testing.assert_array_equal(again.displacement, first)
    assert (stores / "run/stage_00/records/0.0.0").stat().st_mtime_ns == before


def test_a_plan_that_runs_later(stores):
    late = registered(stores, compute=False)
    rewrite(stores / "moving.zarr")
    with pytest.raises(xdreg.InputError, match=r"differs: moving: .*fresh=True"):
        late.compute()
    want = registered(stores, None).displacement
    late = registered(stores, None, compute=False)
    np.testing.assert_array_equal(late.compute().displacement, want)


def test_an_image_that_is_written_during_the_run(stores, monkeypatch):
    done, real = [], register_block._register

    def writes_once(index, task):
        if not done:
            done.append(rewrite(stores / "moving.zarr"))
        return real(index, task)

    monkeypatch.setattr(register_block, "_register", writes_once)
    with (
        dask.config.set(scheduler="synchronous"),
        pytest.raises(xdreg.InputError, match=r"written after .*differs: moving"),
    ):
        registered(stores, None)


def scale(source):
    """Write a stored field anew, twice as large."""
    (document,) = (
        path
        for path in source.rglob("zarr.json")
        if json.loads(path.read_text("utf-8"))["node_type"] == "array"
        and (path.parent.name == "field" or "displacement" in str(path.parent))
    )
    array = zarr.open_array(document.parent, mode="r+")
    array[:] = 2 * array[:]


@pytest.mark.parametrize("kind", ["store", "run", "composed"])
def test_a_changed_initial_field_is_refused(kind, stores):
    field = registered(stores, "first")
    source = stores / ("first" if kind == "run" else "start.zarr")
    if kind != "run":
        xdreg.save(field, source, progress=False)

    def run():
        if kind == "run":
            initial = registered(stores, "first")
        else:
            initial = xdreg.open_field(source)
        if kind == "composed":
            initial = xdreg.compose(initial, np.eye(3))
        return registered(stores, initial=initial)

    run()
    # A run that is whole does not write its field again.
    run()
    scale(source)
    with pytest.raises(xdreg.InputError, match="differs: initial: "):
        run()


def test_a_file_that_itk_reads(tmp_path, phantom):
    for name, image in zip(("fixed", "moving"), phantom, strict=False):
        itk.imwrite(xdreg.to_itk_image(image), tmp_path / f"{name}.nrrd")

    def run():
        images = [xdreg.open_image(tmp_path / f"{n}.nrrd") for n in ("fixed", "moving")]
        return xdreg.register(*images, workdir=tmp_path / "run", **OPTIONS)

    run()
    itk.imwrite(xdreg.to_itk_image(phantom[1] + 1), tmp_path / "moving.nrrd")
    with pytest.raises(xdreg.InputError, match=r"differs: moving: .*moving.nrrd"):
        run()


RESUMED = """
    import sys, warnings
    import xdreg
    from pathlib import Path
    from tests.end_to_end.test_changed import registered
    field = registered(Path(sys.argv[1]))
    print(field.displacement.values.tobytes().hex())
"""


def test_another_process_resumes(stores):
    """With another seed of hashes, and after all files were read."""
    first = registered(stores).displacement.values
    records = stores / "run" / "stage_00" / "records"
    (records / "0.0.0").unlink()
    kept = (records / "0.1.0").stat().st_mtime_ns
    out = subprocess.check_output(
        [sys.executable, "-c", textwrap.dedent(RESUMED), stores],
        env=os.environ | {"PYTHONHASHSEED": "7"},
        encoding="utf-8",
    )
    assert out.strip() == first.tobytes().hex()
    assert (records / "0.1.0").stat().st_mtime_ns == kept


def test_a_cluster_keeps_no_old_results(stores):
    """Results that are kept by name are not taken for those of the new voxels."""
    distributed = pytest.importorskip("distributed")
    settings = {"processes": False, "dashboard_address": None}
    with distributed.Client(n_workers=1, threads_per_worker=2, **settings) as client:
        moving = opened(stores, "moving")[0]["scale0/image"]
        kept = client.persist(moving), client.persist(registered(stores).displacement)
        distributed.wait(kept)
        rewrite(stores / "moving.zarr")
        again = opened(stores, "moving")[0]["scale0/image"].values
        np.testing.assert_array_equal(again, moving.values[::-1])
        field = registered(stores, fresh=True)
        want = registered(stores, None)
        np.testing.assert_array_equal(field.displacement, want.displacement)
        assert (kept[1].values != want.displacement.values).any()


def test_a_warp_that_was_killed_starts_anew(stores, monkeypatch):
    xdreg.save(registered(stores, None), stores / "field.zarr", progress=False)
    made, real, last = [], warp_to._Level.make, [0]

    def make(level, window):
        made.append(window)
        if len(made) == last[0]:
            raise KeyboardInterrupt
        return real(level, window)

    def warp(kill=0, **more):
        made.clear()
        last[0] = kill
        field = xdreg.open_field(stores / "field.zarr")
        moving = opened(stores, "moving")[0]
        options = {"chunks": 16, "levels": 3, "progress": False, **more}
        xdreg.warp_to(field, moving, stores / "moved.zarr", **options)
        return len(made)

    def killed():
        with pytest.raises(KeyboardInterrupt):
            warp(kill=2)

    def voxels():
        found = xdreg.open_ome_zarr(stores / "moved.zarr", level=0).values
        shutil.rmtree(stores / "moved.zarr")
        return found

    monkeypatch.setattr(warp_to._Level, "make", make)
    with dask.config.set(scheduler="synchronous"):
        whole, before = warp(), voxels()
        killed()
        assert warp() == whole - 1
        np.testing.assert_array_equal(voxels(), before)
        killed()
        assert warp(fresh=True) == whole
        np.testing.assert_array_equal(voxels(), before)
        for change in (stores / "field.zarr", stores / "moving.zarr"):
            killed()
            if change.name == "field.zarr":
                scale(change)
            else:
                rewrite(change)
            assert warp() == whole
            found = voxels()
            assert (found != before).any()
            warp()
            np.testing.assert_array_equal(voxels(), found)
            before = found


def test_fresh_needs_a_run(phantom, tmp_path):
    with pytest.raises(xdreg.InputError, match="workdir="):
        xdreg.register(*phantom[:2], fresh=True, **OPTIONS)
    with pytest.raises(xdreg.InputError, match="choose one"):
        xdreg.register(
            *phantom[:2], fresh=True, retry="crashed", workdir=tmp_path, **OPTIONS
        )
    with pytest.raises(xdreg.InputError, match="True or False"):
        xdreg.register(*phantom[:2], fresh="yes", workdir=tmp_path, **OPTIONS)
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(xdreg.InputError, match="holds no run"):
        xdreg.register(*phantom[:2], fresh=True, workdir=tmp_path, **OPTIONS)


def test_a_removal_that_is_interrupted_goes_on(phantom, tmp_path, monkeypatch):
    def run(**more):
        return xdreg.register(*phantom[:2], workdir=tmp_path, **OPTIONS | more)

    want = run().displacement.values
    monkeypatch.setattr(shutil, "rmtree", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(fresh=True)
    monkeypatch.undo()
    (tmp_path / "stage_00" / "agreement.json").unlink()
    np.testing.assert_array_equal(run().displacement, want)
