"""Accuracy of a registration, by landmarks and by label images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import dask
import dask.array
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xdreg.coordinates import grid_of
from xdreg.errors import InputError
from xdreg.fields.displacement import identity
from xdreg.fields.field import field_grid
from xdreg.fields.points import transform_points
from xdreg.fields.regions import label_image
from xdreg.fields.warp import warp
from xdreg.numerics.metrics import target_registration_error
from xdreg.numerics.point_tables import paired_names
from xdreg.stores.landmark_files import read_landmarks
from xdreg.stores.pyramid import image_levels

#: Most voxels of the level on which labels are compared.
LABEL_VOXELS = 2**26


@dataclass(frozen=True)
class LandmarkErrors:
    """Distances of landmarks from their counterparts, in physical units.

    Parameters
    ----------
    fixed : (n, ndim)
        The landmarks of the fixed image.
    before, after : (n,)
        Distance from the counterpart before and after registration; NaN after it for
        landmarks outside the fixed image of the field.
    names : (n,)
        Names of the landmarks.
    """

    fixed: NDArray[np.float64]
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    names: tuple[str, ...]

    @property
    def outside(self) -> int:
        """Number of landmarks outside the field's fixed image."""
        return int(np.isnan(self.after).sum())

    @property
    def order(self) -> list[int]:
        """Indices of the landmarks, the largest error after registration first."""
        worst = np.nan_to_num(self.after, nan=np.inf)
        return [int(i) for i in np.argsort(-worst, kind="stable")]

    def table(self) -> dict[str, tuple[float, float]]:
        """Return mean, median, 90th percentile and maximum, before and after.

        Landmarks outside the fixed image are left out of both.
        """
        known = np.isfinite(self.after)
        if not known.any():
            return {}
        pair = self.before[known], self.after[known]
        measures: dict[str, Callable[..., Any]] = {
            "mean": np.mean,
            "median": np.median,
            "90th percentile": lambda values: np.percentile(values, 90),
            "maximum": np.max,
        }
        return {
            name: (float(measure(pair[0])), float(measure(pair[1])))
            for name, measure in measures.items()
        }


def landmark_errors(
    field: xr.Dataset,
    fixed: Any,
    moving: Any,
    names: Sequence[object] | None = None,
) -> LandmarkErrors:
    """Return the target registration error of pairs of landmarks.

    Parameters
    ----------
    field : Dataset
        A displacement field.
    fixed, moving : (n, ndim), physical units
        Corresponding points as `landmarks` takes them, in the field's units unless they
        state their own.
    names
        Names of the landmarks; by default the column ``name``, ``label`` or ``id`` of a
        table, else their numbers, from 1.

    Returns
    -------
    LandmarkErrors

    Raises
    ------
    InputError
        If they are not pairs of points of the field's dimension.

    Examples
    --------
    >>> import xdreg
    >>> from xdreg.coordinates import grid_of
    >>> from xdreg.fields.displacement import make_field
    >>> pair = xdreg.datasets.phantom_pair((48, 56))
    >>> field = make_field(pair.displacement.values, grid_of(pair.fixed))
    >>> errors = landmark_errors(field, pair.fixed_points, pair.moving_points)
    >>> bool(errors.after.max() < 0.05 * errors.before.max())
    True
    """
    dims = field_grid(field).dims
    given = ((fixed, "fixed landmarks"), (moving, "moving landmarks"))
    units = field_grid(field).units
    tables = [
        read_landmarks(points, name, dims).in_units(units, name)
        for points, name in given
    ]
    pair = [table.values for table in tables]
    if len(pair[0]) != len(pair[1]):
        msg = (
            "landmarks must be two arrays of one shape, row i of fixed belonging to "
            f"row i of moving; got {pair[0].shape} and {pair[1].shape}"
        )
        raise InputError(msg)
    if names is None:
        names = paired_names(*(table.names for table in tables))
    count = len(pair[0])
    called = _names(range(1, count + 1) if names is None else names, count)
    mapped = transform_points(field, pair[0])
    return LandmarkErrors(
        pair[0],
        target_registration_error(pair[0], pair[1]),
        target_registration_error(mapped, pair[1]),
        called,
    )


