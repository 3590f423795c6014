"""The device of a run: decided once, recorded, checked before work starts."""

import dataclasses
import json
import sys
import types

import dask
import numpy as np
import pytest
from distributed import Client, Scheduler, SpecCluster, Worker, get_worker

import xdreg
from tests.helpers.device_arrays import SPACE
from xdreg.errors import InputError
from xdreg.numerics import devices as own
from xdreg.numerics.devices import Gpu, look_for_gpu
from xdreg.registration import devices
from xdreg.registration.devices import settled_device

GPU = Gpu(None, 24 * 2**30)


@pytest.fixture
def gpu(monkeypatch):
    """Give this process a GPU, whose arrays leave it only when told to."""
    monkeypatch.setattr(devices, "look_for_gpu", lambda: GPU)
    monkeypatch.setattr("xdreg.engines.device.gpu_space", lambda: SPACE)


@pytest.fixture
def no_gpu(monkeypatch):
    """Take CuPy away."""
    monkeypatch.setitem(sys.modules, "cupy", None)


@pytest.fixture(scope="module")
def pair():
    return xdreg.datasets.phantom_pair((56, 60), amplitude=2.0)


def run(pair, device, **options):
    """Register on a device, in four blocks."""
    stage = xdreg.LocalCorrelation(device=device, iterations=4, level=0)
    given = {"stages": [stage], "metric": "lncc", "block_shape": 32, "progress": False}
    return pair.fixed.dreg.register(pair.moving, **given | options)


def recorded(field):
    """Return the device that a field says."""
    (stage,) = json.loads(field.attrs["xdreg"])["stages"]
    return stage["device"]


def test_a_device_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match="'cpu', 'cuda', 'auto'; got 'gpu'"):
        xdreg.LocalCorrelation(device="gpu")


