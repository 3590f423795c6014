"""Half of the landmarks of a pair as a constraint, judged by the other half."""

import warnings

import numpy as np

import xdreg
from tests.benchmarks.common import pair, row, timed
from tests.helpers.data import landmarks as real_landmarks


def landmarks():
    """Errors of the other half of the landmarks, without and with the first half."""
    for name, options, weights in (
        ("lung_ct", {}, (None, 1.0)),
        # Half a voxel is less than these landmarks are known to.
        ("histology_kidney", {"channel": "luminance"}, (None, 1.0, 0.2)),
    ):
        fixed, moving = pair(name)
        both = [real_landmarks(name, which) for which in ("fixed", "moving")]
        plan = fixed.dreg.plan(moving, **options)
        levels = [s.fixed_level for s in plan.stages if not s.options.linear]
        for first in (0, 1):
            given = np.arange(len(both[0])) % 2 == first
            for weight in weights:
                used = {}
                if weight is not None:
                    used["landmarks"] = tuple(points[given] for points in both)
                    used["landmark_weight"] = weight
                stages = [xdreg.Affine()]
                stages += [
                    xdreg.LocalCorrelation(level=level, **used) for level in levels
                ]
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    field, seconds = timed(
                        fixed.dreg.register,
                        moving,
                        stages=stages,
                        progress=False,
                        **options,
                    )
                label = f"{name} {first} weight {weight}"
                _tell(label, field, both, given, seconds)


def _tell(name, field, both, given, seconds):
    """Print the errors of the given and the other half of the landmarks."""
    there = field.dreg.transform_points(both[0])
    error = np.linalg.norm(there - both[1], axis=1)
    table = field.dreg.landmarks
    kept = np.ones(given.sum(), bool) if table is None else table["left_out"] == ""
    row(
        name,
        given_largest=float(error[given][kept].max()),
        left_out=int((~kept).sum()),
        other_mean=float(error[~given].mean()),
        other_median=float(np.median(error[~given])),
        other_90=float(np.percentile(error[~given], 90)),
        folded=float(field.dreg.folded_share()),
        seconds=seconds,
    )
