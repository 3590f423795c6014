"""Random pairs with a known transform, through the default call.

The fixed image is a source, sampled at a transform, the moving one the source itself.
Sources are the shared images on coarse grids, and phantoms. A pair has a small affine
part and a smooth field, and at most two of these hard factors:

========  ==============================================================================
contrast  gamma 0.5 to 2, inverted, or not monotone (a bump of the intensities)
pose      a turn of 20 to 45°, any turn, or a shift of 20 to 40 % of the extent
overlap   the moving image holds 50 to 70 % of one axis
padding   a wedge of zeros in both, or a circle of an extreme value in one
noise     5 to 10 % of the range, in both
bias      a smooth factor of 0.6 to 1.4, in both, independent
spacing   voxels of the moving image are 2 to 4 times longer along one axis
========  ==============================================================================

A pair succeeds if 95 % of the points of the object that both images hold are within two
voxels, and is silently wrong beyond five, without a warning or a doubtful verdict.
``XDREG_ROBUSTNESS`` is the number of pairs, by default 200, and the seed of the first.
"""

import collections
import os
import warnings
from functools import cache

import numpy as np
import xarray as xr
from scipy import ndimage
from scipy.spatial.transform import Rotation

import xdreg
from tests.benchmarks.common import measured, opened, row
from xdreg.coordinates import grid_of
from xdreg.stores.pyramid import image_levels

PAIRS = 200
LONGEST = {2: 160, 3: 56}
HARD = ("contrast", "pose", "overlap", "padding", "noise", "bias", "spacing")
SOURCES = {
    3: ("lung_ct", "mouse_brain", "exm_lowres", "brain_contrasts", "phantom"),
    2: ("histology_kidney", "mouse_brain", "lung_ct", "phantom"),
}
GOOD, WRONG = 2.0, 5.0


