"""The geometry of a sampled image: grids, units of length, index ↔ physical space.

Conventions:

* Axes follow the spatial dims, slowest first (``z, y, x`` or ``y, x``).
* ``origin`` is the physical position of the *centre* of voxel zero; the centre of voxel
  ``i`` is ``origin + spacing * i``.
* ``spacing`` is positive. Like ``origin`` it is an exact number, never computed from
  differences of coordinates.
* All axes share one unit of length.
* Coordinates are along the image's own axes. Those of an oblique volume are turned to
  the world by its direction: ``world = direction @ coordinates``.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from xdreg.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray


SPATIAL_DIMS = ("z", "y", "x")

#: Least and largest spacing in any unit. The square of a displacement fits in float32.
LENGTHS = (1e-18, 1e18)

#: Most voxels between an image and zero. Positions are exact to a thousandth of one.
MOST_VOXELS = 1e12

_METRIC_PREFIXES = {
    "yocto": -24, "zepto": -21, "atto": -18, "femto": -15, "pico": -12, "nano": -9,
    "micro": -6, "milli": -3, "centi": -2, "deci": -1, "": 0, "deca": 1, "hecto": 2,
    "kilo": 3, "mega": 6, "giga": 9, "tera": 12, "peta": 15, "exa": 18, "zetta": 21,
    "yotta": 24,
}  # fmt: skip

#: Length of one unit in metres, for every unit of length that OME-Zarr names.
UNIT_METRES: dict[str, float] = {
    **{f"{prefix}meter": 10.0**power for prefix, power in _METRIC_PREFIXES.items()},
    "angstrom": 1e-10,
    "inch": 0.0254,
    "foot": 0.3048,
    "yard": 0.9144,
    "mile": 1609.344,
    "parsec": 3.0856775814913673e16,
}

_UNIT_ALIASES = {
    "nm": "nanometer", "um": "micrometer", "µm": "micrometer", "μm": "micrometer",
    "micron": "micrometer", "microns": "micrometer", "mm": "millimeter",
    "cm": "centimeter", "m": "meter", "km": "kilometer", "Å": "angstrom",
    "pm": "picometer", "in": "inch", "ft": "foot", "unit": "",  # of spatialdata
}  # fmt: skip


def normalise_units(units: str | None) -> str | None:
    """Return OME-Zarr's name of a unit of length; unknown names are unchanged."""
    if units is None:
        return None
    if not isinstance(units, str):
        msg = f"a unit of length must be text such as 'micrometer', got {units!r}"
        raise InputError(msg)
    name = _UNIT_ALIASES.get(units.strip(), units.strip())
    if name.lower().replace("metre", "meter").removesuffix("s") in UNIT_METRES:
        name = name.lower()
    if name.endswith(("metre", "metres")):
        name = name.replace("metre", "meter")
    if name.endswith("meters"):
        name = name.removesuffix("s")
    return name or None


def unit_ratio(
    source: str | None, target: str | None, name: str | None = None
) -> float:
    """Return the factor that converts lengths in one unit to another.

    Errors name the object with lengths in ``source`` as ``name``.
    """
    source, target = normalise_units(source), normalise_units(target)
    if source == target:
        return 1.0
    if source in UNIT_METRES and target in UNIT_METRES:
        ratio = UNIT_METRES[source] / UNIT_METRES[target]
        # Powers of ten must be exact; 1e-3 / 1e-6 is not 1000.0 in binary.
        return float(f"{ratio:.14g}")
    msg = (
        f"{name + ': ' if name else ''}lengths in {source or 'no unit'} do not convert "
        f"to {target or 'no unit'}; "
        "give both images the same kind of unit in their metadata, or in Python for "
        "example image.x.attrs['units'] = 'micrometer' on each spatial coordinate"
    )
    raise InputError(msg)


