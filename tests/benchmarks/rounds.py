"""Rounds of one specimen: CPU time of one command, and of a command for each."""

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import xdreg
from tests.benchmarks.common import opened, row
from tests.helpers.data import ROOT
from xdreg.coordinates import coordinates, grid_of

#: Shifts of the copies in voxels (y, x), and their noise as a share of the image's.
SHIFTS = ((0, 0), (4, -6), (-5, 3), (7, 8))
NOISE = 0.05


def rounds(pair="exm_lowres", copies=4):
    """Print CPU seconds of a pair and its copies: as rounds, and one by one."""
    fixed = ROOT / pair / "fixed.ome.zarr"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = list(_copies(pair, folder, SHIFTS[:copies]))
        together = _cpu("rounds", fixed, *paths, "-o", folder / "rounds")
        alone = [
            _cpu("register", fixed, path, "-o", folder / f"out_{path.name}")
            for path in paths
        ]
        same = [
            np.array_equal(
                xdreg.open_field(folder / "rounds" / "fields" / path.name).displacement,
                xdreg.open_field(
                    folder / f"out_{path.name}" / "field.ome.zarr"
                ).displacement,
            )
            for path in paths
        ]
    row(
        f"{pair} {copies} rounds",
        cpu_rounds=together,
        cpu_runs=sum(alone),
        ratio=together / sum(alone),
        equal_fields=f"{sum(same)} of {copies}",
    )


def _copies(pair, folder, shifts):
    """Write copies of the moving image, moved by whole voxels, with noise."""
    image = opened(pair, "moving")["scale0/image"].astype("float32").compute()
    grid, rng = grid_of(image), np.random.default_rng(0)
    for number, (y, x) in enumerate(shifts):
        noise = rng.standard_normal(image.shape).astype("float32") * NOISE
        values = np.roll(image, (y, x), (-2, -1)) + noise * float(image.std())
        copy = image.copy(data=values.clip(0, 65535)).astype("uint16")
        path = folder / f"r{number + 2}.ome.zarr"
        xdreg.save(copy.assign_coords(coordinates(grid)), path)
        yield path


def _cpu(*arguments):
    """Return the CPU seconds of a command, with its engine processes."""
    command = [sys.executable, "-m", "xdreg", *map(str, arguments), "--quiet"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(after[:2]) - sum(before[:2])
