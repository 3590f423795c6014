"""The engine on a GPU against the one on the CPU."""

import itertools
import tempfile
from pathlib import Path

import numpy as np

import xdreg
from tests.benchmarks.common import measured, pair, row, timed
from tests.helpers.data import landmarks
from xdreg.engines.local_correlation import local_correlation
from xdreg.numerics.devices import gpu_space, look_for_gpu
from xdreg.numerics.metrics import target_registration_error

REPEATS = 3

#: Edges of the blocks whose throughput is measured, and of the phantom.
EDGES = (128, 256)
PHANTOM = 512


def gpu():
    """Print throughput, memory, and runs of two real pairs and a phantom."""
    found = look_for_gpu()
    if found.problem:
        print(f"no GPU: {found.problem}")
        return
    for edge, metric, stride in itertools.product(EDGES, ("lncc", "mind"), (1, 2)):
        throughput(edge, metric=metric, stride=stride)
    known = [landmarks("lung_ct", which) for which in ("fixed", "moving")]
    end_to_end("lung_ct", *pair("lung_ct"), known)
    end_to_end("exm_lowres", *pair("exm_lowres"))
    with tempfile.TemporaryDirectory() as folder:
        phantom(PHANTOM, Path(folder))


def throughput(edge, **options):
    """Print voxel-iterations per second of a block, and its bytes on the GPU."""
    made = xdreg.datasets.phantom_pair((edge,) * 3, amplitude=4.0)
    images = made.fixed.compute(), made.moving.compute()

    def seconds(number, device):
        given = options | {"iterations": number, "device": device}
        return timed(local_correlation, *images, **given)[1]

    figures = {}
    for device in ("cuda", "cpu"):
        seconds(2, device)  # compiles
        taken = [seconds(12, device) - seconds(2, device) for _ in range(REPEATS)]
        figures[device] = f"{10 * edge**3 / 1e6 / np.median(taken):.1f} M/s"
    peak = peak_on_gpu(lambda: seconds(3, "cuda"))
    row(f"{edge}³ {options}", **figures, bytes_per_voxel=peak / edge**3)


def peak_on_gpu(function):
    """Return the most bytes of the GPU that arrays take while a function runs."""
    cuda, most = gpu_space().xp.cuda, 0
    pool = cuda.MemoryPool()

    def allocate(size):
        nonlocal most
        memory = pool.malloc(size)
        most = max(most, pool.used_bytes())
        return memory

    with cuda.using_allocator(allocate):
        function()
    return most


def phantom(edge, folder):
    """Print a run of a phantom that is read from a store."""
    made = xdreg.datasets.phantom_pair((edge,) * 3, amplitude=10.0)
    stores = xdreg.datasets.write_phantom_pair(folder, (edge,) * 3, amplitude=10.0)
    images = map(xdreg.open_ome_zarr, stores)
    end_to_end(f"phantom {edge}³", *images, [made.fixed_points, made.moving_points])


def end_to_end(name, fixed, moving, known=None):
    """Print seconds on both devices, the error at known points, and how they differ."""
    planned = fixed.dreg.plan(moving).stages
    levels = [s.fixed_level for s in planned if not s.options.linear]
    found = []
    for device in ("cuda", "cpu"):
        stages = [xdreg.LocalCorrelation(level=n, device=device) for n in levels]
        field, (wall, cpu) = measured(
            fixed.dreg.register,
            moving,
            stages=[xdreg.Affine(), *stages],
            progress=False,
        )
        figures = {}
        if known is not None:
            error = target_registration_error(
                field.dreg.transform_points(known[0]), known[1]
            )
            figures = {"mean": float(error.mean()), "median": float(np.median(error))}
        row(f"{name} {device}", wall=wall, cpu=cpu, **figures)
        found.append(field.displacement.values)
    gap = np.linalg.norm(found[0] - found[1], axis=0)
    row(f"{name} difference", median=float(np.median(gap)), most=float(gap.max()))