def _names(names: object, count: int) -> tuple[str, ...]:
    if not isinstance(names, Sequence | np.ndarray):
        msg = f"names must be a sequence with one for each landmark, got {names!r:.80}"
        raise InputError(msg)
    if len(names) != count:
        msg = f"{count} landmarks have {len(names)} names; give one each, or none"
        raise InputError(msg)
    return tuple(str(name) for name in names)


@dataclass(frozen=True)
class LabelOverlap:
    """Voxels of one label: in the fixed image, in the moved one, and in both.

    Pairs are before and after registration.
    """

    fixed: int
    moved: tuple[int, int]
    shared: tuple[int, int]

    @property
    def dice(self) -> tuple[float, float]:
        """The Dice coefficient before and after."""
        before, after = (
            2 * both / (self.fixed + other)
            for both, other in zip(self.shared, self.moved, strict=True)
        )
        return before, after


def label_overlaps(
    field: xr.Dataset, fixed: Any, moving: Any
) -> tuple[dict[int, LabelOverlap], list[int]]:
    """Return the overlap of the labels of two images before and after registration.

    Labels are compared chunk by chunk, on the finest level of at most 2^26 voxels. A
    larger image without such a level is read with a stride.

    Parameters
    ----------
    field : Dataset
        A displacement field.
    fixed, moving : DataTree, DataArray or itk.Image ([z], y, x), whole numbers
        Label images; zero is background.

    Returns
    -------
    overlaps : dict of label to LabelOverlap
        Labels that both images have.
    lonely : list of int
        Labels that only one image has.

    Raises
    ------
    InputError
        If the images are not of whole numbers, or do not fit the field.
    """
    reference, source = (
        _label_level(image, f"{name} labels")
        for image, name in ((fixed, "fixed"), (moving, "moving"))
    )
    moved = [
        warp(mapping, source, order=0, like=reference)
        for mapping in (identity(field), field)
    ]
    chunks = moved[0].chunks
    data = [dask.array.asarray(reference.data).rechunk(chunks)]
    data += [dask.array.asarray(image.data).rechunk(chunks) for image in moved]
    blocks = zip(*(array.to_delayed().ravel() for array in data), strict=True)
    parts = dask.compute(*(dask.delayed(_count)(*block) for block in blocks))
    # Labels that do not reach the fixed grid are counted as the moving image's too.
    own = dask.array.unique(dask.array.asarray(source.data)).compute()
    present = {int(v) for v in own if v != 0}
    totals = [Counter[int]() for _ in parts[0]]
    for part in parts:
        for total, counts in zip(totals, part, strict=True):
            total.update(counts)
    fixed_voxels, before, after, shared_before, shared_after = totals
    overlaps = {
        label: LabelOverlap(
            fixed_voxels[label],
            (before[label], after[label]),
            (shared_before[label], shared_after[label]),
        )
        for label in sorted(fixed_voxels.keys() & present)
    }
    return overlaps, sorted(fixed_voxels.keys() ^ present)


def _label_level(image: Any, name: str) -> xr.DataArray:
    """Return the level of a label image that is compared, in dims order."""
    levels = image_levels(image, name)
    level = next((v for v in levels if v.size <= LABEL_VOXELS), levels[-1])
    level = label_image(level, name)
    grid = grid_of(level, name)
    step = max(1, int(np.ceil((level.size / LABEL_VOXELS) ** (1 / grid.ndim))))
    return level.isel({dim: slice(None, None, step) for dim in grid.dims})


def _count(
    fixed: NDArray[Any], before: NDArray[Any], after: NDArray[Any]
) -> list[Counter[int]]:
    """Return the voxels per label in one chunk: fixed, moved (2), shared (2)."""
    result = []
    for image in (fixed, before, after, before[before == fixed], after[after == fixed]):
        labels, counts = np.unique(image[image != 0], return_counts=True)
        found = zip(labels.tolist(), counts.tolist(), strict=True)
        result.append(Counter({int(label): count for label, count in found}))
    return result
