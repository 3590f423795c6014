"""Plots of a pair, a field and its blocks; the functions live in `xdreg.views.plot`."""

from xdreg.views.plot import (
    before_after,
    block_map,
    compare,
    deformed_grid,
    jacobian,
    magnitude,
    overview,
    quiver,
)

__all__ = [
    "before_after",
    "block_map",
    "compare",
    "deformed_grid",
    "jacobian",
    "magnitude",
    "overview",
    "quiver",
]
