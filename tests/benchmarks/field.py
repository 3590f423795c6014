"""Inverses, points and images through fields: error, speed and memory."""

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import itk
import numpy as np

import xdreg
from tests.benchmarks.common import pair, row
from tests.benchmarks.warped import peaks, throughput
from tests.helpers.data import landmarks
from xdreg.coordinates import grid_of
from xdreg.fields.displacement import make_field, open_displacement
from xdreg.fields.field import field_grid, fixed_grid, moving_grid
from xdreg.fields.preimage import Preimage, affine_part

PAIRS = ("lung_ct", "mouse_brain", "exm_lowres")

#: The number of places in the fixed image at which round trips are measured.
PLACES = 100_000

REPEATS = 3


def cpu(function, clock=time.process_time):
    """Return a result, and the CPU seconds that it took."""
    began = clock()
    result = function()
    return result, clock() - began


def round_trip(field, inverse):
    """Return mean and 99th percentile of the error of there and back, in voxels.

    Points that leave the inverse's domain are not measured.
    """
    grid = fixed_grid(field)
    points = np.random.default_rng(0).uniform(*grid.bounds, (PLACES, grid.ndim))
    back = inverse.dreg.transform_points(field.dreg.transform_points(points))
    error = np.linalg.norm(back - points, axis=1) / np.mean(grid.spacing)
    error = error[np.isfinite(error)]
    return {
        "round_trip": f"{error.mean():.4f} mean {np.percentile(error, 99):.4f} p99",
        "known": float(len(error) / PLACES),
    }


def kernel_speed(field):
    """Return megavoxels a second of the solver alone, one thread, the moving grid."""
    reader, grid = open_displacement(field), moving_grid(field)
    preimage = Preimage(reader, fixed_grid(field), affine_part(reader))
    window = preimage.window(*grid.bounds)
    window.solve_grid(grid)  # compiled
    _, seconds = cpu(lambda: window.solve_grid(grid), time.thread_time)
    return grid.size / seconds / 1e6


def inverted(field, **options):
    """Return an inverse, and the median of its CPU seconds, compilation excluded."""
    spent = []
    for _ in range(1 + REPEATS):
        lazy = field.dreg.inverse(**options)
        inverse, seconds = cpu(lambda lazy=lazy: lazy.compute(scheduler="synchronous"))
        spent.append(seconds)
    return inverse, float(np.median(spent[1:]))


def inverses(name, field):
    """Print the inverse's figures, on the field's own spacing and on the image's."""
    for step in (0.5, 1, 2):
        inverse, seconds = inverted(field, step=step)
        row(
            f"{name} inverse step {step}",
            megavoxels_per_second=field_grid(inverse).size / seconds / 1e6,
            residual=f"{float(inverse.block_max_residual.max()):.1e} at most",
            **round_trip(field, inverse),
            at_own_points=float(
                field.dreg.consistency(inverse).mean()
                / np.mean(fixed_grid(field).spacing)
            ),
            outside=float(inverse.block_outside.mean()),
            folded=float(inverse.block_folded.mean()),
        )
    row(f"{name} solver alone", megavoxels_per_second=kernel_speed(field))


def beside_peers(name, field, fixed):
    """Print figures of the inverse without the affine part, and SimpleITK's.

    Both invert onto the field's own grid, as SimpleITK can do no other.
    """
    matrix = affine_part(open_displacement(field))
    rest = xdreg.compose(field, np.linalg.inv(matrix), like=fixed).compute()
    inverse, seconds = inverted(rest, like=fixed, step=1)
    size = grid_of(fixed).size
    row(
        f"{name} rest, xdreg",
        cpu_seconds=seconds,
        megavoxels_per_second=size / seconds / 1e6,
        **round_trip(rest, inverse),
    )
    python = os.environ.get("XDREG_PEERS")
    if not python:
        print("SimpleITK: skipped, XDREG_PEERS names no Python")
        return
    script = str(Path(__file__).with_name("inverse_peers.py"))
    with tempfile.TemporaryDirectory() as folder:
        source, out = f"{folder}/field.nrrd", f"{folder}/inverse.nrrd"
        vectors = rest["displacement"].isel(component=slice(None, None, -1))
        vectors = vectors.rename(component="c").drop_vars("c")
        itk.imwrite(vectors.dreg.to_itk_image(), source)
        for method in ("InvertDisplacementField", "IterativeInverse"):
            command = [python, script, method, source, out, "1"]
            try:
                done = subprocess.run(
                    command,
                    check=True,
                    capture_output=True,
                    encoding="utf-8",
                    timeout=600,
                )
            except subprocess.TimeoutExpired:
                row(f"{name} rest, {method}", cpu_seconds="over 600")
                continue
            seconds = json.loads(done.stdout.splitlines()[-1])
            found = itk.array_from_image(itk.imread(out, itk.Vector[itk.F, 3]))
            values = np.moveaxis(found[..., ::-1], -1, 0).astype(np.float32)
            row(
                f"{name} rest, {method}",
                cpu_seconds=seconds,
                megavoxels_per_second=size / seconds / 1e6,
                **round_trip(rest, make_field(values, field_grid(rest))),
            )


def lung_landmarks(field):
    """Print how far the lung's landmarks are moved by field and inverse together."""
    points = landmarks("lung_ct", "fixed")
    there = field.dreg.transform_points(points)
    routes = {
        "solved": field.dreg.transform_points(there, inverse=True),
        "inverse": field.dreg.inverse().dreg.transform_points(there),
        "inverse, step 2": field.dreg.inverse(step=2).dreg.transform_points(there),
    }
    for how, back in routes.items():
        error = np.linalg.norm(back - points, axis=1)
        row(
            f"lung_ct landmarks, {how}",
            mean_mm=f"{error.mean():.2g}",
            largest_mm=f"{error.max():.2g}",
        )


def field():
    """Print figures of images, inverses and points through fields.

    The memory at 1024³ takes long and is measured only where ``XDREG_SCRATCH`` names a
    folder.
    """
    throughput()
    peaks()
    for name in PAIRS:
        fixed, moving = pair(name)
        found = fixed.dreg.register(moving, progress=False)
        inverses(name, found)
        beside_peers(name, found, fixed["scale0/image"])
        if name == "lung_ct":
            lung_landmarks(found)
