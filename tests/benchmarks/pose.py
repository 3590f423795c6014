"""The pose of real pairs whose moving image is turned, shifted, scaled and cropped.

A case draws a turn of 0 to 45° about a random axis, a shift of up to half the image's
extent along every axis and a scale of 0.8 to 1.25, and keeps a box of the turned image,
along its new axes, of 60 % of its volume: each axis keeps at least 60 % of the image's
extent. Where the box holds less than half of the object (lungs, brain) it is drawn
again. Outside the original image the moved one has the smallest value of the original,
as a file from a resampling tool would.

A case passes where it comes within 10 % of the result on the images as they were, both
judged on what the box holds: the median error of landmarks, in millimetres of the
original image, or the mean Dice of structures. Peers are held to their own results.
``by_mean`` counts what passes by the landmarks' mean error instead; the median of half
of them depends on a few.

``XDREG_POSE_CASES`` sets the number of cases of a pair, by default 40;
``XDREG_POSE_PEERS`` that for which peers run, by default none.
"""

import os
import warnings
from dataclasses import dataclass

import numpy as np
import xarray as xr

import xdreg
from tests.benchmarks.common import opened, pair, peer_field, row, timed
from tests.helpers.data import landmarks
from xdreg.coordinates import coordinates, grid_of
from xdreg.grid import Grid
from xdreg.numerics import kernels
from xdreg.numerics.metrics import dice, target_registration_error

CASES = 40
KEPT_VOLUME = 0.6
LEAST_OBJECT = 0.5
WITHIN = 0.1

PEERS = ("elastix_affine", "greedy_affine")


@dataclass(frozen=True)
class Case:
    """A moved image, and the matrix that maps points of the original to it."""

    moving: xr.DataArray
    matrix: np.ndarray
    degrees: float

    def holds(self, points):
        """Return which points of the original are in the moved image's box."""
        low, high = grid_of(self.moving).bounds
        there = apply(self.matrix, points)
        return ((there >= low) & (there <= high)).all(axis=1)

    def back(self, points):
        """Map points of the moved image into the original."""
        return apply(np.linalg.inv(self.matrix), points)


def apply(matrix, points):
    """Map points by a homogeneous matrix."""
    return points @ matrix[:-1, :-1].T + matrix[:-1, -1]


def rotation(rng, degrees):
    """Return a turn about a random axis."""
    axis = rng.standard_normal(3)
    cross = np.cross(np.eye(3), axis / np.linalg.norm(axis))
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def shares(rng, ndim, kept):
    """Draw the share of every axis that a box keeps; their product is ``kept``."""
    parts = rng.dirichlet(np.ones(ndim))
    return kept**parts


def draw_case(image, inside, rng):
    """Draw a case.

    Parameters
    ----------
    image : DataArray (z, y, x)
        The original moving image.
    inside : (n, 3)
        Points of its object.
    rng
        Random generator.
    """
    own = grid_of(image)
    extent = np.subtract(*own.bounds[::-1])
    degrees = rng.uniform(0, 45)
    scale = np.exp(rng.uniform(np.log(0.8), np.log(1.25)))
    matrix = np.eye(4)
    matrix[:3, :3] = scale * rotation(rng, degrees)
    shift = rng.uniform(-0.5, 0.5, 3) * extent
    matrix[:3, 3] = own.centre - matrix[:3, :3] @ own.centre + shift
    moved_points = apply(matrix, inside)
    while True:
        box = shares(rng, 3, KEPT_VOLUME) * scale * extent
        slack = scale * extent - box
        middle = own.centre + shift + rng.uniform(-0.5, 0.5, 3) * slack
        low, high = middle - box / 2, middle + box / 2
        held = ((moved_points >= low) & (moved_points <= high)).all(axis=1)
        if held.mean() >= LEAST_OBJECT:
            break
    shape = np.maximum(np.round(box / own.spacing), 1).astype(int)
    grid = Grid(
        own.dims,
        tuple(shape.tolist()),
        own.spacing,
        tuple((middle - 0.5 * (shape - 1) * own.spacing).tolist()),
        own.units,
    )
    values = kernels.warp_array(
        image.values,
        own,
        *kernels.affine_displacement(np.linalg.inv(matrix), grid),
        grid,
        fill=float(image.min()),
    )
    moved = xr.DataArray(values, dims=grid.dims, coords=coordinates(grid))
    return Case(moved, matrix, degrees)


class Lung:
    """Landmarks of the lung pair."""

    name = "lung_ct"

    def __init__(self):
        self._fixed, self._moving = (
            landmarks(self.name, which) for which in ("fixed", "moving")
        )

    def errors(self, mapping, case):
        """Return median and mean error, in millimetres of the original image."""
        chosen = case.holds(self._moving)
        found = mapping(self._fixed[chosen])
        gaps = target_registration_error(found, self._moving[chosen])
        # Points that a field does not reach are lost.
        gaps = np.where(np.isfinite(gaps), gaps, np.inf)
        return {"passed": float(np.median(gaps)), "by_mean": float(np.mean(gaps))}


