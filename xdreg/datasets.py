"""Pairs to try things on: real ones to fetch, and phantoms with a known displacement.

Phantoms have any size and are made chunk by chunk. The moving image is a texture
``T(y)``: tissue-like structure at several scales on a dark background. The fixed image
is ``T(x + u(x))`` with a smooth, known ``u``. So ``moving(x + u(x)) = fixed(x)`` holds
exactly, and a registration should find ``u``. Every value depends on its position
alone, so any chunking gives the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array
import numpy as np
import xarray as xr

from xdreg.coordinates import coordinates
from xdreg.errors import InputError
from xdreg.grid import SPATIAL_DIMS, Grid
from xdreg.numerics import kernels
from xdreg.numerics.kernel_files import kernel
from xdreg.stores.published_pairs import RealPair, fetch

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from xdreg.stores.ome_writer import Version

__all__ = ["Phantom", "RealPair", "fetch", "phantom_pair", "write_phantom_pair"]

#: Pitch in voxels and weight of each random lattice of the texture.
_OCTAVES = ((20.0, 1.0), (10.0, 0.6), (5.0, 0.3))

#: Largest gradient of the displacement. Below one, it cannot fold.
MAX_GRADIENT = 0.4

_CHUNK = 64


@dataclass(frozen=True)
class Phantom:
    """A pair of images with its true displacement field.

    Parameters
    ----------
    fixed, moving : DataArray ([z], y, x)
        The images. All arrays are lazy.
    displacement : DataArray (component, [z], y, x) float32
        The true field on the fixed grid, in the units of the coordinates.
    foreground : DataArray ([z], y, x) bool
        Where the fixed image has texture.
    fixed_points, moving_points : (n, ndim)
        Corresponding points, in dims order and physical units.
    """

    fixed: xr.DataArray
    moving: xr.DataArray
    displacement: xr.DataArray
    foreground: xr.DataArray
    fixed_points: NDArray[np.float64]
    moving_points: NDArray[np.float64]


def phantom_pair(
    shape: Sequence[int] = (96, 112, 128),
    *,
    spacing: float | Sequence[float] = 1.0,
    origin: float | Sequence[float] = 0.0,
    units: str | None = "micrometer",
    amplitude: float | None = None,
    noise: float = 0.01,
    dtype: str = "uint16",
    chunks: int = _CHUNK,
    seed: int = 0,
) -> Phantom:
    """Make a pair with a known displacement.

    Parameters
    ----------
    shape
        Voxels per axis, for two or three axes.
    spacing, origin
        Geometry of both images in ``units``, one number or one per dim.
    units
        Unit of length.
    amplitude
        Largest displacement per axis in ``units``, by default four voxels. Wavelengths
        grow with it, so that the field never folds.
    noise
        Standard deviation of the voxel noise, relative to the brightest value.
    dtype
        Type of the images. Integers use their range up to 60,000.
    chunks
        Voxels per axis of a chunk.
    seed
        Seed of the texture, the displacement and the noise.

    Raises
    ------
    InputError
        If the shape is not two- or three-dimensional, or the geometry does not match.

    Examples
    --------
    >>> pair = phantom_pair((32, 40), seed=3)
    >>> pair.fixed.shape, pair.displacement.dims
    ((32, 40), ('component', 'y', 'x'))
    """
    ndim = len(shape)
    if ndim not in (2, 3):
        msg = f"shape must have two or three axes, got {tuple(shape)}"
        raise InputError(msg)
    steps = _expand(spacing, ndim)
    sizes = tuple(int(n) for n in shape)
    grid = Grid(SPATIAL_DIMS[-ndim:], sizes, steps, _expand(origin, ndim), units)
    scene = _Scene(grid, 4.0 * min(steps) if amplitude is None else amplitude, seed)

    def lazy(name: str, dtype: Any, *lead: int) -> xr.DataArray:
        shape = (*lead, *grid.shape)
        data = dask.array.map_blocks(
            _make_chunk,
            chunks=dask.array.core.normalize_chunks((*lead, *(chunks,) * ndim), shape),
            dtype=dtype,
            meta=np.empty((0,) * len(shape), dtype),
            scene=scene,
            what=name,
            noise=noise,
        )
        dims = (("component",) if lead else ()) + grid.dims
        array = xr.DataArray(data, dims=dims, coords=coordinates(grid), name=name)
        return array.assign_coords(component=list(grid.dims)) if lead else array

    points = _hash_uniform(np.arange(50 * ndim).reshape(50, ndim), seed + 17)
    lower, upper = grid.bounds
    points = lower + (0.2 + 0.6 * points) * (upper - lower)
    return Phantom(
        lazy("fixed", dtype),
        lazy("moving", dtype),
        lazy("displacement", "float32", ndim),
        lazy("foreground", "bool"),
        points,
        points + scene.displacement(points),
    )


def write_phantom_pair(
    folder: str | os.PathLike[str],
    shape: Sequence[int] = (96, 112, 128),
    *,
    version: Version = "0.5",
    overwrite: bool = False,
    **options: Any,
) -> tuple[Path, Path]:
    """Write a phantom pair as OME-Zarr with pyramids, block by block.

    Parameters
    ----------
    folder
        Where to write ``fixed.ome.zarr`` and ``moving.ome.zarr``.
    shape, **options
        As in `phantom_pair`.
    version
        OME-Zarr version.
    overwrite
        Replace existing images.

    Returns
    -------
    fixed, moving : Path

    Raises
    ------
    StoreError
        If an image exists and ``overwrite`` is false, or it cannot be written.
    """
    from xdreg.stores.ome_writer import write_ome_zarr
    from xdreg.stores.outputs import check_target
    from xdreg.stores.paths import as_address, local_path

    pair = phantom_pair(shape, **options)
    target = local_path(as_address(folder, "folder"))
    target.mkdir(parents=True, exist_ok=True)
    paths = target / "fixed.ome.zarr", target / "moving.ome.zarr"
    for path in paths:
        check_target(path, overwrite=overwrite)
    for image, path in zip((pair.fixed, pair.moving), paths, strict=True):
        write_ome_zarr(image, path, version=version, overwrite=overwrite)
    return paths


def _expand(value: float | Sequence[float], ndim: int) -> tuple[float, ...]:
    values = value if isinstance(value, Sequence) else (value,) * ndim
    if len(values) != ndim:
        msg = f"expected one number or {ndim}, got {value!r}"
        raise InputError(msg)
    return tuple(float(v) for v in values)


def _hash_uniform(lattice: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each integer, by a multiply-xorshift hash."""
    value = lattice.astype(np.uint64) + np.uint64(seed * 0x9E3779B97F4A7C15 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ (value >> np.uint64(shift))) * np.uint64(factor)
    value ^= value >> np.uint64(31)
    return (value >> np.uint64(11)).astype(np.float64) / float(2**53)


