"""Throughput, compile time, memory and accuracy of the engine, against the peers.

Peers run where ``XDREG_PEERS`` names the Python of an environment with ``antspyx`` and
``picsl-greedy``; elastix runs in this one.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import xarray as xr

import xdreg
from tests.benchmarks.common import (
    BLOCK,
    WHOLE,
    landmark_error,
    lung_masks,
    mean_dice,
    pair,
    peer_field,
    row,
    timed,
)
from xdreg.coordinates import coordinates, grid_of
from xdreg.engines.local_correlation import local_correlation
from xdreg.fields.diagnostics import status_counts
from xdreg.fields.displacement import make_field
from xdreg.fields.field import field_grid
from xdreg.grid import Grid
from xdreg.numerics import kernels
from xdreg.numerics.metrics import normalised_correlation

REPEATS = 3


def engine():
    """Print all figures of the engine, medians of three."""
    compile_time()
    throughput()
    memory()
    lung()
    mouse()
    microscopy()
    histology()
    turned()


def compile_time():
    """Print the seconds of a first call, without and with compiled kernels on disk."""
    code = (
        "import time; from xdreg.datasets import phantom_pair; "
        "from xdreg.engines.local_correlation import local_correlation as f; "
        "p = phantom_pair((24, 24, 24)); a, b = p.fixed.load(), p.moving.load(); "
        "t = time.perf_counter(); f(a, b, iterations=1); "
        "print(time.perf_counter() - t)"
    )
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
        seconds = [
            float(
                subprocess.run(
                    [sys.executable, "-c", code],
                    env=environment,
                    check=True,
                    capture_output=True,
                    encoding="utf-8",
                ).stdout
            )
            for _ in range(2)
        ]
    row("compile", first=seconds[0], afterwards=seconds[1])


def throughput():
    """Print voxel-iterations per second of a 128³ block, one thread and two blocks.

    A coarse level has a node per voxel, the finest level every second.
    """
    phantom = xdreg.datasets.phantom_pair((128, 128, 128), amplitude=4.0)
    images = phantom.fixed.compute(), phantom.moving.compute()
    for metric, stride in itertools.product(("lncc", "mind"), (1, 2)):
        counted = {}

        def run(number, metric=metric, stride=stride, counted=counted):
            options = {"iterations": number, "metric": metric, "stride": stride}
            counted[number] = timed(local_correlation, *images, **options)[1]
            return counted[number]

        run(1)
        one = np.median([run(11) - run(1) for _ in range(REPEATS)])
        with ThreadPoolExecutor(2) as pool:
            both = []
            for _ in range(REPEATS):
                long = timed(lambda p: list(p.map(run, (11, 11))), pool)[1]
                short = timed(lambda p: list(p.map(run, (1, 1))), pool)[1]
                both.append(long - short)
        millions = 10 * 128**3 / 1e6
        row(
            f"throughput {metric}, stride {stride}",
            one_thread=f"{millions / one:.1f} M/s",
            two_blocks=f"{float(2 * one / np.median(both)):.2f} x",
        )


def memory():
    """Print the peak bytes per voxel of a 208³ window, beyond the two images."""
    phantom = xdreg.datasets.phantom_pair((208, 208, 208))
    images = [v.astype("float32").compute() for v in (phantom.fixed, phantom.moving)]
    for metric in ("lncc", "mind"):
        before, peak, done = _resident(), [0], threading.Event()

        def watch(peak=peak, done=done):
            while not done.wait(0.005):
                peak[0] = max(peak[0], _resident())

        watcher = threading.Thread(target=watch)
        watcher.start()
        local_correlation(*images, metric=metric, iterations=2)
        done.set()
        watcher.join()
        row(f"memory {metric}", bytes_per_voxel=(peak[0] - before) / 208**3)


def _resident():
    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def lung():
    """Print landmark errors of the lung pair, also of the peers and across contrast."""
    fixed, moving = pair("lung_ct")
    for name, options in (
        ("lung_ct", {}),
        ("lung_ct with masks", lung_masks()),
    ):
        field, seconds = _median_run(fixed, moving, **options)
        row(name, **landmark_error(field, "lung_ct"), **_common(field, seconds))
    _against_whole("lung_ct", fixed, moving)
    for name in ("elastix", "greedy", "syn"):
        _peer(name, "lung_ct", lambda f: landmark_error(f, "lung_ct"))
    image = moving["scale0/image"].astype("float32")
    share = (image - image.min()) / (image.max() - image.min())
    inverted = (1 - share) ** 2.0
    for dim in "zyx":
        inverted[dim].attrs.update(image[dim].attrs)
    field, seconds = _median_run(fixed, inverted, metric="mind")
    row(
        "lung_ct inverted, gamma",
        **landmark_error(field, "lung_ct"),
        **_common(field, seconds),
    )


def mouse():
    """Print the overlap of structures of the mouse brains."""
    fixed, moving = pair("mouse_brain")
    field, seconds = _median_run(fixed, moving)
    row("mouse_brain", **_structures(field), **_common(field, seconds))
    _against_whole("mouse_brain", fixed, moving)
    for name in ("elastix", "greedy", "syn"):
        _peer(name, "mouse_brain", _structures)


def _structures(field):
    """Return the overlap of labels from the nearest voxel, and of the most votes."""
    return {"dice": mean_dice(field), "by_votes": mean_dice(field, "majority")}


def microscopy():
    """Print figures of expansion microscopy in blocks of 64³."""
    fixed, moving = pair("exm_lowres")
    field, seconds = _median_run(fixed, moving, block_shape=BLOCK[3])
    source = moving["scale0/image"].astype("float32")
    moved = field.dreg.warp(source, fill_value=np.nan).values
    reference = fixed["scale0/image"].values
    row(
        "exm_lowres 64³ blocks",
        ncc=normalised_correlation(reference, moved),
        **_common(field, seconds),
    )
    _against_whole("exm_lowres", fixed, moving)


def histology():
    """Print errors of two stains, by descriptors and by local correlation."""
    images = pair("histology_kidney")
    for metric in ("mind", "lncc"):
        options = {"metric": metric, "channel": "luminance"}
        field, seconds = _median_run(*images, **options)
        row(
            f"histology_kidney {metric}",
            **landmark_error(field, "histology_kidney"),
            **_common(field, seconds),
        )
    _against_whole("histology_kidney", *images, **options)


def turned():
    """Print errors of affine stages on mouse brains turned by up to 90°."""
    rng = np.random.default_rng(0)
    # Without the stored levels, whose positions are not exact.
    fixed, source = (
        tree["scale0/image"].astype("float32") for tree in pair("mouse_brain")
    )
    own = grid_of(source)
    wide = Grid(
        own.dims, (130,) * 3, own.spacing, tuple(own.centre - 64.5 * 0.15), own.units
    )
    for degrees in (30, 45, 60, 75, 90):
        axis = rng.standard_normal(3)
        cross = np.cross(np.eye(3), axis / np.linalg.norm(axis))
        angle = np.radians(degrees)
        matrix = np.eye(4)
        matrix[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
        matrix[:3, 3] = own.centre - matrix[:3, :3] @ own.centre
        values = kernels.warp_array(
            source.values,
            own,
            *kernels.affine_displacement(matrix, wide),
            wide,
            fill=0,
        )
        image = xr.DataArray(values, coordinates(wide), wide.dims)
        figures = {}
        for metric in ("lncc", "ncc"):
            field, seconds = timed(
                fixed.dreg.register,
                image,
                stages=[xdreg.Rigid(), xdreg.Affine()],
                metric=metric,
                progress=False,
            )
            found = np.array(json.loads(field.attrs["matrix"]))
            # Composed with the turn: from the fixed to the unturned moving image.
            grid = grid_of(fixed)
            corners = kernels.affine_displacement(matrix @ found, grid)
            total = make_field(*corners, grid)
            figures |= {f"dice_{metric}": mean_dice(total), f"s_{metric}": seconds}
        row(f"mouse_brain turned {degrees}", **figures)


def _median_run(fixed, moving, **options):
    """Register several times; return the field and the median of the seconds."""
    runs = [
        timed(fixed.dreg.register, moving, progress=False, **options)
        for _ in range(REPEATS)
    ]
    return runs[-1][0], float(np.median([seconds for _, seconds in runs]))


def _common(field, seconds):
    return {
        "min_jacobian": float(field.dreg.jacobian_determinant().min()),
        "blocks": status_counts(field),
        "seconds": seconds,
    }


def _against_whole(name, fixed, moving, **options):
    """Compare the last level in blocks with the same stage run whole."""
    options = {"metric": "lncc", "progress": False, **options}
    plan = fixed.dreg.plan(moving)
    before = fixed.dreg.register(
        moving, stages=[s.options for s in plan.stages[:-1]], **options
    )
    ndim = plan.fixed.grids[0].ndim
    fields = [
        fixed.dreg.register(
            moving,
            initial=before,
            stages=[xdreg.LocalCorrelation(level=0, block_shape=block)],
            **options,
        )
        for block in (BLOCK[ndim], WHOLE)
    ]
    spacing = np.reshape(field_grid(fields[0]).spacing, (-1,) + (1,) * ndim) / 2
    difference = (fields[0].displacement - fields[1].displacement).values / spacing
    length = np.linalg.norm(difference, axis=0)
    row(
        f"{name} blocks, whole",
        median_voxels=float(np.median(length)),
        p99_voxels=float(np.percentile(length, 99)),
    )


def _peer(tool, name, judge):
    """Run a peer on a pair and judge its field."""
    images = [tree["scale0/image"].astype("float32") for tree in pair(name)]
    found = peer_field(tool, *images, repeats=REPEATS)
    if found is not None:
        field, times = found
        row(f"{name} {tool}", **judge(field), seconds=float(np.median(times[:, 0])))
