"""What there is to look at: the fixed image, the warped and the moving one, as readers.

A scene is what the viewers share. Nothing is read when it is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xdreg.errors import InputError
from xdreg.fields.field import field_grid, fixed_grid, open_displacement
from xdreg.fields.provenance import registered_channels, selects
from xdreg.grid import pyramid_factors
from xdreg.stores.channels import channel_selection
from xdreg.stores.pyramid import Pyramid, build_pyramid, image_levels
from xdreg.stores.readers import ImageReader, image_reader
from xdreg.views.lazy_readers import WarpedReader

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import xarray as xr

    from xdreg.grid import Grid
    from xdreg.stores.channels import Selection


@dataclass(frozen=True)
class Scene:
    """Both images and the warped one, each at its levels, finest first.

    ``fixed`` is empty where only the field is known. All grids are in one unit, that of
    the field; those of ``moving`` lie where the moving image was before.
    """

    field: xr.Dataset
    fixed: tuple[ImageReader, ...]
    warped: tuple[WarpedReader, ...]
    moving: tuple[ImageReader, ...]


def make_scene(
    field: xr.Dataset,
    fixed: Any,
    moving: Any,
    *,
    channel: int | str | None = None,
    moving_channel: int | str | None = None,
) -> Scene:
    """Bring a field and its images together.

    Parameters
    ----------
    field : Dataset
        A displacement field.
    fixed : DataTree, DataArray, itk.Image or None ([t], [c], [z], y, x)
        The fixed image. None warps onto a pyramid made up from its geometry, which the
        field knows.
    moving : DataTree, DataArray or itk.Image ([t], [c], [z], y, x)
        The moving image.
    channel, moving_channel
        Index or name, or ``"luminance"``; by default the one that was registered, if
        the field tells. ``moving_channel`` is ``channel`` unless given.

    Returns
    -------
    Scene

    Raises
    ------
    InputError
        If an image and the field differ in dimensions, units do not convert, or a
        channel must be chosen.
    """
    own = field_grid(field)
    source = image_levels(moving, "moving")
    if moving_channel is None and "c" in source[0].dims:
        moving_channel = channel
    chosen = _selection(field, source[0], moving_channel, "moving")
    loose = _readers(source, own, chosen, "moving")
    steady: tuple[ImageReader, ...] = ()
    if fixed is None:
        grids = _made_up(fixed_grid(field).to_units(own.units, "fixed"))
    else:
        target = image_levels(fixed, "fixed")
        chosen_fixed = _selection(field, target[0], channel, "fixed")
        steady = _readers(target, own, chosen_fixed, "fixed")
        grids = [reader.grid for reader in steady]
    displacement = open_displacement(field)
    pyramid = Pyramid((None,) * len(loose), tuple(r.grid for r in loose))
    warped = tuple(
        WarpedReader(loose[pyramid.level_like(grid)], displacement, grid)
        for grid in grids
    )
    return Scene(field, steady, warped, loose)


def _selection(
    field: xr.Dataset, array: xr.DataArray, channel: int | str | None, name: str
) -> Mapping[str, Selection]:
    """Return which channel to show; none where there is but one."""
    if channel is not None:
        return {"c": channel_selection(array, channel, name)}
    if "c" not in array.dims:
        return {}
    registered = registered_channels(field)[("fixed", "moving").index(name)]
    return registered if selects(registered, array.sizes["c"]) else {}


def _readers(
    levels: Sequence[xr.DataArray],
    own: Grid,
    select: Mapping[str, Selection],
    name: str,
) -> tuple[ImageReader, ...]:
    """Return a reader for every stored level, in the units of the field."""
    grids = build_pyramid(levels, name, own.units).grids
    if grids[0].dims != own.dims:
        msg = f"{name} has dimensions {grids[0].dims} and the field {own.dims}"
        raise InputError(msg)
    return tuple(
        image_reader(level, name, grid=grid, select=select)
        for level, grid in zip(levels, grids, strict=False)
    )


def _made_up(grid: Grid) -> list[Grid]:
    """Return the grids of a pyramid that nobody has stored."""
    grids = [grid]
    for factors in pyramid_factors(grid):
        grids.append(grids[-1].coarsen(factors))
    return grids