class Mouse:
    """Structures of the mouse brains."""

    name = "mouse_brain"

    def __init__(self, reference):
        """Map the structures by the unturned result."""
        fixed, moving = (
            opened(self.name, f"{which}_labels")["scale0/image"]
            for which in ("fixed", "moving")
        )
        index = np.stack(np.nonzero(np.ones(fixed.shape, bool)), axis=1)
        brain = grid_of(fixed)
        self._points = brain.index_to_physical(index)
        self._labels = fixed.values.ravel()
        self._moving, self._grid = moving.values, grid_of(moving)
        self._there = reference(self._points)

    def errors(self, mapping, case):
        """Return one minus the mean Dice of the structures where the box has data."""
        chosen = case.holds(self._there)
        low, high = self._grid.bounds
        chosen &= ((self._there >= low) & (self._there <= high)).all(axis=1)
        index = np.rint(self._grid.physical_to_index(mapping(self._points[chosen])))
        size = np.array(self._grid.shape)
        inside = ((index >= 0) & (index < size)).all(axis=1)
        found = np.zeros(inside.shape, self._moving.dtype)
        found[inside] = self._moving[tuple(index[inside].astype(int).T)]
        own = self._labels[chosen]
        scores = dice(own, found)
        names, counts = np.unique(own, return_counts=True)
        # A sliver of a structure is not judged.
        names = [int(n) for n, c in zip(names, counts, strict=True) if n and c >= 50]
        return {"passed": 1 - float(np.mean([scores.get(n, 0.0) for n in names]))}


def passes(name, error, reference):
    """Return whether a result is within 10 % of that on the original images."""
    if name == "lung_ct":
        return error <= (1 + WITHIN) * reference
    return 1 - error >= (1 - WITHIN) * (1 - reference)


def object_points(name):
    """Return points of the object in the moving image."""
    mask = opened(name, "moving_mask")["scale0/image"]
    index = np.stack(np.nonzero(mask.values), axis=1)[::97]
    return grid_of(mask).index_to_physical(index)


def cases(name, count):
    """Yield a pair's cases; each has its own seed, so that any can be drawn alone."""
    image = pair(name)[1]["scale0/image"].astype("float32").load()
    inside = object_points(name)
    for number in range(count):
        yield draw_case(image, inside, np.random.default_rng([number, len(name)]))


def pose():
    """Print passing cases of each pair, by the affine stage, all stages, and peers."""
    count = int(os.environ.get("XDREG_POSE_CASES", CASES))
    peers = int(os.environ.get("XDREG_POSE_PEERS", "0"))
    for name in ("lung_ct", "mouse_brain"):
        fixed, moving = (
            tree["scale0/image"].astype("float32").load() for tree in pair(name)
        )

        def run(image, fixed=fixed, **options):
            field, seconds = timed(
                fixed.dreg.register, image, progress=False, **options
            )
            return field.dreg.transform_points, seconds

        affine = {"stages": [xdreg.Affine()]}
        runs = {"affine": affine, "default": {}}
        references = {what: run(moving, **o)[0] for what, o in runs.items()}
        judge = Lung() if name == "lung_ct" else Mouse(references["default"])
        tally = Tally(name, judge)
        for number, case in enumerate(cases(name, count)):
            for what, options in runs.items():
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    mapping, seconds = run(case.moving, **options)
                doubtful = any("different poses" in str(w.message) for w in caught)
                tally.add(what, mapping, references[what], case, seconds, doubtful)
            for tool in PEERS if number < peers else ():
                if tool not in references:
                    found = peer_field(tool, fixed, moving)
                    if found is None:
                        continue
                    references[tool] = found[0].dreg.transform_points
                field, times = peer_field(tool, fixed, case.moving)
                mapping = field.dreg.transform_points
                tally.add(tool, mapping, references[tool], case, times[0, 0])
        tally.show()


class Tally:
    """Counts of a pair's passing cases by method."""

    def __init__(self, name, judge):
        self._name, self._judge, self._rows = name, judge, {}

    def add(self, what, mapping, reference, case, seconds, doubtful=False):
        """Judge a result and count it."""
        errors = self._judge.errors(lambda p: case.back(mapping(p)), case)
        own = self._judge.errors(reference, case)
        passed = {by: passes(self._name, e, own[by]) for by, e in errors.items()}
        verdict = passed, doubtful, errors["passed"], seconds
        self._rows.setdefault(what, []).append(verdict)

    def show(self):
        """Print a row for everything that ran."""
        for what, rows in self._rows.items():
            verdicts, *others = zip(*rows, strict=True)
            doubtful, error, seconds = (np.array(v) for v in others)
            counts = {
                by: f"{sum(v[by] for v in verdicts)} of {len(rows)}"
                for by in verdicts[0]
            }
            passed = np.array([v["passed"] for v in verdicts])
            row(
                f"{self._name} {what}",
                **counts,
                warned=f"{(doubtful & passed).sum()} right, "
                f"{(doubtful & ~passed).sum()} wrong",
                median_error=float(np.median(error)),
                worst=float(error.max()),
                seconds=float(np.median(seconds)),
            )
