"""Transforms that are fitted to pairs of landmarks: linear ones and thin-plate splines.

A registration starts from them, or they are the registration.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd

from xdreg.errors import InputError, warn
from xdreg.fields.composition import between, compose
from xdreg.fields.targets import grid_like
from xdreg.grid import normalise_units, unit_ratio, whole_per_axis
from xdreg.numerics.consensus import fit_linear
from xdreg.numerics.outliers import agree_linearly, agree_smoothly, fewest, joinable
from xdreg.numerics.point_tables import paired_names
from xdreg.stages import Kind
from xdreg.stores.landmark_files import read_bigwarp, read_landmarks

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr
    from numpy.typing import NDArray
    from scipy.interpolate import RBFInterpolator

    from xdreg.grid import Grid

    Array = NDArray[np.float64]
    LandmarkKind = Kind | Literal["thin-plate"]

THIN_PLATE = "thin-plate"

#: Extent of points across a line or plane, relative to that along it, below which they
#: lie in it.
FLAT = 1e-3

#: Of landmarks in another unit or order of axes, most are outside the image.
MOSTLY = 0.5

#: Rows that a message names.
NAMED = 10

#: Why a pair is left out.
NOT_SET, OUTLIER, FOLDS = "not set", "outlier", "would fold"
OUTSIDE = "outside"


@dataclass(frozen=True)
class LandmarkPairs:
    """Pairs of points ``(n, ndim)`` in dims order, in the world.

    ``left_out`` says of each pair why it is not used; empty if it is.
    """

    fixed: Array
    moving: Array
    names: tuple[str, ...]
    left_out: tuple[str, ...]
    units: str | None

    @property
    def used(self) -> NDArray[np.bool_]:
        """Which pairs are used."""
        return np.array([not reason for reason in self.left_out], bool)

    def without(self, dropped: NDArray[np.bool_], reason: str) -> LandmarkPairs:
        """Return the pairs with a reason to leave some of those used out.

        ``dropped`` has one entry for each of those that are used.
        """
        reasons = np.array(self.left_out, object)
        reasons[np.flatnonzero(self.used)[dropped]] = reason
        return replace(self, left_out=tuple(reasons.tolist()))

    def in_units(self, units: str | None) -> LandmarkPairs:
        """Return the pairs in another unit; without one they are taken to have it."""
        if self.units is None or units is None:
            return replace(self, units=units or self.units)
        ratio = unit_ratio(self.units, units, "landmarks")
        fixed, moving = self.fixed * ratio, self.moving * ratio
        return replace(self, fixed=fixed, moving=moving, units=normalise_units(units))


def landmarks(
    fixed_points: Any,
    moving_points: Any = None,
    *,
    kind: LandmarkKind = "affine",
    robust: bool = True,
    units: str | None = None,
) -> LandmarkTransform:
    """Return the transform that maps landmarks of the fixed image to the moving one's.

    Give it to `register` as ``initial``, or to `compose`; or take its ``to_field``,
    ``matrix`` or ``to_itk_transform`` as a registration without images.

    Parameters
    ----------
    fixed_points, moving_points
        Corresponding points, row by row, in the world: arrays ``(n, ndim)`` in the
        order of the dims, ``z, y, x``; tables as `transform_points` takes them; points
        layers of napari or their tuples; paths of CSV with named columns, or of 3D
        Slicer's ``.fcsv`` and ``.mrk.json``. Or the path of BigWarp's CSV alone, which
        holds both.
    kind
        ``"translation"``, ``"rigid"``, ``"similarity"`` or ``"affine"`` fit all pairs
        as well as possible; ``"thin-plate"`` passes every pair that is used.
    robust
        Leave out pairs that do not fit the others, with a warning.
    units
        Unit of points that state none; by default that of the images they are used
        with. Slicer's are in millimeters.

    Returns
    -------
    LandmarkTransform
        Printing it shows the residuals, and which pairs were left out and why.

    Raises
    ------
    InputError
        If they are not as many points each, hold NaN, or do not determine the
        transform: too few, or in a line or plane.
    StoreError
        If a file cannot be read.

    Examples
    --------
    >>> corners = np.array([[0, 0], [0, 90], [70, 0], [70, 90.0], [20, 50]])
    >>> found = landmarks(corners, corners + [5, -2], kind="rigid")
    >>> found.matrix.round(6)[:2, 2].tolist()
    [5.0, -2.0]
    """
    if kind not in (*get_args(Kind), THIN_PLATE):
        known = ", ".join(map(repr, (*get_args(Kind), THIN_PLATE)))
        msg = f"kind must be one of {known}; got {kind!r}"
        raise InputError(msg)
    if not isinstance(robust, bool):
        msg = f"robust must be True or False, got {robust!r}"
        raise InputError(msg)
    pairs = read_pairs(fixed_points, moving_points, units)
    _check_determined(pairs, kind)
    if robust and kind == THIN_PLATE:
        pairs = smooth_pairs(pairs)
    elif robust:
        chosen = pairs.fixed[pairs.used], pairs.moving[pairs.used]
        pairs = pairs.without(~agree_linearly(*chosen, kind), OUTLIER)  # type: ignore[arg-type]
    _check_determined(pairs, kind)
    if kind == THIN_PLATE:
        _check_distinct(pairs)
    return LandmarkTransform(pairs, kind).told()


def read_pairs(fixed: Any, moving: Any, units: str | None = None) -> LandmarkPairs:
    """Return pairs of landmarks as `landmarks` takes them, checked."""
    if moving is None:
        if not isinstance(fixed, str | Path):
            msg = "moving_points is missing; only a file of BigWarp holds both"
            raise InputError(msg, moving_points=...)
        sides = read_bigwarp(fixed)
    else:
        sides = (
            read_landmarks(fixed, "fixed_points"),
            read_landmarks(moving, "moving_points"),
        )
    one, other = sides
    if one.values.shape != other.values.shape:
        msg = (
            f"there are {len(one.values)} fixed landmarks of {one.values.shape[1]} "
            f"coordinates and {len(other.values)} moving ones of "
            f"{other.values.shape[1]}; row i of one belongs to row i of the other"
        )
        raise InputError(msg)
    common = normalise_units(units or one.units or other.units)
    one = one.in_units(common, "fixed_points")
    other = other.in_units(common, "moving_points")
    called = paired_names(one.names, other.names)
    names = tuple(called or (str(row) for row in range(1, len(one.values) + 1)))
    unset = np.zeros(len(names), bool)
    for side, name in ((one, "fixed_points"), (other, "moving_points")):
        unknown = np.asarray(~np.isfinite(side.values).all(axis=1))
        if unknown.any() and not side.own_nan:
            msg = (
                f"{name} hold NaN or infinity, in {rows_of(names, unknown)}; drop "
                "these rows of both"
            )
            raise InputError(msg)
        unset |= unknown
    reasons = tuple(np.where(unset, NOT_SET, "").tolist())
    return LandmarkPairs(one.values, other.values, names, reasons, common)


def smooth_pairs(pairs: LandmarkPairs) -> LandmarkPairs:
    """Return pairs of which one smooth map without folds has those that are used."""
    chosen = pairs.fixed[pairs.used], pairs.moving[pairs.used]
    pairs = pairs.without(~agree_smoothly(*chosen), OUTLIER)
    chosen = pairs.fixed[pairs.used], pairs.moving[pairs.used]
    return pairs.without(~joinable(*chosen), FOLDS)


def constraint(given: Any, fixed: Grid) -> dict[str, Any]:
    """Return landmarks of a stage as plain values, in the fixed image's unit.

    Points are in the world, one row each; ``left_out`` says why a pair is not used.

    Raises
    ------
    InputError
        If they are no pairs of points of the image's dimension, or none can be used.
    """
    known = {"fixed", "moving", "names", "left_out"}
    if isinstance(given, LandmarkTransform):
        pairs = given.pairs
    elif isinstance(given, Mapping) and {"fixed", "moving"} <= given.keys() <= known:
        pairs = read_pairs(np.array(given["fixed"]), np.array(given["moving"]))
        unset = (
            r if r == NOT_SET else "" for r in given.get("left_out", pairs.left_out)
        )
        names = tuple(map(str, given.get("names", pairs.names)))
        pairs = replace(pairs, names=names, left_out=tuple(unset))
    elif isinstance(given, str | Path):
        pairs = read_pairs(given, None)
    elif isinstance(given, tuple | list) and len(given) == 2:
        pairs = read_pairs(*given)
    else:
        msg = (
            "landmarks of a stage must be (fixed_points, moving_points), the result of "
            f"xdreg.landmarks, or the path of BigWarp's CSV, got {given!r:.100}"
        )
        raise InputError(msg)
    if pairs.fixed.shape[1] != fixed.ndim:
        msg = (
            f"landmarks have {pairs.fixed.shape[1]} coordinates; expected {fixed.dims}"
        )
        raise InputError(msg)
    pairs = pairs.in_units(fixed.units)
    if not pairs.used.any():
        msg = "no pair of the landmarks is set; leave them out"
        raise InputError(msg)
    inside = check_inside(pairs, fixed)
    pairs = pairs.without(~inside[pairs.used], OUTSIDE)
    pairs = smooth_pairs(pairs)
    reasons = np.array(pairs.left_out)
    wrong = (reasons != "") & (reasons != NOT_SET)
    if wrong.any():
        found = ", ".join(sorted(set(reasons[wrong].tolist())))
        warn(
            f"{int(wrong.sum())} of {len(wrong)} pairs of landmarks are left out "
            f"({found}): {rows_of(pairs.names, wrong)}"
        )
    return {
        "fixed": np.nan_to_num(pairs.fixed, posinf=0, neginf=0).tolist(),
        "moving": np.nan_to_num(pairs.moving, posinf=0, neginf=0).tolist(),
        "names": list(pairs.names),
        "left_out": list(pairs.left_out),
    }


def _check_determined(pairs: LandmarkPairs, kind: str) -> None:
    """Raise if the pairs in use do not determine a transform of a kind."""
    ndim, count = pairs.fixed.shape[1], int(pairs.used.sum())
    least = fewest(kind, ndim)
    flat = ndim
    if kind in ("rigid", "similarity"):
        flat = ndim - 1
    elif kind == "translation":
        flat = 0
    place = {0: "at one place", 1: "in a line", 2: "in a plane"}
    if count < least:
        msg = (
            f"kind={kind!r} needs {least} pairs of landmarks, and {count} of "
            f"{len(pairs.names)} are left; give more, or take a kind that needs fewer"
        )
        raise InputError(msg)
    for name, points in (("fixed", pairs.fixed), ("moving", pairs.moving)):
        used = points[pairs.used]
        sizes = np.linalg.svd(used - used.mean(axis=0), compute_uv=False)
        rank = int((sizes > FLAT * sizes[0]).sum()) if sizes[0] > 0 else 0
        if rank < flat:
            fits = "translation" if rank < ndim - 1 else "rigid"
            msg = (
                f"the {name} landmarks lie {place[rank]}, which does not determine "
                f"kind={kind!r}; add some elsewhere, or take another"
            )
            raise InputError(msg, kind=fits)


def _check_distinct(pairs: LandmarkPairs) -> None:
    """Raise if pairs in use have one fixed point and different moving ones."""
    used = np.flatnonzero(pairs.used)
    _, group = np.unique(pairs.fixed[used], axis=0, return_inverse=True)
    group = group.reshape(-1)  # NumPy 2.0 adds an axis
    for number in np.flatnonzero(np.bincount(group) > 1):
        rows = used[group == number]
        if len(np.unique(pairs.moving[rows], axis=0)) > 1:
            names = ", ".join(repr(pairs.names[int(row)]) for row in rows)
            msg = f"landmarks {names} have one fixed point and different moving ones"
            raise InputError(msg + "; keep one of them")


def rows_of(names: Sequence[str], chosen: NDArray[np.bool_]) -> str:
    """Return which rows are chosen, and what they are called, as text."""
    found = [
        f"row {row + 1}" + (f" ({names[row]})" if names[row] != str(row + 1) else "")
        for row in np.flatnonzero(chosen).tolist()
    ]
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return ", ".join(found[:NAMED]) + more


@dataclass(frozen=True, repr=False)
class LandmarkTransform:
    """A transform fitted to pairs of landmarks, fixed → moving.

    Parameters
    ----------
    pairs
        The landmarks, and which of them are used.
    kind
        The kind of transform.
    """

    pairs: LandmarkPairs
    kind: str

    @cached_property
    def matrix(self) -> Array | None:
        """The homogeneous matrix in dims order; None for a thin-plate spline."""
        if self.kind == THIN_PLATE:
            return None
        used = self.pairs.used
        fixed, moving = self.pairs.fixed[used], self.pairs.moving[used]
        return fit_linear(fixed, moving, np.ones(len(fixed)), self.kind)  # type: ignore[arg-type]

    @cached_property
    def _frame(self) -> tuple[Array, float]:
        used = self.pairs.fixed[self.pairs.used]
        return used.mean(axis=0), float(np.ptp(used, axis=0).max())

    @cached_property
    def _spline(self) -> RBFInterpolator:
        from scipy.interpolate import RBFInterpolator  # loads slowly

        centre, size = self._frame
        used = self.pairs.used
        places, first = np.unique(self.pairs.fixed[used], axis=0, return_index=True)
        moved = self.pairs.moving[used][first]
        return RBFInterpolator((places - centre) / size, moved - places)

    def move(self, points: Array) -> Array:
        """Return where points ``(n, ndim)`` go."""
        if self.matrix is not None:
            moved = points @ self.matrix[:-1, :-1].T + self.matrix[:-1, -1]
            return np.asarray(moved)
        centre, size = self._frame
        return np.asarray(points + self._spline((points - centre) / size))

    def for_grid(self, grid: Grid, name: str = "the transform") -> LandmarkTransform:
        """Return the transform in the unit of a grid, or raise if it has other dims."""
        ndim = self.pairs.fixed.shape[1]
        if ndim != grid.ndim:
            msg = f"{name}: landmarks of {ndim} coordinates, and the grid {grid.dims}"
            raise InputError(msg)
        return self.in_units(grid.units)

    def in_units(self, units: str | None) -> LandmarkTransform:
        """Return the transform of points in another unit."""
        return replace(self, pairs=self.pairs.in_units(units))

    @property
    def residuals(self) -> Array:
        """Distance of each pair's moving point from where its fixed point goes."""
        gap = self.move(self.pairs.fixed) - self.pairs.moving
        return np.asarray(np.linalg.norm(gap, axis=1))

    @property
    def rejected(self) -> list[int]:
        """Rows that are left out, from 0."""
        return [int(row) for row in np.flatnonzero(~self.pairs.used)]

    @property
    def table(self) -> pd.DataFrame:
        """One row per pair: its name, whether it is used, residual, and why not."""
        return pd.DataFrame(
            {
                "name": self.pairs.names,
                "used": self.pairs.used,
                "residual": self.residuals,
                "left_out": self.pairs.left_out,
            }
        )

    @property
    def _unit(self) -> str:
        return f" {self.pairs.units}" if self.pairs.units else ""

    def told(self) -> LandmarkTransform:
        """Return the transform after a warning of the pairs that did not fit."""
        reasons = np.array(self.pairs.left_out)
        wrong = np.isin(reasons, (OUTLIER, FOLDS))
        if wrong.any():
            farthest = float(self.residuals[wrong].max())
            warn(
                f"{int(wrong.sum())} of {len(wrong)} pairs of landmarks do not fit the "
                f"others and are left out: {rows_of(self.pairs.names, wrong)}, up to "
                f"{farthest:.3g}{self._unit} off. robust=False uses all"
            )
        return self

    def to_field(self, like: Any, moving: Any = None, *, step: int = 1) -> xr.Dataset:
        """Return the transform as a field on the grid of an image, lazily.

        It is computed chunk by chunk, as it is read.

        Parameters
        ----------
        like : DataArray, DataTree, Dataset or Grid
            The fixed image, or a field with its grid.
        moving : DataArray, DataTree or Grid, optional
            The moving image, for the field to know.
        step
            Voxels between the field's points. A thin-plate spline takes time in
            proportion to points and landmarks.

        Raises
        ------
        InputError
            If dimensions or units do not fit, or all landmarks are outside.
        """
        return field_of(self, like, moving, step)

    def to_itk_transform(self) -> Any:
        """Return the transform as ITK's, in the unit of the landmarks.

        Returns
        -------
        itk.AffineTransform or itk.ThinPlateR2LogRSplineKernelTransform
        """
        if self.matrix is not None:
            from xdreg.numerics.itk_transforms import matrix_to_itk  # loads itk

            return matrix_to_itk(self.matrix)
        return _itk_spline(self.pairs)

    def __repr__(self) -> str:
        """Return the kind, the residuals, and the pairs left out, as text."""
        used, residuals = self.pairs.used, self.residuals
        units = self._unit
        lines = [
            f"{self.kind} transform of {int(used.sum())} of {len(used)} landmark pairs",
            f"residual: {np.mean(residuals[used]):.4g} mean, "
            f"{np.max(residuals[used]):.4g} largest{units}",
        ]
        lines += [
            f"left out: row {row + 1} ({self.pairs.names[row]}), "
            f"{self.pairs.left_out[row]}, {residuals[row]:.4g}{units} off"
            for row in self.rejected
        ]
        return "\n".join(lines)


