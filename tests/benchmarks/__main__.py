"""The command of the benchmarks: ``python -m tests.benchmarks [NAME …]``."""

import sys

import numpy as np

import xdreg
from tests.benchmarks.accuracy import accuracy
from tests.benchmarks.brains import brains
from tests.benchmarks.common import (
    BLOCK,
    pair,
    row,
    timed,
)
from tests.benchmarks.contrasts import contrasts
from tests.benchmarks.determinism import determinism
from tests.benchmarks.drift import drift
from tests.benchmarks.engine import engine
from tests.benchmarks.failures import failures
from tests.benchmarks.faults import faults
from tests.benchmarks.field import field
from tests.benchmarks.gpu import gpu
from tests.benchmarks.landmarks import landmarks
from tests.benchmarks.large import large, memory
from tests.benchmarks.machinery import machinery
from tests.benchmarks.motion import motion
from tests.benchmarks.paper import paper
from tests.benchmarks.pose import pose
from tests.benchmarks.robustness import robustness
from tests.benchmarks.rounds import rounds
from tests.benchmarks.scale import scale
from tests.benchmarks.speed import speed
from tests.benchmarks.tradeoff import tradeoff
from tests.benchmarks.verdict import verdict
from xdreg.coordinates import grid_of
from xdreg.fields.diagnostics import status_counts
from xdreg.fields.field import field_grid


def synthetic():
    """Endpoint error in voxels of a 192 cube, smooth field up to ten voxels."""
    phantom = xdreg.datasets.phantom_pair((192, 192, 192), amplitude=10.0 / np.sqrt(3))
    fixed, moving = phantom.fixed.compute(), phantom.moving.compute()
    truth, inside = phantom.displacement.values, phantom.foreground.values
    where = np.stack(np.nonzero(inside), axis=1)[::97]
    expected = truth[(slice(None), *where.T)].T
    for name, block in (("one block", 192), ("2 x 2 x 2", 96), ("3 x 3 x 3", 64)):
        field, seconds = timed(
            fixed.dreg.register, moving, block_shape=block, progress=False
        )
        found = field.dreg.transform_points(where.astype(float)) - where
        error = np.linalg.norm(found - expected, axis=1)
        row(
            f"synthetic {name}",
            mean_error=float(error.mean()),
            largest_motion=float(np.linalg.norm(expected, axis=1).max()),
            blocks=status_counts(field),
            seconds=seconds,
        )


def roundtrips():
    """Exactness of stores, of ITK transforms and of the warp, on a lung field."""
    import tempfile

    import itk

    fixed, moving = (tree["scale0/image"].astype("float32") for tree in pair("lung_ct"))
    stages = [xdreg.Affine(), xdreg.BSpline(level=1)]
    field = fixed.dreg.register(
        moving, stages=stages, block_shape=BLOCK[3], progress=False
    )
    grid = field_grid(field)
    with tempfile.TemporaryDirectory() as folder:
        field.dreg.to_ome_zarr(f"{folder}/field.ome.zarr")
        again = xdreg.open_field(f"{folder}/field.ome.zarr")
        same = bool((again.displacement.values == field.displacement.values).all())
    transform = field.dreg.to_itk_transform()
    back = xdreg.from_itk_transform(transform, grid)
    difference = np.abs(back.displacement.values - field.displacement.values)
    voxels = float((difference.max(axis=(1, 2, 3)) / grid.spacing).max())
    moved = field.dreg.warp(moving).values
    reference = fixed.dreg.to_itk_image()
    theirs = itk.resample_image_filter(
        moving.dreg.to_itk_image(),
        transform=transform,
        use_reference_image=True,
        reference_image=reference,
    )
    inner = tuple(slice(3, -3) for _ in grid_of(fixed).dims)
    gap = np.abs(moved - np.asarray(theirs))[inner].max()
    row(
        "roundtrips",
        store_exact=same,
        itk_voxels=f"{voxels:.1e}",
        warp_against_itk=f"{gap / float(moving.max() - moving.min()):.1e}",
    )


BENCHMARKS = {
    f.__name__: f
    for f in (
        accuracy,
        synthetic,
        roundtrips,
        failures,
        faults,
        determinism,
        engine,
        gpu,
        pose,
        landmarks,
        contrasts,
        robustness,
        brains,
        machinery,
        motion,
        drift,
        rounds,
        memory,
        scale,
        large,
        paper,
        field,
        speed,
        tradeoff,
        verdict,
    )
}


def main(names):
    """Run the named benchmarks."""
    unknown = set(names) - BENCHMARKS.keys()
    if unknown:
        sys.exit(f"no benchmark {sorted(unknown)}; there are {sorted(BENCHMARKS)}")
    for name in names or BENCHMARKS:
        BENCHMARKS[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
