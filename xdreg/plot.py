"""Plots of a pair, a field and its blocks (matplotlib).

Every function draws one plane, in physical axes. Those that take ``ax`` draw into given
axes and return them; `before_after` and `overview` return a figure.
"""

from xdreg.views.plot import before_after, compare, overview
from xdreg.views.plot_blocks import block_map
from xdreg.views.plot_field import deformed_grid, jacobian, magnitude, quiver

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


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