def field_of(
    transform: LandmarkTransform, like: Any, moving: Any = None, step: int = 1
) -> xr.Dataset:
    """Return a transform as a field; see `LandmarkTransform.to_field`."""
    grid = grid_like(like)
    if grid is None:
        msg = "like must be an image, a field or a Grid to make the field on; got None"
        raise InputError(msg)
    transform = transform.for_grid(grid)
    check_inside(transform.pairs, grid)
    (every,) = set(whole_per_axis(step, grid.ndim, "step", minimum=1))
    field = compose(transform, like=grid.every((every,) * grid.ndim))
    field.attrs["fixed_grid"] = json.dumps(grid.to_dict())
    other = grid_like(moving)
    if other is None:
        return field
    other = other.to_units(grid.units, "moving")
    turned = between(field, None, other)
    return turned.assign_attrs(moving_grid=json.dumps(other.to_dict()))


def check_inside(pairs: LandmarkPairs, grid: Grid) -> NDArray[np.bool_]:
    """Return which fixed landmarks are in an image; raise if most are outside."""
    inside = grid.contains(pairs.fixed @ grid.from_world[:-1, :-1].T)
    if inside[pairs.used].mean() < MOSTLY:
        lower, upper = grid.bounds
        low, high = (
            pairs.fixed[pairs.used].min(axis=0),
            pairs.fixed[pairs.used].max(axis=0),
        )
        msg = (
            f"{int((~inside[pairs.used]).sum())} of {int(pairs.used.sum())} fixed "
            f"landmarks are outside the fixed image: they span {low.round(3).tolist()} "
            f"to {high.round(3).tolist()} and it {lower.round(3).tolist()} to "
            f"{upper.round(3).tolist()} {grid.units or ''}. Are they in the order "
            f"{grid.dims}, in this unit, and of the fixed image?"
        )
        raise InputError(msg)
    return inside


def _itk_spline(pairs: LandmarkPairs) -> Any:
    """Return a thin-plate spline as ITK's."""
    import itk

    ndim = pairs.fixed.shape[1]
    spline = itk.ThinPlateR2LogRSplineKernelTransform[itk.D, ndim].New()
    places, first = np.unique(pairs.fixed[pairs.used], axis=0, return_index=True)
    for set_points, points in (
        (spline.SetSourceLandmarks, places),
        (spline.SetTargetLandmarks, pairs.moving[pairs.used][first]),
    ):
        found = spline.GetSourceLandmarks().New()
        for number, point in enumerate(points[:, ::-1].tolist()):
            found.GetPoints().InsertElement(number, point)
        set_points(found)
    spline.ComputeWMatrix()
    return spline
