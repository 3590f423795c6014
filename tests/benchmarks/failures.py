"""Errors with bad blocks: a fifth returns garbage, on a real pair and a phantom.

Every kind of garbage is compared with the run in which the same blocks find nothing:
a rejected block cannot be better.
"""

import warnings

import numpy as np

import xdreg
from tests.benchmarks.common import landmark_error, pair, row
from tests.helpers.faulty import faulty
from xdreg.fields.diagnostics import status_counts

KINDS = ("zero", "noise", "nan", "raise", "shift", "wave")

#: A seed with which no stage has bad blocks only, which is an error.
OPTIONS = {"share": 0.2, "seed": 2}


def failures():
    """Print errors with a fifth of all blocks bad, against the same blocks at zero."""
    fixed, moving = pair("lung_ct")
    for block in (64, 32):
        _compare(
            f"lung_ct {block}",
            fixed,
            moving,
            block,
            lambda field: landmark_error(field, "lung_ct"),
        )
    phantom = xdreg.datasets.phantom_pair((112, 128, 144), amplitude=6.0)
    where = np.stack(np.nonzero(phantom.foreground.values), axis=1)[::97]
    truth = phantom.displacement.values[(slice(None), *where.T)].T

    def endpoint(field):
        found = field.dreg.transform_points(where.astype(float)) - where
        error = np.linalg.norm(found - truth, axis=1)
        return {"mean": float(error.mean()), "p99": float(np.percentile(error, 99))}

    images = phantom.fixed.compute(), phantom.moving.compute()
    _compare("phantom 32", *images, 32, endpoint)


def _compare(name, fixed, moving, block, judge):
    """Print a row for each kind of garbage."""
    levels = [
        stage.options.level
        for stage in fixed.dreg.plan(moving, block_shape=block).stages[1:]
    ]
    reference = None
    for kind in KINDS:
        stages = [
            xdreg.Custom(method=faulty, level=level, options={"kind": kind, **OPTIONS})
            for level in levels
        ]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "no block of stage")
            field = fixed.dreg.register(
                moving,
                stages=[xdreg.Affine(), *stages],
                block_shape=block,
                progress=False,
            )
        figures = judge(field)
        reference = reference or figures["mean"]
        row(
            f"{name} {kind}",
            **figures,
            against_zero=f"{100 * (figures['mean'] / reference - 1):+.1f} %",
            min_jacobian=float(field.dreg.jacobian_determinant().min()),
            blocks=status_counts(field),
        )
