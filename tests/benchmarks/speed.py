"""Seconds end to end, against whole-image peers and itk-dreg, and of the import.

Everything runs at its defaults, the linear part included. Medians of three, but of
itk-dreg, which takes minutes, one run. Engine processes are warm after the first run,
as are the peers'. ``XDREG_PEERS`` and ``XDREG_ITK_DREG`` name the Pythons of the peers.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

import xdreg
from tests.benchmarks.common import (
    BLOCK,
    landmark_error,
    measured,
    pair,
    peer_field,
    peer_python,
    row,
)

REPEATS = 3
PEERS = ("elastix", "elastix_threads", "greedy", "syn", "itk_dreg")

#: The defaults, in 18 blocks and in eight, as many as itk-dreg has; and the stages
#: through elastix with the metric that fits the pair.
METHODS = {
    "default": {"block_shape": BLOCK[3]},
    "default, 2 x 2 x 2": {"block_shape": 80},
    "elastix": {
        "stages": [xdreg.Affine(), xdreg.BSpline()],
        "metric": "ncc",
        "block_shape": BLOCK[3],
    },
}

#: Blocks per axis with which itk-dreg's reduction is timed.
REDUCED = (2, 3)


def speed():
    """Print seconds and errors on lung_ct, their ratios, and seconds of the import."""
    importing()
    name = "lung_ct"
    pictures = pair(name)
    own, others = {}, {}
    for method, options in METHODS.items():
        runs = [
            measured(pictures[0].dreg.register, pictures[1], progress=False, **options)
            for _ in range(REPEATS)
        ]
        own[method] = _show(f"xdreg {method}", runs[-1][0], [t for _, t in runs], name)
    images = [tree["scale0/image"].astype("float32") for tree in pictures]
    for peer in PEERS:
        repeats = 1 if peer == "itk_dreg" else REPEATS
        found = peer_field(peer, *images, repeats=repeats)
        if found is not None:
            others[peer] = _show(peer, *found, name)
    for method, ours in own.items():
        for peer, theirs in others.items():
            ratios = {what: f"{ours[what] / theirs[what]:.2f} x" for what in ours}
            row(f"xdreg {method} / {peer}", **ratios)
    reduction()


def importing():
    """Print seconds of ``import xdreg`` and of ``import xarray`` in a fresh Python."""
    for module in ("xarray", "xdreg"):
        code = (
            "import sys, time; began = time.perf_counter(), time.process_time(); "
            f"import {module}; "
            "print(time.perf_counter() - began[0], time.process_time() - began[1], "
            "[m for m in ('itk', 'napari', 'distributed') if m in sys.modules])"
        )
        runs = [
            subprocess.run(
                [sys.executable, "-c", code],
                check=True,
                capture_output=True,
                encoding="utf-8",
            ).stdout.split(maxsplit=2)
            for _ in range(REPEATS)
        ]
        wall, cpu = np.median([[float(v) for v in run[:2]] for run in runs], axis=0)
        heavy = runs[-1][2].strip()
        row(f"import {module}", wall=float(wall), cpu=float(cpu), heavy=heavy)


def reduction():
    """Print milliseconds of CPU per field point of itk-dreg's reduction."""
    python = peer_python("itk_dreg")
    if python is None:
        return
    script = str(Path(__file__).with_name("dreg.py"))
    done = subprocess.run(
        [python, script, "reduction", *map(str, REDUCED)],
        check=True,
        capture_output=True,
        encoding="utf-8",
    )
    found = json.loads(done.stdout.splitlines()[-1])
    figures = {f"blocks_{n**3}": v for n, v in zip(REDUCED, found, strict=True)}
    row("itk_dreg reduction, ms", **figures)


def _show(label, field, times, name):
    """Print a line; return its figures."""
    wall, cpu = np.median(times, axis=0)
    figures = {**landmark_error(field, name), "wall": float(wall), "cpu": float(cpu)}
    row(f"{name} {label}", **figures)
    return figures