def is_finite(value: object) -> bool:
    """Return whether a value is a finite real number that fits in a float."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def positive_per_axis(value: Any, ndim: int, name: str) -> tuple[float, ...]:
    """Return one positive number per axis from a number or a sequence."""
    given = np.ravel(np.asarray(value, object)).tolist()
    values = given * ndim if len(given) == 1 else given
    if len(values) != ndim or not all(is_finite(v) and v > 0 for v in values):
        msg = f"{name} must be a number above zero, or {ndim} of them, got {value!r}"
        raise InputError(msg)
    return tuple(float(v) for v in values)


def whole_per_axis(
    value: float | Sequence[float], ndim: int, name: str, *, minimum: float = 0
) -> tuple[int, ...]:
    """Return one whole number per axis from a number or a sequence."""
    values: list[Any] = [value] * ndim
    if isinstance(value, (list, tuple, np.ndarray)):
        values = list(value)
    whole = all(
        isinstance(v, (int, np.integer)) and not isinstance(v, bool) for v in values
    )
    if len(values) != ndim or not whole or any(v < minimum for v in values):
        msg = (
            f"{name} must be a whole number of voxels ≥ {minimum:g}, or {ndim} of "
            f"them, got {value!r}"
        )
        raise InputError(msg)
    return tuple(int(v) for v in values)


def real_array(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return numbers as float64; raise if they are complex."""
    found = np.asarray(values)
    check_real(found.dtype, name)
    return found.astype(np.float64)


def check_real(dtype: Any, name: str) -> None:
    """Raise if a dtype is complex: numpy would drop the imaginary parts."""
    if getattr(dtype, "kind", "") == "c":
        msg = f"{name} has dtype {dtype}; expected real numbers"
        raise InputError(msg)


def checked_matrix(matrix: ArrayLike, ndim: int, name: str) -> NDArray[np.float64]:
    """Return an invertible homogeneous matrix as an array, or raise if it is none."""
    values = real_array(matrix, name)
    shape, last = (ndim + 1, ndim + 1), [0.0] * ndim + [1.0]
    if (
        values.shape == shape
        and np.isfinite(values).all()
        and np.allclose(values[-1], last)
        and np.linalg.det(values) != 0
    ):
        return values
    found = values.tolist() if values.shape == shape else f"of shape {values.shape}"
    msg = (
        f"{name} is a matrix {found}; expected an invertible homogeneous matrix of "
        f"shape {shape}, in the order of the dims, with last row {last}"
    )
    raise InputError(msg)


