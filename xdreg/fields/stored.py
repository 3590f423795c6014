"""What a store of a field holds, read without its displacements.

The groups ``xdreg`` and ``xdreg_inverse`` next to a field hold diagnostics and
provenance.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
import zarr

from xdreg.coordinates import coordinates
from xdreg.errors import InputError, StoreError
from xdreg.fields.diagnostics import (
    DIAGNOSTICS,
    EARLIER,
    EARLIER_DIMS,
    INVERSE_DIAGNOSTICS,
)
from xdreg.fields.field import COMPONENT
from xdreg.fields.ome_scene_reader import Step, read_steps
from xdreg.fields.ome_vectors import VectorStep
from xdreg.grid import Grid, normalise_units
from xdreg.partition import MOST_BLOCKS
from xdreg.stores.nodes import child_names, open_array, open_named
from xdreg.stores.ownership import ARRAYS

#: Groups for diagnostics and provenance, by ``inverse``.
EXTRA = {False: "xdreg", True: "xdreg_inverse"}


@dataclass(frozen=True)
class Stored:
    """A field as stored: steps from the fixed to the moving system, and the rest.

    ``extra`` has the diagnostics and the field's attributes; ``attrs`` are those of its
    displacement.
    """

    steps: list[Step]
    extra: xr.Dataset
    attrs: dict[str, Any]
    direction: tuple[tuple[float, ...], ...] | None

    def grid(self, step: VectorStep) -> Grid:
        """Return the geometry of a step's displacements."""
        # OME-Zarr has no word for units such as pixels.
        units = step.grid.units or self.attrs.get("units")
        return replace(step.grid, units=units, direction=self.direction)

    def outline(self) -> xr.Dataset | None:
        """Return the field with zeros as displacement; None if it has several steps.

        This is for what does not look at the displacement.
        """
        step = self.steps[0]
        if len(self.steps) > 1 or not isinstance(step, VectorStep):
            return None
        grid = self.grid(step)
        zeros = np.broadcast_to(np.float32(0), (grid.ndim, *grid.shape))
        dims = (COMPONENT, *grid.dims)
        displacement = xr.Variable(dims, zeros, self.attrs, fastpath=True)
        return self.extra.assign(displacement=displacement).assign_coords(
            coordinates(grid)
        )


def read_stored(
    address: str,
    group: zarr.Group,
    *,
    inverse: bool = False,
    name: str | None = None,
) -> Stored:
    """Return what an open store holds of a field; others are those of `open_field`.

    Raises
    ------
    StoreError
        If it holds no displacement field that can be used.
    """
    steps = read_steps(address, group, inverse=inverse, name=name)
    extra = _read_extra(address, group, EXTRA[inverse])
    attrs = {k: v for k, v in extra.attrs.items() if k != ARRAYS}
    stored = _parsed(address, "displacement_attrs", attrs.pop("displacement_attrs", {}))
    fixed = _parsed(address, "fixed_grid", attrs.get("fixed_grid", "{}"))
    try:
        direction = Grid.from_dict(fixed).direction if fixed else None
        normalise_units(stored.get("units"))
    except (InputError, KeyError, TypeError, ValueError, OverflowError) as error:
        msg = f"{address}: fixed_grid is {fixed!r}; expected a grid: {error}"
        raise StoreError(msg) from error
    extra.attrs = attrs
    return Stored(steps, extra, stored, direction)


def _read_extra(address: str, group: zarr.Group, name: str) -> xr.Dataset:
    """Return the diagnostics and provenance in a group of the store, if any."""
    try:
        child: Any = open_named(address, group, name)
    except StoreError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return xr.Dataset()
        raise
    try:
        keys = filter(_is_diagnostic, child_names(child))
        found = {
            key: _variable(address, open_array(address, child, key)) for key in keys
        }
        return xr.Dataset(found, attrs=dict(child.attrs))
    except StoreError:
        raise
    # Neither xarray nor Zarr documents what malformed metadata raises.
    except Exception as error:
        msg = f"{address}: the group {name!r} next to the field is damaged: {error}"
        raise StoreError(msg) from error


def _is_diagnostic(name: str) -> bool:
    """Return whether an array is a known diagnostic of blocks."""
    _, found, kind = name.rpartition("block_")
    known = DIAGNOSTICS | INVERSE_DIAGNOSTICS
    return name == EARLIER or (bool(found) and kind in known)


def _variable(address: str, array: zarr.Array[Any]) -> xr.Variable:
    """Return an array of diagnostics as the variable that xarray wrote."""
    earlier = array.basename == EARLIER
    if array.size > MOST_BLOCKS * (len(DIAGNOSTICS) if earlier else 1):
        msg = f"{address}: {array.path} has the shape {array.shape}, too many blocks"
        raise StoreError(msg)
    attrs = dict(array.attrs)
    attrs.pop("_FillValue", None)
    stored = getattr(array.metadata, "dimension_names", None)
    dims: Any = attrs.pop("_ARRAY_DIMENSIONS", stored)
    prefix = array.basename.rpartition("block_")[0]
    ours = (
        tuple(dims) == EARLIER_DIMS
        if earlier
        else all(str(dim).startswith(f"{prefix}block_") for dim in dims)
    )
    if not ours:
        msg = f"{address}: {array.path} has the dimensions {dims}; expected blocks"
        raise StoreError(msg)
    # Otherwise xarray imports dask.array to see whether it is a Dask array.
    return xr.Variable(dims, array[...], attrs, fastpath=True)


def _parsed(address: str, key: str, text: Any) -> dict[str, Any]:
    """Return the object that an attribute holds as JSON."""
    try:
        value = json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        value = text
    if not isinstance(value, dict):
        msg = f"{address}: the attribute {key} is {text!r}; expected an object as JSON"
        raise StoreError(msg)
    return value
