"""Pictures of a registration, drawn from a coarse level of the images (matplotlib)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xdreg.coordinates import coordinates, grid_of
from xdreg.errors import InputError
from xdreg.field import COMPONENT, field_grid, fixed_grid, identity
from xdreg.multiscale import image_levels
from xdreg.resampling import warp

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from xdreg.grid import Grid

#: Pictures are drawn from a level whose longest axis has at most about so many voxels.
PICTURE_VOXELS = 512


def before_after(field: xr.Dataset, fixed: Any, moving: Any) -> Figure:
    """Draw a slice of the pair before and after registration, with the deformation.

    Fixed in magenta and moving in green: where they agree the overlay is grey.

    Parameters
    ----------
    field : Dataset
        A displacement field.
    fixed, moving : DataTree, DataArray or itk.Image ([z], y, x)
        The pair; a middle slice is drawn. Of a tree, a coarse level is read.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If an image has several channels or time points.
    """
    import matplotlib.pyplot as plt

    target, reference = _slice(_coarse(fixed, "fixed"))
    source = _coarse(moving, "moving").astype(np.float32)
    before = _plane(warp(identity(field), source, like=target))
    after = _plane(warp(field, source, like=target))
    figure: Figure = plt.figure(figsize=(14, 5), layout="constrained")
    plt.close(figure)  # a notebook shows what is returned, and would show it twice
    axes = figure.subplots(1, 3)
    units = fixed_grid(field).units or "voxel units"
    y, x = target.dims[-2:]
    grid = grid_of(target)
    low, high = grid.bounds
    extent = (low[-1], high[-1], high[-2], low[-2])
    for axis, moved, title in (
        (axes[0], before, "before"),
        (axes[1], after, "after"),
    ):
        axis.imshow(_overlay(reference, moved), extent=extent)
        axis.set_title(title)
    axes[2].imshow(reference, cmap="gray", extent=extent)
    _draw_grid(axes[2], field, target)
    axes[2].set_title("where a regular grid goes")
    for axis in axes:
        # Units come from stores: a dollar sign in them starts no formula.
        axis.set_xlabel(f"{x} / {units}", parse_math=False)
        axis.set_ylabel(f"{y} / {units}", parse_math=False)
        axis.set_xlim(extent[0], extent[1])
        axis.set_ylim(extent[2], extent[3])
    return figure


def _coarse(image: Any, name: str) -> xr.DataArray:
    """Return the finest level that is small enough for a picture, else the coarsest."""
    levels = image_levels(image, name)
    fitting = [v for v in levels if max(grid_of(v, name).shape) <= PICTURE_VOXELS]
    level = fitting[0] if fitting else levels[-1]
    for dim in ("t", "c"):
        if dim in level.dims:
            if level.sizes[dim] > 1:
                msg = f"{name} has several {dim!r}; choose one to draw: .isel({dim}=0)"
                raise InputError(msg)
            level = level.isel({dim: 0}, drop=True)
    return level


def _slice(fixed: xr.DataArray) -> tuple[xr.DataArray, NDArray[Any]]:
    """Return the middle slice as an image of one plane, and its values."""
    if "z" in fixed.dims:
        middle = fixed.sizes["z"] // 2
        fixed = fixed.isel(z=slice(middle, middle + 1))
    grid = grid_of(fixed, "fixed")
    plain = xr.DataArray(fixed.data, dims=grid.dims, coords=coordinates(grid))
    return plain, _plane(plain)


def _plane(image: xr.DataArray) -> NDArray[Any]:
    values = np.asarray(image.values, np.float32)
    return values[0] if values.ndim == 3 else values


def _overlay(fixed: NDArray[Any], moved: NDArray[Any]) -> NDArray[Any]:
    a, b = _stretch(fixed), _stretch(moved)
    return np.stack([a, b, a], axis=-1)


def _stretch(values: NDArray[Any]) -> NDArray[Any]:
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, (1, 99.5)) if finite.size else (0, 1)
    return np.nan_to_num(np.clip((values - low) / max(high - low, 1e-9), 0, 1))


def _draw_grid(axis: Any, field: xr.Dataset, target: xr.DataArray) -> None:
    """Draw where the lines of a regular grid in the slice are mapped to."""
    grid: Grid = field_grid(field)
    displacement = field["displacement"]
    if grid.ndim == 3:
        z = float(target["z"].values[0])
        nearest = int(
            np.clip(round((z - grid.origin[0]) / grid.spacing[0]), 0, grid.shape[0] - 1)
        )
        displacement = displacement.isel(z=nearest)
    step = max(1, max(displacement.sizes["y"], displacement.sizes["x"]) // 60)
    part = displacement.isel(y=slice(None, None, step), x=slice(None, None, step))
    u = part.sel({COMPONENT: ["y", "x"]}).values
    # The mean shift is no deformation; drawn with it the grid would leave the picture.
    u = u - u.mean(axis=(1, 2), keepdims=True)
    y, x = np.meshgrid(grid.axis("y")[::step], grid.axis("x")[::step], indexing="ij")
    axis.plot(x + u[1], y + u[0], color="tab:cyan", linewidth=0.5)
    axis.plot((x + u[1]).T, (y + u[0]).T, color="tab:cyan", linewidth=0.5)
