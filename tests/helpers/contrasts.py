"""A phantom pair, and other contrasts of its moving image."""

import numpy as np
import xarray as xr

import xdreg

PAIR = xdreg.datasets.phantom_pair((200, 240), amplitude=5.0)
FIXED, MOVING = (v.astype("float32").load() for v in (PAIR.fixed, PAIR.moving))
UNIT = (MOVING / MOVING.max()).values


def like(values):
    return xr.DataArray(values.astype(np.float32), MOVING.coords, MOVING.dims)


def classes(order):
    """Give the moving image's classes of intensity other values, in an odd order."""
    edges = np.quantile(UNIT[UNIT > 0.05], np.linspace(0, 1, len(order) + 1)[1:-1])
    return np.asarray(order)[np.digitize(UNIT, edges)] / len(order)
