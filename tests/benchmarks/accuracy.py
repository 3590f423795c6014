"""Accuracy in blocks at the defaults.

Blocks have at most 64³ voxels in 3-D and 256² in 2-D. ``engine`` has the peers, which
register whole images, ``pose`` rotated and cropped images, ``failures`` bad blocks.
"""

import numpy as np

from tests.benchmarks.common import (
    BLOCK,
    WHOLE,
    border_ratios,
    landmark_error,
    lung_masks,
    mean_dice,
    pair,
    row,
    timed,
)
from xdreg.fields.diagnostics import status_counts
from xdreg.numerics.metrics import normalised_correlation

#: Blocks and overlaps that are compared, in voxels.
SHAPES = (48, 64, 96)
OVERLAPS = (4, 8, 12, 16)


def accuracy():
    """Errors of real pairs, the step at block borders, blocks against overlaps."""
    for name, options, judge in (
        ("lung_ct", {}, landmark_error),
        ("lung_ct with masks", lung_masks(), landmark_error),
        ("mouse_brain", {}, lambda field, _: {"dice": mean_dice(field)}),
        ("exm_lowres", {}, correlation),
        ("histology_kidney", {"channel": "luminance"}, landmark_error),
    ):
        _compare(name, options, judge)
    for name, judge in (("lung_ct", landmark_error), ("exm_lowres", correlation)):
        _shapes(name, judge)


def correlation(field, name):
    """Return the normalised correlation after a field, where the images overlap."""
    fixed, moving = (tree["scale0/image"] for tree in pair(name))
    moved = field.dreg.warp(moving.astype("float32"), fill_value=np.nan)
    return {"ncc": normalised_correlation(fixed.values, moved.values)}


def _compare(label, options, judge):
    """Print a pair in blocks, and how its field differs from that of one block."""
    name = label.split()[0]
    fixed, moving = pair(name)
    ndim = 2 if name == "histology_kidney" else 3
    field, seconds = timed(
        fixed.dreg.register, moving, block_shape=BLOCK[ndim], progress=False, **options
    )
    whole = fixed.dreg.register(moving, block_shape=WHOLE, progress=False, **options)
    row(
        label,
        **judge(field, name),
        **border_ratios(field, whole),
        min_jacobian=float(field.dreg.jacobian_determinant().min()),
        blocks=status_counts(field),
        seconds=seconds,
        metric=field.attrs["metric"].split(",")[0],
    )


def _shapes(name, judge):
    """Print the last stage with blocks and overlaps of several sizes."""
    fixed, moving = pair(name)
    last = fixed.dreg.plan(moving, metric="lncc").stages[-1]
    options = {"progress": False, "metric": "lncc"}
    before = fixed.dreg.register(moving, finest_level=1, **options)

    def finest(block, overlap):
        return timed(
            fixed.dreg.register,
            moving,
            initial=before,
            stages=[last.options],
            block_shape=block,
            overlap=overlap,
            **options,
        )

    whole, alone = finest(WHOLE, 0)
    row(f"{name} whole", **judge(whole, name), seconds=alone)
    for block in SHAPES:
        for overlap in OVERLAPS:
            field, seconds = finest(block, overlap)
            row(
                f"{name} {block} / {overlap}",
                **judge(field, name),
                **border_ratios(field, whole),
                time=f"{seconds / alone:.2f} x",
            )
