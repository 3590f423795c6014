"""Fields of time series in Zarr stores: saving and opening.

A store has one array per variable, since OME-Zarr has no displacements along time::

    zarr.json               names the arrays
    xdreg/displacement      (t, component, [z], y, x) float32
    xdreg/matrix, …         (t, …)
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

import dask.array
import numpy as np
import xarray as xr
import zarr

from xdreg.errors import InputError, StoreError, XdregError
from xdreg.fields.displacement import (
    FIELD_CHUNK,
    displacement_array,
    ordered_displacement,
)
from xdreg.fields.field import COMPONENT, field_grid
from xdreg.grid import Grid
from xdreg.stores.apart import check_apart
from xdreg.stores.named_files import absolute
from xdreg.stores.nodes import open_array
from xdreg.stores.ome_zarr import lazy_zarr
from xdreg.stores.outputs import new_store
from xdreg.stores.ownership import SERIES
from xdreg.stores.progress import working

#: Group of the arrays.
GROUP = "xdreg"

#: Variables next to the displacement, and their dims.
VARIABLES: Mapping[str, tuple[str, ...]] = {
    "matrix": ("t", "row", "column"),
    "score": ("t",),
    "status": ("t",),
    "t": ("t",),
}

#: Most values in a chunk of small frames.
_TOGETHER = 2**20


def is_series(field: xr.Dataset) -> bool:
    """Return whether a field has an axis of time."""
    return "t" in field["displacement"].dims


def save_series(
    field: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    overwrite: bool,
    storage_options: Mapping[str, Any] | None,
    progress: bool,
) -> None:
    """Write the field of a time series; parameters are those of `save_field`."""
    grid, count = field_grid(field.isel(t=0)), field.sizes["t"]
    frames = [ordered_displacement(field.isel(t=n), grid).data for n in range(count)]
    values = dask.array.stack([dask.array.asarray(frame) for frame in frames])
    values = values.astype(np.float32)
    most = FIELD_CHUNK[grid.ndim]
    inner = (grid.ndim, *(min(n, most) for n in grid.shape))
    together = min(max(_TOGETHER // math.prod(inner), 1), count)
    dims = {"displacement": ("t", COMPONENT, *grid.dims)}
    dims |= {name: own for name, own in VARIABLES.items() if name in field.variables}
    check_apart(path, field)
    with (
        working("writing", enabled=progress),
        new_store(path, overwrite=overwrite, storage_options=storage_options) as output,
    ):
        root = zarr.open_group(output.folder, mode="w", zarr_format=3)
        root.attrs[SERIES] = list(dims)
        group = root.create_group(GROUP)
        group.attrs.update({**field.attrs, "field_grid": json.dumps(grid.to_dict())})
        for name, own in dims.items():
            variable = field[name].variable
            attrs: Any = {
                "attrs": json.dumps(variable.attrs),
                "dtype": str(variable.dtype),
            }
            stored = values
            if name != "displacement":
                stored = np.asarray(variable.values)
                stored = stored.view(np.int64) if stored.dtype.kind in "mM" else stored
            array = group.create_array(
                name,
                shape=stored.shape,
                dtype=stored.dtype,
                chunks=(together, *inner) if stored is values else stored.shape,
                dimension_names=own,
                attributes=attrs,
            )
            if stored is not values:
                array[...] = stored
        target: Any = output.array(f"{GROUP}/displacement")
        dask.array.store(values.rechunk(target.chunks), target, lock=False)


def open_series(address: str, group: zarr.Group) -> xr.Dataset:
    """Return the field of a time series, lazily.

    Raises
    ------
    StoreError
        If the store is damaged.
    """
    try:
        return _opened(address, group)
    except XdregError:
        raise
    # What documents hold that were changed may raise anything.
    except Exception as error:
        msg = f"{address} is the field of a time series, but damaged: {error!r}"
        raise StoreError(msg) from error


def _opened(address: str, group: zarr.Group) -> xr.Dataset:
    named: Any = group.attrs[SERIES]
    arrays = {
        name: open_array(address, group, f"{GROUP}/{name}")
        for name in ("displacement", *VARIABLES)
        if name == "displacement" or name in named
    }
    attrs = dict(group[GROUP].attrs)
    grid = Grid.from_dict(json.loads(str(attrs.pop("field_grid"))))
    displacement = arrays.pop("displacement")
    count = displacement.shape[0]
    shapes = {"displacement": (count, grid.ndim, *grid.shape)}
    shapes |= dict.fromkeys(("score", "status", "t"), (count,))
    shapes |= {"matrix": (count, grid.ndim + 1, grid.ndim + 1)}
    for name, array in {"displacement": displacement, **arrays}.items():
        if array.shape != shapes[name]:
            msg = f"{address}: {name} has the shape {array.shape}, not {shapes[name]}"
            raise StoreError(msg)
    values = lazy_zarr(displacement)
    one = displacement_array(values[0], grid)
    found = {
        "displacement": xr.Variable(("t", *one.dims), values, _attrs(displacement))
    }
    for name, array in arrays.items():
        dtype = np.dtype(str(array.attrs["dtype"]))
        own = np.asarray(array[...])
        if dtype != array.dtype and dtype.kind not in "mM":
            msg = f"{address}: {name} is {array.dtype}, and says {dtype} of itself"
            raise StoreError(msg)
        own = own.view(dtype)
        found[name] = xr.Variable(VARIABLES[name], own, _attrs(array))
    times = {"t": found.pop("t")} if "t" in found else {}
    result = xr.Dataset(found, coords=one.coords, attrs=attrs).assign_coords(times)
    result.encoding["source"] = absolute(address)
    return result


def _attrs(array: zarr.Array[Any]) -> dict[str, Any]:
    return dict(json.loads(str(array.attrs["attrs"])))


def check_plain(**given: Any) -> None:
    """Raise if options are given that a field of a time series does not take."""
    for name, value in given.items():
        if value is not None and value is not False:
            msg = (
                f"{name} is for the field of a pair, and this is of a time series; "
                "choose one frame, for example field.isel(t=0)"
            )
            raise InputError(msg)