@dataclass(frozen=True)
class Grid:
    """A regular, axis-aligned grid of voxel centres in physical space.

    Parameters
    ----------
    dims
        Names of the spatial dimensions, slowest first.
    shape
        Number of voxels per axis.
    spacing
        Distance between adjacent voxel centres per axis, in ``units``; positive.
    origin
        Position of the centre of voxel zero per axis, in ``units``.
    units
        OME-Zarr name of the unit of length; None if it is not known.
    direction
        Rows of the rotation from the grid's axes to those of the world, both in dims
        order; None if they are the same.

    Raises
    ------
    InputError
        If a value is invalid, or the tuples differ in length.

    Examples
    --------
    >>> grid = Grid(("y", "x"), (4, 6), (2.0, 1.0), (10.0, 0.0), "micrometer")
    >>> grid.index_to_physical([1, 2])
    array([12.,  2.])
    >>> grid.coarsen((2, 2)).origin
    (11.0, 0.5)
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    units: str | None = None
    direction: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self) -> None:
        if self.direction is not None:
            self._check_direction()
        for name in ("dims", "shape", "spacing", "origin"):
            values = getattr(self, name)
            if not isinstance(values, tuple):
                msg = f"{name} must be a tuple with one value per dim, got {values!r}"
                raise InputError(msg)
        if (
            not len(self.dims)
            == len(self.shape)
            == len(self.spacing)
            == len(self.origin)
        ):
            msg = f"dims, shape, spacing and origin differ in length: {self}"
            raise InputError(msg)
        named = all(isinstance(dim, str) for dim in self.dims)
        if not named or self.dims not in (SPATIAL_DIMS, SPATIAL_DIMS[1:]):
            msg = (
                f"spatial dimensions must be ('z', 'y', 'x') or ('y', 'x'), got "
                f"{self.dims}; rename or transpose the image's dimensions"
            )
            raise InputError(msg)
        whole = all(isinstance(size, int | np.integer) for size in self.shape)
        if not whole or min(self.shape) < 1:
            msg = f"every axis needs at least one voxel, got shape {self.shape}"
            raise InputError(msg)
        if not all(is_finite(step) and step > 0 for step in self.spacing):
            msg = f"spacing must be positive and finite, got {self.spacing}"
            raise InputError(msg)
        if not all(is_finite(value) for value in self.origin):
            msg = f"origin must be finite, got {self.origin}"
            raise InputError(msg)
        low, high = LENGTHS
        if min(self.spacing) < low or max(self.spacing) > high:
            msg = (
                f"spacing must be between {low:g} and {high:g}, got {self.spacing}; is "
                "its unit right? Lengths in single precision would overflow"
            )
            raise InputError(msg)
        for start, step in zip(self.origin, self.spacing, strict=True):
            if abs(start) > MOST_VOXELS * step:
                msg = (
                    f"origin {self.origin} is more than {MOST_VOXELS:g} voxels of "
                    f"{self.spacing} from zero, so that adjacent voxels would have the "
                    "same position; correct it, or move the image nearer to zero"
                )
                raise InputError(msg)

    def _check_direction(self) -> None:
        """Raise if the direction is no rotation of as many axes."""
        found = np.asarray(self.direction, np.float64)
        eye = np.eye(len(self.dims))
        if found.shape != eye.shape or not np.allclose(found @ found.T, eye, atol=1e-3):
            msg = f"direction must be a rotation of {self.dims}, got {self.direction}"
            raise InputError(msg)

    @property
    def to_world(self) -> NDArray[np.float64]:
        """Homogeneous matrix from coordinates of the grid to those of the world."""
        matrix = np.eye(self.ndim + 1)
        if self.direction is not None:
            matrix[:-1, :-1] = self.direction
        return matrix

    @property
    def aligned(self) -> Grid:
        """The grid in its own axes, without a direction."""
        return self if self.direction is None else replace(self, direction=None)

    @property
    def from_world(self) -> NDArray[np.float64]:
        """The inverse of `to_world`."""
        # Cosines of files are in single precision: the transpose would be less exact.
        return np.asarray(np.linalg.inv(self.to_world), np.float64)

    def is_parallel(self, other: Grid) -> bool:
        """Return whether the axes of another grid are turned as these are."""
        if self.direction == other.direction or self.ndim != other.ndim:
            return True
        return bool(np.abs(self.to_world - other.to_world).max() <= SAME_DIRECTION)

    def check_direction(self, other: Grid, name: str, like: str) -> None:
        """Raise if the axes of another grid are not turned as these are."""
        if not self.is_parallel(other):
            msg = (
                f"{name} has the direction {other.direction} and {like} "
                f"{self.direction}: their axes are not parallel; warp it onto the "
                "other, for example with xdreg.warp(field, image, like=...)"
            )
            raise InputError(msg)

    @property
    def ndim(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return len(self.dims)

    @property
    def extended_ndim(self) -> int:
        """3, or 2 if a spatial axis is missing or has one voxel, as that of a slide."""
        return 3 if self.ndim == 3 and min(self.shape) > 1 else 2

    @property
    def size(self) -> int:
        """Number of voxels."""
        return math.prod(self.shape)

    @property
    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lower and upper *edges* of the imaged region, half a voxel beyond centres."""
        lower = np.asarray(self.origin) - 0.5 * np.asarray(self.spacing)
        return lower, lower + np.asarray(self.spacing) * np.asarray(self.shape)

    def contains(
        self, points: NDArray[np.float64], rounding: float = float(np.finfo(float).eps)
    ) -> NDArray[np.bool_]:
        """Return which points ``(n, ndim)`` are in the imaged region, edges included.

        ``rounding`` is the relative error of the points. Products such as
        ``0.325 * 1000`` may lie just beyond an edge.
        """
        lower, upper = self.bounds
        largest = np.maximum(np.abs(lower), np.abs(upper))
        slack = EDGE_TOLERANCE * np.asarray(self.spacing) + rounding * largest
        inside = (points >= lower - slack) & (points <= upper + slack)
        return np.asarray(inside.all(axis=1))

    @property
    def centre(self) -> NDArray[np.float64]:
        """Physical centre of the imaged region."""
        lower, upper = self.bounds
        return 0.5 * (lower + upper)

    def axis(self, dim: str) -> NDArray[np.float64]:
        """Return the voxel centres along one dimension."""
        i = self.dims.index(dim)
        return np.asarray(
            self.origin[i] + self.spacing[i] * np.arange(self.shape[i]), np.float64
        )

    def index_to_physical(self, index: ArrayLike) -> NDArray[np.float64]:
        """Map (fractional) voxel indices ``(..., ndim)`` to physical points."""
        return np.asarray(
            np.asarray(self.origin) + np.asarray(self.spacing) * np.asarray(index)
        )

    def physical_to_index(self, points: ArrayLike) -> NDArray[np.float64]:
        """Map physical points ``(..., ndim)`` to fractional voxel indices."""
        return np.asarray(
            (np.asarray(points) - np.asarray(self.origin)) / np.asarray(self.spacing)
        )

    def window(self, window: Sequence[slice]) -> Grid:
        """Return the grid of a rectangular part, given as index slices with steps."""
        starts = [0 if part.start is None else part.start for part in window]
        stops = [
            size if part.stop is None else part.stop
            for part, size in zip(window, self.shape, strict=True)
        ]
        part = replace(
            self,
            shape=tuple(b - a for a, b in zip(starts, stops, strict=True)),
            origin=tuple(float(v) for v in self.index_to_physical(starts)),
        )
        return part.strided([index.step or 1 for index in window])

    def coarsen(self, factors: Sequence[int]) -> Grid:
        """Return the grid of means over ``factors`` voxels, without the remainder."""
        offset = 0.5 * (np.asarray(factors) - 1.0)
        return replace(
            self,
            shape=tuple(n // f for n, f in zip(self.shape, factors, strict=True)),
            spacing=tuple(s * f for s, f in zip(self.spacing, factors, strict=True)),
            origin=tuple(float(v) for v in self.index_to_physical(offset)),
        )

    def every(self, steps: Sequence[float]) -> Grid:
        """Return the grid with ``steps`` times the spacing that covers all centres."""
        sizes = zip(self.shape, steps, strict=True)
        return replace(
            self,
            shape=tuple(math.ceil((n - 1) / k - 1e-6) + 1 for n, k in sizes),
            spacing=tuple(s * k for s, k in zip(self.spacing, steps, strict=True)),
        )

    def strided(self, steps: Sequence[int]) -> Grid:
        """Return the grid of an array's slices ``::step``, one per axis."""
        return replace(
            self,
            shape=tuple(-(-n // k) for n, k in zip(self.shape, steps, strict=True)),
            spacing=tuple(s * k for s, k in zip(self.spacing, steps, strict=True)),
        )

    def strides_to(self, target: Grid) -> tuple[int, ...]:
        """Return per axis how many steps of this grid fit in one of another grid."""
        pairs = zip(target.spacing, self.spacing, strict=True)
        return tuple(max(int(wide / step + 1e-6), 1) for wide, step in pairs)

    def to_units(self, units: str | None, name: str | None = None) -> Grid:
        """Return the grid with its lengths in another unit.

        Parameters
        ----------
        units
            Name of the unit. `InputError` is raised if it does not convert.
        name
            What has the grid, for the error.
        """
        ratio = unit_ratio(self.units, units, name)
        return replace(
            self,
            spacing=tuple(s * ratio for s in self.spacing),
            origin=tuple(o * ratio for o in self.origin),
            units=normalise_units(units),
        )

    def covering(
        self, lower: ArrayLike, upper: ArrayLike, margin: int = 0
    ) -> tuple[slice, ...] | None:
        """Return the window of voxels needed to interpolate within a physical box.

        Parameters
        ----------
        lower, upper : (ndim,)
            Corners of the box, in ``units``.
        margin
            Voxels to add on every side.

        Returns
        -------
        tuple of slice or None
            Clipped to the grid; None if the box is outside it.
        """
        first = np.floor(self.physical_to_index(lower)) - margin
        last = np.floor(self.physical_to_index(upper)) + 2 + margin
        if not (np.isfinite(first).all() and np.isfinite(last).all()):
            return None
        starts = np.clip(first, 0, self.shape).astype(int)
        stops = np.clip(last, 0, self.shape).astype(int)
        if (stops <= starts).any():
            return None
        return tuple(slice(int(a), int(b)) for a, b in zip(starts, stops, strict=True))

    def to_dict(self) -> dict[str, object]:
        """Return the grid as JSON values."""
        values = asdict(self)
        if self.direction is None:
            del values["direction"]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> Grid:
        """Return the grid of the JSON values of `to_dict`."""
        return cls(
            dims=tuple(values["dims"]),  # type: ignore[arg-type]
            shape=tuple(int(v) for v in values["shape"]),  # type: ignore[attr-defined]
            spacing=tuple(float(v) for v in values["spacing"]),  # type: ignore[attr-defined]
            origin=tuple(float(v) for v in values["origin"]),  # type: ignore[attr-defined]
            units=values["units"],  # type: ignore[arg-type]
            direction=rows_of(values.get("direction")),
        )


def rows_of(matrix: Any) -> tuple[tuple[float, ...], ...] | None:
    """Return a matrix as a grid has its direction, None for the identity or None."""
    if matrix is None:
        return None
    values = np.asarray(matrix, np.float64)
    if np.abs(values - np.eye(len(values))).max() <= SAME_DIRECTION:
        return None
    return tuple(map(tuple, values.tolist()))


#: Most difference of direction cosines of axes that count as parallel.
SAME_DIRECTION = 1e-6

#: Distance beyond the edge at which a point still belongs to an image, in voxels.
EDGE_TOLERANCE = 1e-6

#: Largest number of voxels along an axis of a pyramid's coarsest level.
SMALLEST = 64

#: An axis is halved while its spacing is below this multiple of the finest one.
ANISOTROPY = 1.5


def pyramid_factors(grid: Grid, smallest: int = SMALLEST) -> list[tuple[int, ...]]:
    """Return the factors by which each level of a pyramid is coarser than the last.

    The coarsest has ``smallest`` voxels at most along every axis. An axis that is
    coarser than the others is kept until they are as coarse.

    Examples
    --------
    >>> dims, origin = ("z", "y", "x"), (0.0, 0.0, 0.0)
    >>> pyramid_factors(Grid(dims, (40, 256, 256), (4.0, 1.0, 1.0), origin))
    [(1, 2, 2), (1, 2, 2)]
    """
    factors = []
    while max(grid.shape) > smallest:
        finest = min(s for s, n in zip(grid.spacing, grid.shape, strict=True) if n > 1)
        step = tuple(
            2 if n > 1 and s < ANISOTROPY * finest else 1
            for s, n in zip(grid.spacing, grid.shape, strict=True)
        )
        factors.append(step)
        grid = grid.coarsen(step)
    return factors
