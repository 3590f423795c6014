"""What a run says of the workers of its cluster."""

import asyncio
import contextlib
import threading
import warnings

import dask
import pytest
from distributed import Client, LocalCluster

import xdreg
from xdreg.registration import workers

#: Dask pauses a worker whose process takes more than this share of its memory. Any
#: process does.
PAUSED = {
    "distributed.worker.memory.pause": 1e-6,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.monitor-interval": "50ms",
}


@contextlib.contextmanager
def paused_cluster(count=1):
    """Start workers that are paused until `resume`."""
    with (
        dask.config.set(PAUSED),
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            processes=False,
            memory_limit="8 GiB",
            dashboard_address=None,
        ) as cluster,
    ):
        yield cluster


def resume(cluster):
    for worker in cluster.workers.values():
        worker.memory_manager.memory_pause_fraction = 0.99


@pytest.fixture
def images():
    pair = xdreg.datasets.phantom_pair((32, 36), amplitude=1.0)
    return pair.fixed.compute(), pair.moving.compute()


@pytest.fixture
def told(monkeypatch):
    """Return what a run says of paused workers, and an event set with the first."""
    texts, event = [], threading.Event()

    def keep(message, *_, **__):
        if str(message).startswith("the run waits"):
            texts.append(str(message))
            event.set()

    monkeypatch.setattr(workers, "LOOK", 0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", keep)
        yield texts, event


def register(images):
    stage = xdreg.LocalCorrelation(level=0, iterations=1, metric="lncc")
    return xdreg.register(*images, stages=[stage], progress=False)


def check(texts, cluster):
    (text,) = texts
    assert any(worker.address in text for worker in cluster.workers.values())
    assert "of its memory_limit of 8.00 GiB" in text
    assert "asks for" in text


def test_a_run_says_that_all_workers_are_paused(images, told):
    texts, event = told
    with paused_cluster(2) as cluster, Client(cluster):
        run = threading.Thread(target=register, args=(images,))
        run.start()
        assert event.wait(30)
        assert "and the other 1" in texts[0]
        resume(cluster)
        run.join(60)
        assert not run.is_alive()
        check(texts, cluster)


def test_the_client_may_be_asynchronous(images, told):
    texts, event = told

    async def work(cluster):
        async with Client(cluster.scheduler_address, asynchronous=True):
            with pytest.raises(xdreg.InputError, match=r"asyncio\.to_thread"):
                register(images)
            run = asyncio.create_task(asyncio.to_thread(register, images))
            assert await asyncio.to_thread(event.wait, 30)
            resume(cluster)
            return await run

    with paused_cluster() as cluster:
        field = asyncio.run(work(cluster))
        check(texts, cluster)
    assert field.block_status.size == 1


def test_workers_that_work_are_left_alone(images, told):
    texts, _ = told
    with (
        LocalCluster(1, processes=False, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        register(images)
    assert not texts
