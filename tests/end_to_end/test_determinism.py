"""Equal bits from all schedulers, chunks and orders of blocks, and no leaks."""

import gc
import json
import random
from concurrent.futures import ProcessPoolExecutor

import dask
import numpy as np
import psutil
import pytest

import xdreg
from tests.helpers.forks import context
from tests.helpers.hostile import shift
from tests.helpers.pairs import textured
from tests.helpers.runs import digest
from xdreg.engines import processes
from xdreg.registration import blockwise
from xdreg.registration.mapping import map_over_blocks
from xdreg.stores import locks as scratch


@pytest.mark.parametrize("workers", [1, 2])
def test_threads(workers, alone):
    with dask.config.set(scheduler="threads", num_workers=workers):
        assert digest() == alone


@pytest.mark.slow
def test_processes(alone):
    # One pool, or every computation would start processes of its own.
    with (
        ProcessPoolExecutor(2, mp_context=context()) as pool,
        dask.config.set(scheduler="processes", pool=pool),
    ):
        assert digest() == alone


def test_the_search_for_a_pose():
    fixed, moving, matrix = textured(40.0)
    stage = xdreg.Affine(metric="lncc", iterations=3)
    found = []
    for workers in (1, 3):
        with dask.config.set(scheduler="threads", num_workers=workers):
            field = fixed.dreg.register(moving, stages=[stage], progress=False)
        found.append(field.displacement.values)
    np.testing.assert_array_equal(*found)
    turn = np.array(json.loads(field.attrs["matrix"]))
    np.testing.assert_allclose(turn[:2, :2], matrix[:2, :2], atol=0.02)


@pytest.mark.parametrize("chunk", [7, {"z": 16, "y": 5, "x": 54}])
def test_chunks_of_the_input(chunk, alone):
    assert digest(chunk) == alone


@pytest.mark.parametrize("seed", [0, 1])
def test_the_order_of_blocks(seed, alone, monkeypatch):
    def shuffled(function, task, *arguments, **options):
        blocks = list(task.partition)
        random.Random(seed).shuffle(blocks)
        for index in blocks:
            function(index, task)
        return map_over_blocks(function, task, *arguments, **options)

    monkeypatch.setattr("xdreg.registration.blockwise.map_over_blocks", shuffled)
    assert digest() == alone


def test_a_run_that_was_resumed(alone, tmp_path):
    assert digest(workdir=tmp_path) == alone
    rng = random.Random(0)
    for path in sorted(tmp_path.rglob("*")):
        inside = path.is_file() and path.parent.name[:2] in ("re", "pa", "fi", "di")
        if inside and path.name[0].isdigit() and rng.random() < 0.5:
            path.unlink()
    assert digest(workdir=tmp_path) == alone


#: Blocks after which memory and handles are looked at, which takes as long as a block.
COMPARED = [*range(69, 110), *range(160, 200)]


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_two_hundred_blocks_leave_nothing_behind(kind, monkeypatch):
    """Memory, file handles, threads and temporary files stay as at block 70."""
    image = xdreg.datasets.phantom_pair((10 * 40, 20 * 40), amplitude=1.0)
    images = image.fixed.compute(), image.moving.compute()
    stage = xdreg.LocalCorrelation(level=0, iterations=2, metric="lncc")
    if kind == "processes":
        stage = xdreg.Custom(method=shift, level=0, options={"voxels": 0.0})
    samples = []
    register_block = blockwise.register_block

    def watched(index, task):
        result = register_block(index, task)
        if len(samples) % 100 == 99:
            gc.collect()
        if len(samples) not in COMPARED:
            samples.append(None)
            return result
        own = psutil.Process()
        everyone = [own, *own.children(recursive=True)]
        samples.append(
            (
                sum(p.memory_info().rss for p in everyone),
                sum(p.num_fds() for p in everyone),
                sum(p.num_threads() for p in everyone),
                len(list(scratch._root().glob("*"))),
                len(list(scratch._root().glob("engine-*/*"))),
            )
        )
        return result

    monkeypatch.setattr(blockwise, "register_block", watched)
    with dask.config.set(scheduler="synchronous"):
        images[0].dreg.register(
            images[1], stages=[stage], block_shape=40, overlap=8, progress=False
        )
    assert len(samples) == 200
    memory, *others = np.array([samples[number] for number in COMPARED]).T
    assert memory[-40:].min() - memory[1:41].min() < 4e6
    for values in others:
        assert values[0] == values[-1]
    processes.shutdown()
    assert not list(scratch._root().glob("engine-*"))
