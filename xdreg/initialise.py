"""Where to start: the translation, of a few plausible ones, that fits best."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xdreg.coordinates import grid_of
from xdreg.errors import InputError
from xdreg.metrics import normalised_correlation

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    from xdreg.grid import Grid

#: Voxels per axis of the images that candidates are judged on.
_COARSE_VOXELS = 32

#: Overlap, as a share of the smaller image, from which a candidate counts in full.
_FULL_OVERLAP = 0.5


def initial_translation(
    fixed: xr.DataArray, moving: xr.DataArray
) -> tuple[NDArray[np.float64], str]:
    """Return the best of three translations: none, centre on centre, mass on mass.

    Each is judged by the correlation of the images where they then overlap, at about
    32 voxels per axis, lowered in proportion where less than half of the smaller image
    overlaps.

    Parameters
    ----------
    fixed, moving : DataArray ([z], y, x)
        Each on its own grid, of any size that fits into memory; a boolean coordinate
        ``mask`` says which voxels count.

    Returns
    -------
    matrix : (ndim + 1, ndim + 1) float64
        Homogeneous, fixed to moving, in dims order and the images' units.
    name
        ``"identity"``, ``"centres"`` or ``"masses"``.

    Examples
    --------
    >>> import xarray as xr
    >>> bump = np.exp(-0.1 * np.arange(-20.0, 20.0) ** 2)
    >>> def image(x):
    ...     coords = {"y": np.arange(40.0), "x": x + np.arange(40.0)}
    ...     return xr.DataArray(np.outer(bump, bump), coords, ("y", "x"))
    >>> matrix, name = initial_translation(image(0.0), image(100.0))
    >>> matrix[:2, 2].tolist(), name
    ([0.0, 100.0], 'centres')
    """
    coarse = [_coarse(fixed, "fixed"), _coarse(moving, "moving")]
    grids = [grid for _, _, grid in coarse]
    if (grids[0].dims, grids[0].units) != (grids[1].dims, grids[1].units):
        msg = (
            f"fixed has dims {grids[0].dims} in {grids[0].units}, moving "
            f"{grids[1].dims} in {grids[1].units}; express both alike"
        )
        raise InputError(msg)
    candidates = {
        "identity": np.zeros(grids[0].ndim),
        "centres": grid_of(moving).centre - grid_of(fixed).centre,
    }
    masses = [_centre_of_mass(*part) for part in coarse]
    if masses[0] is not None and masses[1] is not None:
        candidates["masses"] = masses[1] - masses[0]
    scores = {
        name: _score(coarse[0], coarse[1], shift) for name, shift in candidates.items()
    }
    # The first of equals: the least moved.
    best = max(scores, key=lambda name: scores[name])
    matrix = np.eye(grids[0].ndim + 1)
    matrix[:-1, -1] = candidates[best]
    return matrix, best


def _coarse(
    image: xr.DataArray, name: str
) -> tuple[NDArray[np.float64], NDArray[np.bool_], Grid]:
    """Return means over cells, which cells count, and their grid."""
    grid = grid_of(image, name)
    if set(image.dims) != set(grid.dims):
        msg = f"{name} must have the dims {grid.dims} alone, got {image.dims}"
        raise InputError(msg)
    values = image.transpose(*grid.dims).values.astype(np.float32)
    counts = np.isfinite(values)
    if "mask" in image.coords:
        counts &= np.asarray(image["mask"].transpose(*grid.dims).values, dtype=bool)
    factors = [max(1, round(n / _COARSE_VOXELS)) for n in grid.shape]
    total = _cell_means(np.where(counts, values, 0.0), factors)
    share = _cell_means(counts, factors)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(share > 0, total / share, np.nan)
    return mean, share >= 0.5, grid.coarsen(factors)


def _cell_means(values: NDArray[np.generic], factors: list[int]) -> NDArray[np.float64]:
    kept = tuple(slice(n - n % f) for n, f in zip(values.shape, factors, strict=True))
    split = [
        part for n, f in zip(values.shape, factors, strict=True) for part in (n // f, f)
    ]
    cells = np.asarray(values[kept], dtype=np.float32).reshape(split)
    odd = tuple(range(1, 2 * values.ndim, 2))
    return np.asarray(cells.mean(axis=odd, dtype=np.float64))


def _centre_of_mass(
    values: NDArray[np.float64], counts: NDArray[np.bool_], grid: Grid
) -> NDArray[np.float64] | None:
    """Return where the foreground lies, or None where nothing stands out."""
    if not counts.any():
        return None
    # The median is background in most images and a fair cut in the others; the weight
    # is the distance from it, since foreground may be dark (histology, lungs).
    weight = np.where(counts, np.abs(values - np.median(values[counts])), 0.0)
    if not weight.sum() > 0:
        return None
    index = np.indices(grid.shape).reshape(grid.ndim, -1)
    return grid.index_to_physical((index * weight.ravel()).sum(axis=1) / weight.sum())


def _score(
    fixed: tuple[NDArray[np.float64], NDArray[np.bool_], Grid],
    moving: tuple[NDArray[np.float64], NDArray[np.bool_], Grid],
    shift: NDArray[np.float64],
) -> float:
    """Return the correlation under a shift, lowered for a small overlap."""
    values, counts, grid = fixed
    others, others_count, other_grid = moving
    # A shift keeps the axes apart, so nearest neighbours are found axis by axis.
    picks, inside = [], []
    for axis, dim in enumerate(grid.dims):
        place = grid.axis(dim) + shift[axis]
        pick = np.rint(
            (place - other_grid.origin[axis]) / other_grid.spacing[axis]
        ).astype(int)
        size = other_grid.shape[axis]
        inside.append((pick >= 0) & (pick < size))
        picks.append(np.clip(pick, 0, size - 1))
    seen = np.ix_(*picks)
    both = counts & others_count[seen]
    for here in np.meshgrid(*inside, indexing="ij", sparse=True):
        both &= here
    if both.sum() < 8:
        return -1.0
    correlation = normalised_correlation(values, others[seen], both)
    if not np.isfinite(correlation):
        return -1.0
    volumes = [
        float(part[1].sum()) * float(np.prod(part[2].spacing))
        for part in (fixed, moving)
    ]
    overlap = float(both.sum()) * float(np.prod(grid.spacing)) / min(volumes)
    return correlation * min(1.0, overlap / _FULL_OVERLAP)