@kernel()
def _value_noise(position: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Interpolate random numbers by Perlin's quintic step at lattice points (n, 3)."""
    out = np.empty(position.shape[0])
    place = np.empty(3)
    base = np.empty(3, np.int64)
    for n in range(position.shape[0]):
        for d in range(3):
            base[d] = int(np.floor(position[n, d]))
            t = position[n, d] - base[d]
            place[d] = t * t * t * (t * (6 * t - 15) + 10)
        total = 0.0
        for corner in range(8):
            key = np.uint64(seed)
            weight = 1.0
            for d in range(3):
                step = (corner >> d) & 1
                weight *= place[d] if step else 1 - place[d]
                key = (key ^ np.uint64(base[d] + step)) * np.uint64(0xBF58476D1CE4E5B9)
                key ^= key >> np.uint64(29)
            total += weight * (np.float64(key >> np.uint64(11)) / 9007199254740992.0)
        out[n] = total
    return out


class _Scene:
    """Texture and displacement as functions of physical points ``(n, ndim)``."""

    def __init__(self, grid: Grid, amplitude: float, seed: int) -> None:
        self.grid, self.amplitude, self.seed = grid, amplitude, seed
        lower, upper = grid.bounds
        extent = upper - lower
        # |gradient| of two sines of half the amplitude is 2 pi amplitude / wavelength.
        shortest = 2 * np.pi * amplitude * np.sqrt(grid.ndim) / MAX_GRADIENT
        random = np.random.default_rng(seed)
        ndim = grid.ndim
        waves = np.maximum(shortest, extent.max() * random.uniform(0.7, 1.3, (ndim, 2)))
        direction = random.normal(size=(ndim, 2, ndim))
        direction /= np.linalg.norm(direction, axis=2, keepdims=True)
        self._waves = 2 * np.pi * direction / waves[..., None]
        self._phases = random.uniform(0, 2 * np.pi, (ndim, 2))
        self._centre, self._half = grid.centre, 0.5 * extent

    def displacement(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the displacement of points."""
        phase = np.einsum("nd,cwd->ncw", points, self._waves) + self._phases
        return np.asarray(0.5 * self.amplitude * np.sin(phase).sum(axis=2))

    def envelope(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return one inside a rounded body and zero outside, with a smooth edge."""
        cubes = np.abs((points - self._centre) / self._half) ** 3
        radius = cubes.sum(axis=1) ** (1 / 3)
        return np.asarray(np.clip((0.9 - radius) / 0.08, 0.0, 1.0))

    def texture(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the brightness of the tissue, from zero to one."""
        unit = min(self.grid.spacing)
        value = np.zeros(len(points))
        position = np.zeros((len(points), 3))
        for number, (pitch, weight) in enumerate(_OCTAVES):
            position[:, 3 - points.shape[1] :] = points / (pitch * unit)
            value += weight * (_value_noise(position, self.seed * 31 + number) - 0.5)
        ridges = 1.0 - np.minimum(np.abs(value) * 2.5, 1.0)
        tissue = 0.25 + 0.35 * np.clip(value + 0.5, 0, 1) + 0.4 * ridges**2
        return np.asarray(self.envelope(points) * tissue)

    def __dask_tokenize__(self) -> object:
        return ("xdreg.phantom", str(self.grid), self.amplitude, self.seed)


def _make_chunk(
    scene: _Scene, what: str, noise: float, block_info: Any = None
) -> NDArray[Any]:
    """Make one chunk of an array of the phantom."""
    info = block_info[None]
    location = info["array-location"][-scene.grid.ndim :]
    window = [slice(int(a), int(b)) for a, b in location]
    grid = scene.grid.window(window)
    points = kernels.grid_points(grid)
    if what == "displacement":
        values = scene.displacement(points).T
        return values.reshape(-1, *grid.shape).astype(np.float32)
    moved = points if what == "moving" else points + scene.displacement(points)
    if what == "foreground":
        return (scene.envelope(moved) > 0.5).reshape(grid.shape)
    brightness = scene.texture(moved)
    if noise > 0:
        voxels = np.mgrid[tuple(window)].reshape(grid.ndim, -1).T
        index = voxels @ np.array([1 << 42, 1 << 21, 1])[-grid.ndim :]
        stream = scene.seed * 7 + (3 if what == "fixed" else 5)
        u, v = _hash_uniform(index, stream), _hash_uniform(index, stream + 1000)
        # Box-Muller.
        brightness += noise * np.sqrt(-2 * np.log1p(-u)) * np.cos(2 * np.pi * v)
    return _to_dtype(brightness.reshape(grid.shape), np.dtype(info["dtype"]))


def _to_dtype(brightness: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.kind == "f":
        return brightness.astype(dtype)
    top = min(np.iinfo(dtype).max, 60_000) * 0.9
    return np.clip(np.rint(brightness * top), 0, np.iinfo(dtype).max).astype(dtype)


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