def test_without_cupy_the_remedy_is_said_before_work_starts(pair, no_gpu, tmp_path):
    said = r'pip install "xdreg\[cuda\]".*device=.cpu'
    with pytest.raises(InputError, match=said):
        run(pair, "cuda", workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def cupy_with(count):
    """Return modules in place of CuPy's, which count GPUs by a function."""

    class CUDARuntimeError(RuntimeError):
        pass

    def counted():
        if count is None:
            msg = "cudaErrorInsufficientDriver"
            raise CUDARuntimeError(msg)
        return count

    runtime = types.SimpleNamespace(
        getDeviceCount=counted, CUDARuntimeError=CUDARuntimeError
    )
    device = types.SimpleNamespace(mem_info=(1, 8 * 2**30), pci_bus_id="0000:01:00.0")
    cupy = types.ModuleType("cupy")
    cupy.cuda = types.SimpleNamespace(runtime=runtime, Device=lambda: device)
    pool = types.SimpleNamespace(free_all_blocks=lambda: "freed")
    cupy.get_default_memory_pool = lambda: pool
    scipy = types.ModuleType("cupyx.scipy")
    scipy.ndimage = types.ModuleType("cupyx.scipy.ndimage")
    return {"cupy": cupy, "cupyx": types.ModuleType("cupyx"), "cupyx.scipy": scipy}


@pytest.mark.parametrize(
    ("count", "said"), [(None, "InsufficientDriver"), (0, "CUDA_VISIBLE_DEVICES")]
)
def test_cupy_without_a_gpu(monkeypatch, pair, count, said):
    for name, module in cupy_with(count).items():
        monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(InputError, match=said):
        run(pair, "cuda")
    assert settled_device("auto") == ("cpu", 0)


def test_cupy_with_a_gpu(monkeypatch):
    modules = cupy_with(2)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    assert look_for_gpu() == Gpu(None, 8 * 2**30)
    assert settled_device("auto") == ("cuda", 8 * 2**30)
    space = own.gpu_space()
    assert space.xp is modules["cupy"]
    assert space.name == "0000:01:00.0"
    assert space.free() == "freed"


def test_auto_is_the_cpu_without_a_gpu(pair, no_gpu):
    field = run(pair, "auto")
    assert recorded(field) == "cpu"
    np.testing.assert_array_equal(field.displacement, run(pair, "cpu").displacement)


def test_auto_is_the_gpu_where_there_is_one(pair, gpu):
    field, other = run(pair, "auto"), run(pair, "cpu")
    assert recorded(field) == "cuda"
    np.testing.assert_array_equal(field.block_status, 0)
    gap = np.abs((field.displacement - other.displacement).values)
    assert 0 < gap.max() < 0.02


@pytest.mark.parametrize(("first", "then"), [("cpu", "auto"), ("auto", "cpu")])
def test_a_run_does_not_change_its_device(pair, gpu, tmp_path, first, then):
    before = run(pair, first, workdir=tmp_path)
    with pytest.raises(InputError, match=r"device was .*, now .*fresh=True"):
        run(pair, then, workdir=tmp_path)
    again = run(pair, first, workdir=tmp_path)
    np.testing.assert_array_equal(before.displacement, again.displacement)


def test_a_run_by_auto_is_not_resumed_where_the_gpu_is_gone(
    pair, gpu, tmp_path, monkeypatch
):
    run(pair, "auto", workdir=tmp_path)
    monkeypatch.setattr(devices, "look_for_gpu", lambda: Gpu("none"))
    with pytest.raises(InputError, match='device was "cuda", now "cpu"'):
        run(pair, "auto", workdir=tmp_path)


def test_exhausted_memory_costs_one_block(pair, gpu, tmp_path, monkeypatch):
    filters = Exhausted(SPACE.ndimage, "correlate1d", times=2)
    space = dataclasses.replace(SPACE, ndimage=filters)
    monkeypatch.setattr("xdreg.engines.device.gpu_space", lambda: space)
    with dask.config.set(scheduler="synchronous"):
        field = run(pair, "cuda", workdir=tmp_path)
    assert sorted(field.block_status.values.ravel()) == [0, 0, 0, 7]
    (file,) = tmp_path.glob("stage_00/errors/*.txt")
    text = file.read_text(encoding="utf-8")
    assert "more memory than the GPU has left" in text
    assert "block_shape=..." in text


class Exhausted:
    """Filters of which one finds no memory, the first few times."""

    def __init__(self, filters, name, times):
        self._filters, self._name, self._left = filters, name, times

    def __getattr__(self, name):
        if name == self._name and self._left:
            self._left -= 1
            msg = "out of memory allocating 1 bytes"
            raise MemoryError(msg)
        return getattr(self._filters, name)


def test_plans_tell_the_memory_on_the_gpu(pair, gpu):
    fixed = xdreg.datasets.phantom_pair((48, 48, 48)).fixed
    for level, device in [(0, "cuda"), (0, "cpu")]:
        stage = xdreg.LocalCorrelation(level=level, device=device)
        plan = fixed.dreg.plan(fixed, stages=[stage])
        told = "of the GPU" in str(plan)
        assert told == (device == "cuda")
        assert bool(plan.stages[0].device_memory) == told


@pytest.mark.parametrize(
    ("memory", "size"), [(80, 256), (24, 256), (4, 206), (2, 158), (0.01, 32)]
)
def test_the_memory_of_the_gpu_decides_the_default_block(monkeypatch, memory, size):
    found = Gpu(None, int(memory * 2**30))
    monkeypatch.setattr(devices, "look_for_gpu", lambda: found)
    voxels = dask.array.zeros((2048,) * 3, chunks=256, dtype="uint8")
    huge = xdreg.make_image(voxels, spacing=1.0, units="micrometer")
    stage = xdreg.LocalCorrelation(level=0, device="auto")
    (planned,) = huge.dreg.plan(huge, stages=[stage]).stages
    assert max(planned.partition.block_shape) == size
    assert planned.device_memory < found.memory or size == 32


def where():
    """Return the space, and note the worker that asks for it."""
    SEEN.add(get_worker().name)
    return SPACE


SEEN = set()


def workers_with(**resources):
    """Start a worker of a name with each resources, in this process."""
    workers = {
        name: {"cls": Worker, "options": {"nthreads": 1, "resources": own}}
        for name, own in resources.items()
    }
    scheduler = {"cls": Scheduler, "options": {"dashboard_address": None}}
    return SpecCluster(workers, scheduler=scheduler)


def ask(dask_worker):
    """Answer as a worker with a GPU if its name says so."""
    return GPU if dask_worker.name == "gpu" else Gpu("CuPy finds no GPU")


def test_a_cluster_of_both_kinds(pair, gpu, monkeypatch):
    monkeypatch.setattr(devices, "look_for_gpu", ask)
    monkeypatch.setattr("xdreg.engines.device.gpu_space", where)
    SEEN.clear()
    with workers_with(plain={}, gpu={"GPU": 1}) as cluster, Client(cluster):
        field = run(pair, "auto")
        assert recorded(field) == "cuda"
        np.testing.assert_array_equal(field.block_status, 0)
        assert {"gpu"} == SEEN


def test_a_cluster_that_does_not_say_where_its_gpus_are(pair, gpu, monkeypatch):
    monkeypatch.setattr(devices, "look_for_gpu", ask)
    with workers_with(plain={}, gpu={}) as cluster, Client(cluster):
        assert settled_device("auto") == ("cpu", 0)
        with pytest.raises(InputError, match=r"worker .* has none.*--resources GPU=1"):
            run(pair, "cuda")


def test_the_moving_image_is_pulled_on_the_gpu(pair, gpu, monkeypatch):
    def refused(*_, **__):
        msg = "the image is pulled on the CPU"
        raise AssertionError(msg)

    monkeypatch.setattr("xdreg.registration.window.Spline", refused)
    field = run(pair, "cuda")
    np.testing.assert_array_equal(field.block_status, 0)


def test_a_gpu_that_cannot_pull_leaves_it_to_the_cpu(pair, gpu, monkeypatch):
    expected = run(pair, "cuda")

    def broken(*_):
        msg = "out of memory"
        raise MemoryError(msg)

    monkeypatch.setattr("xdreg.engines.device_spline.pull_limited", broken)
    found = run(pair, "cuda")
    np.testing.assert_array_equal(found.block_status, 0)
    gap = np.abs((found.displacement - expected.displacement).values)
    assert gap.max() < 0.02
