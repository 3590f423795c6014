"""Contrasts of one head, truth known: what ``"auto"`` takes, and what that costs.

brain_contrasts: mean, median and 90th percentile of the error of its points, in
millimetres, by default and by either metric; both directions, with masks, and with
copies of T1c of other intensities, with noise, or with a bias field.
"""

import numpy as np

from tests.benchmarks.common import measured, opened, row
from tests.helpers.data import ROOT
from xdreg.stores.pyramid import image_levels

PAIR = "brain_contrasts"


def _points(which):
    return np.loadtxt(ROOT / PAIR / f"{which}_points.csv", delimiter=",", skiprows=1)


def _changed(name, image):
    """Return a copy of an image with other intensities."""
    values = image.values.astype(float)
    inside, top = values > 0, np.quantile(values, 0.999)
    share = np.clip(values / top, 0, 1)
    rng = np.random.default_rng(0)
    places = np.meshgrid(*(np.linspace(0, 1, n) for n in values.shape), indexing="ij")
    changed = {
        "gamma 0.5": share**0.5,
        "gamma 2": share**2,
        "inverted": np.where(inside, 1 - share, 0),
        "a bump": np.where(inside, np.sin(np.pi * share**0.7), 0),
        "noise 5 %": share + rng.normal(0, 0.05, share.shape),
        "bias": share * (1 + 0.4 * np.sin(np.pi * (places[0] + places[2]))),
    }[name]
    return image.copy(data=(1000 * changed).astype(np.float32))


CHANGES = ("gamma 0.5", "gamma 2", "inverted", "a bump", "noise 5 %", "bias")


def _rows():
    """Yield names, images, further arguments, and whether fixed is the moved one."""
    fixed = opened(PAIR, "fixed")
    t1c, flair = opened(PAIR, "moving_t1c"), opened(PAIR, "moving_flair")
    masks = {f"{w}_mask": opened(PAIR, f"{w}_mask") for w in ("fixed", "moving")}
    swapped = {"fixed_mask": masks["moving_mask"], "moving_mask": masks["fixed_mask"]}
    for name, moving in (("T1c", t1c), ("FLAIR", flair)):
        yield f"T1c, moved {name}", fixed, moving, {}, False
        yield f"T1c, moved {name}, masks", fixed, moving, masks, False
        yield f"moved {name}, T1c", moving, fixed, {}, True
        yield f"moved {name}, T1c, masks", moving, fixed, swapped, True
    finest = image_levels(t1c, "moving")[0]
    for name in CHANGES:
        yield f"T1c, moved T1c with {name}", fixed, _changed(name, finest), {}, False


def contrasts():
    """Error on one head by the default and by either metric, truth known."""
    for name, fixed, moving, options, swapped in _rows():
        points = _points("fixed"), _points("moving")
        start, truth = points[::-1] if swapped else points
        for metric in ("auto", "lncc", "mind"):
            arguments = {"metric": metric, "progress": False, **options}
            field, (_, cpu) = measured(fixed.dreg.register, moving, **arguments)
            moved = field.dreg.transform_points(start)
            error = np.linalg.norm(moved - truth, axis=1)
            error = error[np.isfinite(error)]
            took = field.attrs.get("metric", "").partition(",")[0]
            row(
                f"{name} {metric}" + (f": {took}" if metric == "auto" else ""),
                mean=float(error.mean()),
                median=float(np.median(error)),
                p90=float(np.quantile(error, 0.9)),
                cpu_seconds=cpu,
            )
