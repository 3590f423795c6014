"""Pairs, rows of figures, and errors, shared by the benchmarks."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import xarray as xr

import xdreg
from tests.helpers.data import ROOT, landmarks
from xdreg.coordinates import coordinates, grid_of
from xdreg.fields.field import field_grid
from xdreg.numerics.metrics import dice, target_registration_error

#: Voxels of a block per axis, in a plane and in space, and of one that is never cut.
BLOCK = {2: 256, 3: 64}
WHOLE = 4096


def pair(name):
    """Open a real pair: fixed and moving."""
    return [opened(name, which) for which in ("fixed", "moving")]


def opened(name, which):
    """Open one store of a real pair."""
    return xdreg.open_ome_zarr(ROOT / name / f"{which}.ome.zarr")


def lung_masks():
    """Return the masks of the lung pair as arguments for ``register``."""
    return {
        f"{which}_mask": opened("lung_ct", f"{which}_mask")
        for which in ("fixed", "moving")
    }


def row(name, **figures):
    """Print a line of figures."""
    texts = [
        f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}"
        for k, v in figures.items()
    ]
    print(f"{name:<28} " + "   ".join(texts), flush=True)


def timed(function, *arguments, **options):
    """Return a result, and the seconds that it took."""
    began = time.perf_counter()
    result = function(*arguments, **options)
    return result, time.perf_counter() - began


def measured(function, *arguments, **options):
    """Return a result, and its seconds on the wall and of CPU, engine processes too."""
    before = _cpu_seconds()
    result, seconds = timed(function, *arguments, **options)
    return result, (seconds, _cpu_seconds() - before)


def _cpu_seconds():
    own = psutil.Process()
    total = 0.0
    for process in [own, *own.children(recursive=True)]:
        # A process that ends meanwhile counts among the children of its parent: user
        # and system time, of the process and of its children.
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])
    return total


def landmark_error(field, name):
    """Return mean, median and 90th percentile of the error, in the pair's units."""
    fixed, moving = (landmarks(name, which) for which in ("fixed", "moving"))
    error = target_registration_error(field.dreg.transform_points(fixed), moving)
    return {
        "mean": float(error.mean()),
        "median": float(np.median(error)),
        "p90": float(np.percentile(error, 90)),
    }


def mean_dice(field, labels="nearest"):
    """Return the mean overlap of the mouse brain's structures, moved as labels."""
    fixed, moving = (
        opened("mouse_brain", f"{which}_labels")["scale0/image"]
        for which in ("fixed", "moving")
    )
    scores = dice(fixed.values, field.dreg.warp(moving, labels=labels).values)
    return float(np.mean(list(scores.values())))


def border_ratios(blocks, whole):
    """Compare steps and kinks of a field at block borders with the one-block run's.

    Returns
    -------
    dict
        The largest ratio over the axes of the mean first and second differences at
        borders; and that of the first ones amid the blocks, where nothing is blended:
        what the fields differ by anyway.
    """
    ratios = {"step_ratio": [], "kink_ratio": [], "amid_ratio": []}
    for axis, dim in enumerate(field_grid(blocks).dims):
        chunk = blocks["displacement"].chunksizes[dim][0]
        borders = np.arange(chunk, blocks.sizes[dim] - 1, chunk)
        if not borders.size:
            continue
        for name, order, at in (
            ("step_ratio", 1, borders),
            ("kink_ratio", 2, borders),
            ("amid_ratio", 1, borders - chunk // 2),
        ):
            planes = np.concatenate([at - k for k in range(1, order + 1)])
            sizes = []
            for field in (blocks, whole):
                jump = np.abs(np.diff(field["displacement"].values, order, axis + 1))
                sizes.append(np.take(jump, planes, axis=axis + 1).mean())
            ratios[name].append(sizes[0] / sizes[1])
    return {name: float(max(values)) for name, values in ratios.items() if values}


def peer_python(tool):
    """Return the Python that has a peer, or print that there is none."""
    if tool.startswith("elastix"):
        return sys.executable
    variable = "XDREG_ITK_DREG" if tool == "itk_dreg" else "XDREG_PEERS"
    python = os.environ.get(variable)
    if not python:
        print(f"{tool}: skipped, {variable} names no Python")
        return None
    return python


def peer_field(tool, fixed, moving, repeats=1):
    """Run a peer on two images, in its own process.

    Returns
    -------
    field : Dataset
        On the fixed grid.
    times : (repeats, 2)
        Seconds on the wall, and of CPU.
    """
    python = peer_python(tool)
    if python is None:
        return None
    import itk

    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/{which}.nii" for which in ("fixed", "moving")]
        for path, image in zip(files, (fixed, moving), strict=True):
            itk.imwrite(image.dreg.to_itk_image(), path)
        out = f"{folder}/field.nii.gz"
        name = "dreg" if tool == "itk_dreg" else "peers"
        script = str(Path(__file__).with_name(f"{name}.py"))
        done = subprocess.run(
            [python, script, tool, *files, out, str(repeats)],
            check=True,
            capture_output=True,
            encoding="utf-8",
            cwd=folder,
        )
        times = np.array(json.loads(done.stdout.splitlines()[-1]))
        vectors = itk.array_from_image(itk.imread(out, itk.Vector[itk.F, 3]))
    grid = grid_of(fixed)
    field = xr.DataArray(
        np.moveaxis(vectors[..., ::-1], -1, 0),
        dims=("component", *grid.dims),
        coords=coordinates(grid),
    )
    return field.to_dataset(name="displacement"), times
