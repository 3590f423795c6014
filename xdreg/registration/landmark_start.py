"""Landmarks as a constraint of a stage: where it starts, and what its blocks aim at.

Before the blocks run, one smooth displacement of the whole image, which does not fold,
brings the landmarks together if they are far apart. What is left is the blocks' task.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from xdreg.engines.landmark_pull import Landmarks
from xdreg.engines.voxel_units import VoxelUnits
from xdreg.errors import warn
from xdreg.fields.landmarks import rows_of
from xdreg.fields.points import points_back, transform_points
from xdreg.fields.reader import FieldReader, PrecededField
from xdreg.registration.state import State

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    import xarray as xr
    from numpy.typing import NDArray

    from xdreg.grid import Grid
    from xdreg.registration.plan import Plan
    from xdreg.registration.planned_stage import PlannedStage
    from xdreg.registration.state import Shared

    Points = NDArray[np.float64]

#: Distance from a landmark within which a field passes it, in mean voxels of the level.
TOLERANCE = 0.5

#: Landmarks that are farther apart, in mean voxels of the level, are brought together
#: before the blocks run.
REACH = 4.0

#: Most points per axis of the displacement that does so.
MOST_POINTS = 48

#: Its first Gaussians, relative to the image's largest extent; by how much narrower
#: each next ones are; and the last ones, in its points.
WIDEST, NARROWER, LEAST = 0.25, 0.6, 3.0


def tolerance_of(stage: PlannedStage) -> float:
    """Return the distance within which a stage passes landmarks, physical."""
    return (
        TOLERANCE
        * VoxelUnits(stage.partition.grid).mean_spacing
        / (stage.options.landmark_weight or 1.0)
    )


def constrained(
    stage: PlannedStage, shared: Shared, state: State
) -> tuple[State, dict[str, Any]]:
    """Return where a stage starts, and the options of its engine, due to landmarks."""
    given = getattr(stage.options, "landmarks", None)
    if given is None:
        return state, {}
    grid, tolerance = stage.partition.grid, tolerance_of(stage)
    points, goals = (
        world @ image.placed.from_world[:-1, :-1].T
        for world, image in zip(
            _used(given), (shared.fixed, shared.moving), strict=True
        )
    )
    found = _aims(state, shared.fixed.grid, points, goals, tolerance)
    farthest = np.linalg.norm(found.wanted, axis=1).max(initial=0)
    if farthest > REACH * VoxelUnits(grid).mean_spacing:
        state = _preceded(state, _joining(found, grid), grid)
        found = _aims(state, shared.fixed.grid, points, goals, tolerance)
    return state, {"landmarks": found}


def _used(given: Mapping[str, Any]) -> tuple[Points, Points]:
    """Return the fixed and the moving landmarks that are used."""
    used = [not reason for reason in given["left_out"]]
    return np.array(given["fixed"])[used], np.array(given["moving"])[used]


def _aims(
    state: State, fixed: Grid, points: Points, goals: Points, tolerance: float
) -> Landmarks:
    """Return the update that a displacement needs at each point to end at its goal."""
    if state.matrix is not None:
        back = np.linalg.inv(state.matrix)
        there = goals @ back[:-1, :-1].T + back[:-1, -1]
    else:
        there = points_back(state.reader, fixed, goals)
    known = np.isfinite(there).all(axis=1)
    return Landmarks(points[known], (there - points)[known], tolerance)


def _joining(landmarks: Landmarks, grid: Grid) -> FieldReader:
    """Return a smooth displacement without folds that brings landmarks together."""
    steps = [int(np.ceil(n / MOST_POINTS)) for n in grid.shape]
    coarse = grid.every(steps)
    values = np.zeros((grid.ndim, *coarse.shape), np.float32)
    widths = [WIDEST * float(np.max(np.subtract(*grid.bounds[::-1])))]
    while widths[-1] > LEAST * max(coarse.spacing):
        widths.append(NARROWER * widths[-1])
    return FieldReader(landmarks.settled(values, coarse, widths), coarse)


def _preceded(state: State, update: FieldReader, grid: Grid) -> State:
    """Return a state with a displacement applied before it."""
    own, before = update.grid, state.reader.grid
    # A linear state has few points, and an earlier one may have fewer.
    finer = before if np.less(before.spacing, own.spacing).all() else own
    both = PrecededField(state.reader, update, finer)
    if finer is own:
        whole = both[(slice(None), *map(slice, own.shape))]
        return State(FieldReader(whole, own), None)
    return State(FieldReader(both, finer), None)


def tell_of_landmarks(field: xr.Dataset, plan: Plan) -> xr.Dataset:
    """Return a field that records its landmarks; warn of those that it misses."""
    stages = [s for s in plan.stages if getattr(s.options, "landmarks", None)]
    if not stages:
        return field
    given, tolerance = stages[-1].options.landmarks, tolerance_of(stages[-1])
    gap = transform_points(field, np.array(given["fixed"])) - np.array(given["moving"])
    distance = np.linalg.norm(gap, axis=1)
    left_out = np.array([bool(reason) for reason in given["left_out"]])
    missed = ~left_out & ~(distance <= tolerance)
    if missed.any():
        units = plan.fixed.grids[0].units or ""
        warn(
            f"the field misses {int(missed.sum())} of {int((~left_out).sum())} "
            f"landmarks by more than {tolerance:.3g} {units}, up to "
            f"{np.nanmax(distance[missed]):.3g}: {rows_of(given['names'], missed)}. "
            "See field.dreg.landmarks, and the blocks there"
        )
    table = {
        "name": given["names"],
        "left_out": given["left_out"],
        "distance": [None if np.isnan(d) else float(d) for d in distance],
        "tolerance": tolerance,
    }
    return field.assign_attrs(landmarks=json.dumps(table))