@cache
def source(name, ndim):
    """Return a source with isotropic voxels of length one, from 0 to 1."""
    if name == "phantom":
        shape = (150, 160) if ndim == 2 else (48, 56, 52)
        values = xdreg.datasets.phantom_pair(shape).moving.values.astype(float)
    else:
        level = image_levels(opened(name, "fixed"), "fixed")[0]
        grid = grid_of(level, "fixed")
        other = [dim for dim in level.dims if dim not in grid.dims]
        values = level.mean(other).values.astype(float)
        if ndim == 2 and values.ndim == 3:
            values, spacing = values[len(values) // 2], grid.spacing[1:]
        else:
            spacing = grid.spacing
        extent = np.multiply(values.shape, spacing)
        step = extent.max() / LONGEST[ndim]
        ratio = np.divide(step, spacing)
        values = ndimage.gaussian_filter(values, np.maximum(0, 0.4 * (ratio - 1)))
        shape = np.maximum(np.round(extent / step), 8).astype(int)
        place = [
            np.linspace(0, n - 1, m) for n, m in zip(values.shape, shape, strict=True)
        ]
        where = np.meshgrid(*place, indexing="ij")
        values = ndimage.map_coordinates(values, where, order=1, mode="nearest")
    low, high = np.quantile(values, [0.001, 0.999])
    return np.clip((values - low) / (high - low), 0, 1)


class Pair:
    """A random pair, by its number."""

    def __init__(self, number):
        self.rng = rng = np.random.default_rng(number)
        self.ndim = int(rng.choice([2, 3], p=[0.35, 0.65]))
        self.name = str(rng.choice(SOURCES[self.ndim]))
        count = rng.choice([0, 1, 2], p=[0.1, 0.4, 0.5])
        self.hard = sorted(rng.choice(HARD, count, replace=False).tolist())
        self.values = source(self.name, self.ndim)
        self.shape = np.array(self.values.shape)
        self.detail = {}
        self._draw_transform()
        fixed, moving = self._sampled(), self.values.copy()
        fixed, moving = self._contrast(fixed), moving
        fixed, moving = self._bias(fixed), self._bias(moving)
        sigma = rng.uniform(0.05, 0.1) if "noise" in self.hard else 0.005
        fixed, moving = (v + rng.normal(0, sigma, v.shape) for v in (fixed, moving))
        fixed, moving = (1000 + 4000 * v for v in (fixed, moving))
        self.missing = [np.zeros(v.shape, bool) for v in (fixed, moving)]
        if "padding" in self.hard:
            fixed, moving = self._padding(fixed, moving)
        self.fixed = self._image(fixed)
        self.moving = self._cut(self._image(moving))

    def _draw_transform(self):
        """Draw turn, scale, shift and a smooth field."""
        rng, ndim = self.rng, self.ndim
        degrees, share = rng.uniform(0, 8), rng.uniform(-0.04, 0.04, ndim)
        if "pose" in self.hard:
            kind = rng.choice(["turn", "any", "shift"])
            self.detail["pose"] = str(kind)
            degrees = {"turn": rng.uniform(20, 45), "any": 0, "shift": degrees}[kind]
            if kind == "any":
                degrees = rng.uniform(45, 180)
            if kind == "shift":
                share = rng.uniform(0.2, 0.4) * _direction(rng, ndim)
        axis = _direction(rng, 3)
        turn = Rotation.from_rotvec(np.radians(degrees) * axis).as_matrix()
        if ndim == 2:
            c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
            turn = np.array([[c, -s], [s, c]])
        self.linear = rng.uniform(0.93, 1.07) * turn
        self.shift = share * self.shape
        self.waves = rng.uniform(0.5, 1.1, (ndim, ndim)) * rng.choice(
            [-1, 1], (ndim, ndim)
        )
        self.phases = rng.uniform(0, 2 * np.pi, ndim)
        self.amplitude = rng.uniform(0.01, 0.035) * self.shape.max()

    def truth(self, points):
        """Map points (n, ndim) of the fixed image into the moving one."""
        middle = (self.shape - 1) / 2
        inner = points / self.shape.max()
        wave = np.sin(2 * np.pi * inner @ self.waves.T + self.phases)
        bent = points + self.amplitude / np.sqrt(self.ndim) * wave
        return (bent - middle) @ self.linear.T + middle + self.shift

    def _sampled(self):
        where = np.moveaxis(np.indices(self.shape), 0, -1).reshape(-1, self.ndim)
        there = self.truth(where.astype(float)).T
        # Beyond the source is more of the like, as beyond a field of view, and no edge.
        found = ndimage.map_coordinates(self.values, there, order=3, mode="mirror")
        return found.reshape(self.shape)

    def _contrast(self, values):
        if "contrast" not in self.hard:
            return values
        kind = str(self.rng.choice(["gamma", "inverted", "bump"]))
        self.detail["contrast"] = kind
        values = np.clip(values, 0, 1)
        if kind == "gamma":
            return values ** self.rng.choice([0.5, 0.7, 1.5, 2.0])
        return 1 - values if kind == "inverted" else np.sin(np.pi * values**0.7)

    def _bias(self, values):
        if "bias" not in self.hard:
            return values
        inner = np.moveaxis(np.indices(values.shape), 0, -1) / max(values.shape)
        wave = inner @ (self.rng.uniform(0.5, 1) * _direction(self.rng, values.ndim))
        return values * (1 + 0.4 * np.sin(np.pi * wave + self.rng.uniform(0, 6)))

    def _padding(self, fixed, moving):
        kind = str(self.rng.choice(["wedge", "circle"]))
        self.detail["padding"] = kind
        y, x = np.indices(fixed.shape)[-2:]
        first = np.indices(fixed.shape)[0]
        if kind == "wedge":
            slope = self.rng.uniform(0.3, 0.7)
            along = x - slope * first
            width = 0.1 * fixed.shape[-1]
            out = (along < width - slope * fixed.shape[0]) | (
                along > fixed.shape[-1] - width
            )
            out |= x + 0.5 * first < width + 0.2 * fixed.shape[0]
            self.missing = [out, out]
            return np.where(out, 0, fixed), np.where(out, 0, moving)
        middle = (np.array(fixed.shape[-2:]) - 1) / 2
        out = np.hypot(y - middle[0], x - middle[1]) > 0.47 * max(fixed.shape[-2:])
        self.missing = [out, np.zeros_like(out)]
        return np.where(out, self.rng.choice([-2000, 60000]), fixed), moving

    def _image(self, values):
        dims = ("z", "y", "x")[-self.ndim :]
        where = {
            dim: (
                dim,
                np.arange(n, dtype=float),
                {"units": "micrometer", "spacing": 1.0},
            )
            for dim, n in zip(dims, values.shape, strict=True)
        }
        return xr.DataArray(values.astype("float32"), dims=dims, coords=where)

    def _cut(self, image):
        rng, dims = self.rng, image.dims
        if "overlap" in self.hard:
            dim = dims[rng.integers(self.ndim)]
            size = image.sizes[dim]
            kept = round(rng.uniform(0.5, 0.7) * size)
            start = rng.choice([0, size - kept])
            image = image.isel({dim: slice(start, start + kept)})
        if "spacing" in self.hard:
            dim = dims[0]
            factor = int(rng.choice([2, 3, 4] if self.ndim == 3 else [2, 3]))
            image = image.coarsen({dim: factor}, boundary="trim").mean(keep_attrs=True)
            image[dim].attrs |= {"units": "micrometer", "spacing": float(factor)}
        return image

    def points(self):
        """Return points of the object that both images hold, and where they lie."""
        smooth = ndimage.gaussian_gradient_magnitude(self._sampled(), 1.5)
        object_ = ndimage.gaussian_filter(smooth, 3) > 0.25 * smooth.mean() + 1e-3
        object_ &= ~ndimage.binary_dilation(self.missing[0], iterations=3)
        where = np.argwhere(object_)[:: max(1, object_.sum() // 4000)].astype(float)
        there = self.truth(where)
        margin = 0.04 * self.shape.max()
        grid = grid_of(self.moving)
        low, high = (np.asarray(bound) for bound in grid.bounds)
        held = ((there > low + margin) & (there < high - margin)).all(axis=1)
        near = np.round(there).astype(int).clip(0, self.shape - 1)
        wide = ndimage.binary_dilation(self.missing[1], iterations=3)
        held &= ~wide[tuple(near.T)]
        return where[held], there[held]


def _direction(rng, ndim):
    vector = rng.standard_normal(ndim)
    return vector / np.linalg.norm(vector)


def judged(number):
    """Register a pair by default; return what it was and how it went."""
    pair = Pair(number)
    points, truth = pair.points()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        field, (_, cpu) = measured(
            lambda: pair.fixed.dreg.register(pair.moving, progress=False).load()
        )
    error = np.linalg.norm(field.dreg.transform_points(points) - truth, axis=1)
    error = np.where(np.isfinite(error), error, np.inf)
    worst = float(np.quantile(error, 0.95)) if len(points) > 50 else float("nan")
    verdict = field.dreg.verdict
    said = any(issubclass(w.category, UserWarning) for w in told)
    doubted = said or getattr(verdict, "word", str(verdict).split()[0]) != "good"
    hard = [f"{name}:{pair.detail.get(name, '')}".rstrip(":") for name in pair.hard]
    row(
        f"{number} {pair.name} {pair.ndim}-D",
        p95=worst,
        median=float(np.median(error)) if len(points) else float("nan"),
        points=len(points),
        cpu=cpu,
        metric=field.attrs.get("metric", "").partition(",")[0],
        doubted=doubted,
        hard=",".join(hard) or "-",
    )
    return worst, doubted, (f"{pair.name}-{pair.ndim}", *hard)


def robustness():
    """Success and silent failure of the default call on random pairs."""
    count, first = PAIRS, 0
    if given := os.environ.get("XDREG_ROBUSTNESS"):
        count, *rest = map(int, given.split(","))
        first = rest[0] if rest else 0
    found = [judged(number) for number in range(first, first + count)]
    found = [one for one in found if np.isfinite(one[0]) or one[0] == np.inf]
    good = [worst <= GOOD for worst, _, _ in found]
    silent = [worst > WRONG and not doubted for worst, doubted, _ in found]
    row("all", pairs=len(found), success=np.mean(good), silently_wrong=sum(silent))
    groups = collections.defaultdict(list)
    for ok, (_, _, factors) in zip(good, found, strict=True):
        for factor in factors:
            groups[factor].append(ok)
    for name, parts in sorted(groups.items(), key=lambda item: np.mean(item[1])):
        row(f"  {name}", pairs=len(parts), success=np.mean(parts))
