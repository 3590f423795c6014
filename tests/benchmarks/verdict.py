"""How often the verdict on a registration errs, on pairs whose truth is known.

Phantoms in two and three dimensions: other contrast, noise, poses, padding, crops. Then
pairs that no registration can solve: unrelated images, noise, a wrong start. A result
is right where the median error in the foreground is at most one voxel; of the shared
pairs, where that of the landmarks is at most the number in `REAL`. The verdict errs
where it calls a wrong result good, or a right one failed.

``XDREG_VERDICT_SEEDS`` sets how many phantoms each case is made of, by default 2.
"""

import os
import warnings
from collections import Counter

import numpy as np
import xarray as xr

import xdreg
from tests.benchmarks.common import row, timed
from tests.helpers.data import ROOT
from xdreg.coordinates import coordinates, grid_of
from xdreg.numerics import kernels

SHAPES = {2: (160, 192), 3: (40, 48, 56)}

#: Largest median error of a right result, in physical units.
REAL = {"lung_ct": 2.5, "histology_kidney": 5.0}


def posed(image, degrees, shift):
    """Return an image turned in its last plane and shifted by a share of its extent."""
    grid = grid_of(image)
    matrix = np.eye(grid.ndim + 1)
    turn = np.radians(degrees)
    cos, sin = np.cos(turn), np.sin(turn)
    matrix[-3:-1, -3:-1] = [[cos, -sin], [sin, cos]]
    extent = np.subtract(*grid.bounds[::-1])
    centre = np.array(grid.centre)
    matrix[:-1, -1] = centre - matrix[:-1, :-1] @ centre + shift * extent
    values = kernels.warp_array(
        image.values.astype("float32"),
        grid,
        *kernels.affine_displacement(np.linalg.inv(matrix), grid),
        grid,
        fill=0.0,
    )
    moved = xr.DataArray(values, dims=grid.dims, coords=coordinates(grid))
    return moved, matrix


def cases(ndim, seed):
    """Yield a name, fixed, moving, options, and the matrix after the true field."""
    pair = xdreg.datasets.phantom_pair(SHAPES[ndim], seed=seed, noise=0.02)
    fixed, moving = pair.fixed.compute(), pair.moving.compute()
    same = np.eye(ndim + 1)
    rng = np.random.default_rng(seed)
    top = float(moving.max())
    noisy = moving + rng.normal(0, 0.15 * top, moving.shape)
    yield "plain", fixed, moving, {}, same
    yield "noise", fixed, noisy, {}, same
    yield "inverted", fixed, top - moving, {}, same
    yield "gamma", fixed, top * (moving / top) ** 2.5, {}, same
    ramp = np.linspace(0.3, 1.0, moving.shape[-1])
    yield "shading", fixed, moving * ramp, {}, same
    yield "padded", fixed, moving.where(moving.x > moving.x[20], 0), {}, same
    for degrees, shift in ((12, 0.05), (35, 0.2), (120, 0.1)):
        moved, matrix = posed(moving, degrees, shift)
        yield f"turned {degrees}", fixed, moved, {}, matrix
    quarter = {"y": slice(0, moving.sizes["y"] // 2)}
    yield "half of it", fixed, moving.isel(quarter), {}, same
    other = xdreg.datasets.phantom_pair(SHAPES[ndim], seed=seed + 100)
    yield "unrelated", fixed, other.moving.compute(), {}, None
    noise = moving.copy(data=rng.uniform(0, top, moving.shape))
    yield "noise alone", fixed, noise, {}, None
    drowned = moving + rng.normal(0, 3 * top, moving.shape)
    yield "drowned in noise", fixed, drowned, {}, same
    wrong = np.eye(ndim + 1)
    wrong[:-1, -1] = 0.3 * np.subtract(*grid_of(moving).bounds[::-1])
    yield "wrong start", fixed, moving, {"initial": wrong}, same


def median_error(field, pair, matrix):
    """Return the median error in the foreground, infinite where nothing is right."""
    if matrix is None:
        return np.inf
    inside = np.stack(np.nonzero(pair.foreground.values), axis=1)[::37]
    points = grid_of(pair.fixed).index_to_physical(inside)
    expected = points + pair.displacement.values[(slice(None), *inside.T)].T
    expected = expected @ matrix[:-1, :-1].T + matrix[:-1, -1]
    gaps = np.linalg.norm(field.dreg.transform_points(points) - expected, axis=1)
    return float(np.median(np.where(np.isfinite(gaps), gaps, np.inf)))


class Tally:
    """Counts of verdicts by whether the result is right."""

    def __init__(self):
        self.counts = {True: Counter(), False: Counter()}

    def add(self, name, field, right, error, seconds):
        """Count a result, and print it."""
        found = field.dreg.verdict
        self.counts[right][found.word] += 1
        row(
            name,
            right=right,
            error=error,
            verdict=str(found),
            margin=(field.dreg.pose or {}).get("margin"),
            folded=float(field.dreg.folded_share()),
            similarity=field.dreg.stages.similarity_after.iloc[-1],
            disagreement=float(field.block_disagreement.max()),
            seconds=seconds,
        )

    def show(self):
        """Print the counts."""
        for right, counts in self.counts.items():
            row("right" if right else "wrong", **counts)


def registered(fixed, moving, **options):
    """Register without the warnings, which say what the verdict says."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return timed(fixed.dreg.register, moving, progress=False, **options)


def verdict():
    """Print the verdict on every case, and how often it errs."""
    tally = Tally()
    for ndim, shape in SHAPES.items():
        for seed in range(int(os.environ.get("XDREG_VERDICT_SEEDS", "2"))):
            pair = xdreg.datasets.phantom_pair(shape, seed=seed, noise=0.02)
            block = {"block_shape": shape[0] * 2 // 3}
            for name, fixed, moving, options, matrix in cases(ndim, seed):
                field, seconds = registered(fixed, moving, **block, **options)
                error = median_error(field, pair, matrix)
                tally.add(f"{ndim}-D {name}", field, error <= 1.0, error, seconds)
    for name, most in REAL.items() if ROOT.exists() else ():
        pair = xdreg.datasets.fetch(name, ROOT)
        masks = {"fixed_mask": pair.fixed_mask, "moving_mask": pair.moving_mask}
        colour = (
            "luminance" if "c" in xdreg.image_levels(pair.fixed, "f")[0].dims else None
        )
        moving = xdreg.image_levels(pair.moving, "moving")[0]
        flipped = moving.copy(data=moving.data[..., ::-1, :])
        for what, image, used in (("", pair.moving, masks), (" mirrored", flipped, {})):
            field, seconds = registered(pair.fixed, image, channel=colour, **used)
            errors = xdreg.landmark_errors(field, pair.fixed_points, pair.moving_points)
            error = np.inf if what else float(np.nanmedian(errors.after))
            tally.add(name + what, field, error <= most, error, seconds)
    tally.show()
