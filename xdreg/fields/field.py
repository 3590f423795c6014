"""Layout of the displacement field Dataset.

``displacement (component, [z], y, x)`` is float32 in physical units, on its own grid.
``block_…`` variables hold the diagnostics of the last deformable stage,
``stage_blocks`` those of the others. A field maps fixed points onto moving ones and
is interpolated linearly.
"""

from __future__ import annotations

import json

import numpy as np
import xarray as xr

from xdreg.coordinates import grid_of
from xdreg.errors import InputError, StoreError
from xdreg.grid import Grid, check_real

COMPONENT = "component"


def is_field(dataset: object) -> bool:
    """Return whether a Dataset is laid out as a displacement field."""
    return (
        isinstance(dataset, xr.Dataset)
        and "displacement" in dataset
        and COMPONENT in dataset["displacement"].dims
    )


def field_grid(field: xr.Dataset) -> Grid:
    """Return the geometry of a field's own grid, or raise if it is no field."""
    if not is_field(field):
        msg = (
            "a field is a Dataset with a variable 'displacement' that has a dimension "
            f"'component', got {_outline(field)}; "
            "fields come from register, xdreg.open_field or xdreg.from_itk_transform"
        )
        raise InputError(msg)
    displacement = field["displacement"]
    check_real(displacement.dtype, "the displacement")
    sizes = {d: n for d, n in displacement.sizes.items() if d != COMPONENT}
    # Without the values: even to index a lazy array takes long if it has many chunks.
    places = displacement.coords.to_dataset().drop_vars(COMPONENT, errors="ignore")
    values = np.broadcast_to(np.float32(0), tuple(sizes.values()))
    # The fast path: otherwise xarray imports dask.array.
    stand_in = xr.Variable(tuple(sizes), values, fastpath=True)
    return grid_of(places.assign(values=stand_in)["values"], "field")


def _outline(value: object) -> str:
    """Describe a value for an error message."""
    if isinstance(value, xr.Dataset):
        return f"one with the variables {list(value.data_vars)}"
    return type(value).__name__


def fixed_grid(field: xr.Dataset) -> Grid:
    """Return the geometry of a field's fixed image."""
    own = field_grid(field)
    return _stored_grid(field, "fixed_grid") or own


def moving_grid(field: xr.Dataset) -> Grid | None:
    """Return the geometry of a field's moving image, if known."""
    return _stored_grid(field, "moving_grid")


def facing(field: xr.Dataset) -> Grid:
    """Return a grid with the direction that a field leads to: its moving image's."""
    own = field_grid(field)
    return moving_grid(field) or own


def _stored_grid(field: xr.Dataset, name: str) -> Grid | None:
    """Return the geometry of an image from an attribute, which may hold anything."""
    stored = field.attrs.get(name)
    if stored is None:
        return None
    try:
        return Grid.from_dict(json.loads(stored))
    except (
        LookupError,
        TypeError,
        ArithmeticError,
        ValueError,
        RecursionError,
    ) as error:
        msg = (
            f"the field's attribute {name!r} is damaged, expected a grid as JSON: "
            f"{str(stored)[:80]!r}; remove it with field.attrs.pop({name!r})"
        )
        raise StoreError(msg) from error
