"""Errors against seconds, as one option after the other is changed.

The deformable stages alone, in blocks of 64³, from the same affine transform; one run
each, for a run is seconds. Seconds of CPU say more than those on the wall, which depend
on how many cores there are and what else runs.
"""

from dataclasses import replace

import xdreg
from tests.benchmarks.common import (
    BLOCK,
    landmark_error,
    mean_dice,
    measured,
    pair,
    row,
)
from xdreg.engines.local_correlation import smoothing

PAIRS = {
    "lung_ct": landmark_error,
    "mouse_brain": lambda field, _: {"dice": mean_dice(field)},
}

#: Values tried beside the defaults.
ITERATIONS = (25, 50, 200)
FIELD_STEPS = (1, 4)
STIFFNESSES = (0.7, 1.4)
BSPLINE_ITERATIONS = (50, 200)
BSPLINE_SAMPLES = (1024, 4096)
BSPLINE_SPACINGS = (4, 10)


def tradeoff():
    """Print errors against seconds of local correlation and of B-splines."""
    for name, judge in PAIRS.items():
        fixed, moving = pair(name)
        options = {"metric": "lncc", "progress": False}
        start = fixed.dreg.register(moving, stages=xdreg.Affine(), **options)
        # Compiles kernels and starts processes before the first measurement.
        for label, stages in (("", xdreg.BSpline(level=1)), *_points(fixed, moving)):
            field, (wall, cpu) = measured(
                fixed.dreg.register,
                moving,
                stages=stages,
                initial=start,
                block_shape=BLOCK[3],
                **options,
            )
            if label:
                row(f"{name} {label}", **judge(field, name), wall=wall, cpu=cpu)


def _points(fixed, moving):
    """Yield labels and the stages to run."""
    planned = fixed.dreg.plan(moving, metric="lncc").stages[1:]
    stages = [stage.options for stage in planned]
    yield "local correlation", stages
    for number in ITERATIONS:
        yield f"iterations {number}", [replace(s, iterations=number) for s in stages]
    yield "finest level left out", stages[:-1]
    yield "finest level alone", stages[-1:]
    for step in FIELD_STEPS:
        finest = replace(stages[-1], field_step=step)
        yield f"field step {step}", [*stages[:-1], finest]
    for factor in STIFFNESSES:
        stiffer = []
        for stage in planned:
            lengths = smoothing(stage.engine_options, stage.partition.grid)
            scaled = {
                name: [factor * length for length in axes]
                for name, axes in lengths.items()
            }
            stiffer.append(replace(stage.options, **scaled))
        yield f"smoothing x {factor}", stiffer
    yield "b-spline", xdreg.BSpline()
    for number in BSPLINE_ITERATIONS:
        yield f"b-spline iterations {number}", xdreg.BSpline(iterations=number)
    for number in BSPLINE_SAMPLES:
        yield f"b-spline samples {number}", xdreg.BSpline(samples=number)
    spacing = planned[-1].partition.grid.spacing
    for number in BSPLINE_SPACINGS:
        lengths = [number * step for step in spacing]
        yield f"b-spline spacing {number} voxels", xdreg.BSpline(grid_spacing=lengths)
