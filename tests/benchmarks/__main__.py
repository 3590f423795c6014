"""Figures on real pairs: ``python -m tests.benchmarks [NAME …]``, by default all."""

import sys
import time

import numpy as np

import xdreg
from tests.data import ROOT, landmarks
from xdreg.coordinates import grid_of
from xdreg.field import field_grid, status_counts
from xdreg.metrics import normalised_correlation, target_registration_error

BLOCK = 64


def _pair(name):
    return [
        xdreg.open_ome_zarr(ROOT / name / f"{n}.ome.zarr") for n in ("fixed", "moving")
    ]


def _row(name, **figures):
    texts = [
        f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}"
        for k, v in figures.items()
    ]
    print(f"{name:<28} " + "   ".join(texts), flush=True)


def _border_ratio(blocks, whole):
    """Compare the field's kinks at block borders with the one-block run's."""
    ratios = []
    for axis, dim in enumerate(field_grid(blocks).dims):
        chunk = blocks["displacement"].chunksizes[dim][0]
        borders = np.arange(chunk, blocks.sizes[dim] - 1, chunk)
        if not borders.size:
            continue
        steps = []
        for field in (blocks, whole):
            jump = np.abs(np.diff(field["displacement"].values, n=2, axis=axis + 1))
            planes = np.concatenate([borders - 2, borders - 1])
            steps.append(np.take(jump, planes, axis=axis + 1).mean())
        ratios.append(steps[0] / steps[1])
    return float(np.max(ratios))


def lung_ct():
    """Target registration error in millimetres, with masks and without."""
    fixed, moving = _pair("lung_ct")
    points = [landmarks("lung_ct", n) for n in ("fixed", "moving")]
    masks = {
        f"{n}_mask": xdreg.open_ome_zarr(ROOT / "lung_ct" / f"{n}_mask.ome.zarr")
        for n in ("fixed", "moving")
    }
    for name, options in (("lung_ct with masks", masks), ("lung_ct without", {})):
        began = time.perf_counter()
        field = fixed.dreg.register(
            moving, block_shape=BLOCK, progress=False, **options
        )
        seconds = time.perf_counter() - began
        mapped = field.dreg.transform_points(points[0])
        error = target_registration_error(mapped, points[1])
        _row(
            name,
            mean=float(error.mean()),
            median=float(np.median(error)),
            p90=float(np.percentile(error, 90)),
            min_jacobian=float(field.dreg.jacobian_determinant().min()),
            blocks=status_counts(field),
            seconds=seconds,
        )


def exm_lowres():
    """Normalised correlation, and the field's step at block borders."""
    fixed, moving = _pair("exm_lowres")
    reference = fixed["scale0/image"].values
    source = moving["scale0/image"].astype("float32")
    fields = {}
    for name, block in (("exm_lowres blocks", BLOCK), ("exm_lowres one block", 1024)):
        began = time.perf_counter()
        field = fixed.dreg.register(moving, block_shape=block, progress=False)
        seconds = time.perf_counter() - began
        moved = field.dreg.warp(source, fill_value=np.nan).values
        fields[block] = field
        _row(
            name,
            ncc=normalised_correlation(reference, moved),
            blocks=status_counts(field),
            seconds=seconds,
        )
    _row(
        "exm_lowres borders",
        step_ratio=_border_ratio(fields[BLOCK], fields[1024]),
    )


def synthetic():
    """Endpoint error in voxels of a 192 cube, smooth field up to ten voxels."""
    pair = xdreg.datasets.phantom_pair((192, 192, 192), amplitude=10.0 / np.sqrt(3))
    fixed, moving = pair.fixed.compute(), pair.moving.compute()
    truth, inside = pair.displacement.values, pair.foreground.values
    where = np.stack(np.nonzero(inside), axis=1)[::97]
    expected = truth[(slice(None), *where.T)].T
    for name, block in (("one block", 192), ("2 x 2 x 2", 96), ("3 x 3 x 3", 64)):
        began = time.perf_counter()
        field = fixed.dreg.register(moving, block_shape=block, progress=False)
        seconds = time.perf_counter() - began
        found = field.dreg.transform_points(where.astype(float)) - where
        error = np.linalg.norm(found - expected, axis=1)
        _row(
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

    fixed, moving = (
        tree["scale0/image"].astype("float32") for tree in _pair("lung_ct")
    )
    stages = [xdreg.Affine(), xdreg.BSpline(level=1)]
    field = fixed.dreg.register(
        moving, stages=stages, block_shape=BLOCK, progress=False
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
    _row(
        "roundtrips",
        store_exact=same,
        itk_voxels=f"{voxels:.1e}",
        warp_against_itk=f"{gap / float(moving.max() - moving.min()):.1e}",
    )


BENCHMARKS = {f.__name__: f for f in (lung_ct, exm_lowres, synthetic, roundtrips)}


def main(names):
    """Run the named benchmarks."""
    unknown = set(names) - BENCHMARKS.keys()
    if unknown:
        sys.exit(f"no benchmark {sorted(unknown)}; there are {sorted(BENCHMARKS)}")
    for name in names or BENCHMARKS:
        BENCHMARKS[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
