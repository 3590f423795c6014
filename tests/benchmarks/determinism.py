"""Hashes of a real pair's field by scheduler, chunks and order of blocks."""

import hashlib
import random
import tempfile
from pathlib import Path
from unittest import mock

import dask
from distributed import Client, LocalCluster

import xdreg
from tests.benchmarks.common import pair, row
from xdreg.registration.mapping import map_over_blocks

PAIR = "mouse_brain"


def determinism():
    """Print a hash of the field by scheduler, chunks, order of blocks, resumption.

    The stages are an affine one, a B-spline by elastix, which runs in processes of its
    own, and local correlation.
    """
    for scheduler, workers in (
        ("synchronous", 1),
        ("threads", 1),
        ("threads", 2),
        ("processes", 2),
    ):
        with dask.config.set(scheduler=scheduler, num_workers=workers):
            _row(f"{scheduler}, {workers}")
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=2, dashboard_address=None
        ) as cluster,
        Client(cluster),
    ):
        _row("cluster, 2 x 2 threads")
    for chunk in (17, 64):
        _row(f"chunks of {chunk}", chunk)
    with mock.patch("xdreg.registration.blockwise.map_over_blocks", _shuffled):
        _row("blocks in random order")
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "run"
        _register(workdir=workdir)
        _lose_half(workdir)
        _row("resumed, half of it lost", workdir=workdir)


def _row(name, chunk=None, **options):
    field = _register(chunk, **options)
    values = field.displacement.values.tobytes()
    row(
        f"determinism: {name}",
        blocks=int(field.block_status.size),
        sha256=hashlib.sha256(values).hexdigest()[:16],
    )


def _register(chunk=None, **options):
    images = [tree["scale0/image"] for tree in pair(PAIR)]
    if chunk is not None:
        images = [image.chunk(chunk) for image in images]
    stages = [
        xdreg.Affine(metric="lncc"),
        xdreg.BSpline(level=1, iterations=20, metric="ncc"),
        xdreg.LocalCorrelation(level=0, metric="lncc"),
    ]
    return images[0].dreg.register(
        images[1], stages=stages, block_shape=40, progress=False, **options
    )


def _shuffled(function, task, *arguments, **options):
    """Run the blocks in a random order first; the map then finds them done."""
    blocks = list(task.partition)
    random.Random(0).shuffle(blocks)
    for index in blocks:
        function(index, task)
    return map_over_blocks(function, task, *arguments, **options)


def _lose_half(workdir):
    """Remove half of the patches, records, diagnostics and fields."""
    rng = random.Random(0)
    for path in sorted(workdir.rglob("*")):
        kept = path.is_file() and path.parent.name[:2] in ("re", "pa", "fi", "di")
        if kept and path.name[0].isdigit() and rng.random() < 0.5:
            path.unlink()
